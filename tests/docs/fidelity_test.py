"""docs/fidelity.md: the keys it names exist, and its counts are right."""

import pathlib
import re

from alexnet_jax.model import network as networks
from alexnet_jax.model.shapes import layer_counts
from alexnet_jax.runtime import config

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "fidelity.md").read_text()
ROWS = [
  [cell.strip() for cell in line.strip("| ").split(" | ")]
  for line in TEXT.splitlines()
  if line.startswith("|") and not line.startswith("|---")
]
LEDGER = [row for row in ROWS if len(row) == 7 and row[0] != "detail"]
CONFIGURATIONS = {
  row[0].strip("`"): row[2:] for row in ROWS if row[0].startswith("`configs/")
}


def load(path):
  return config.load(str(ROOT / path))


def test_the_ledger_is_read():
  assert len(LEDGER) > 35
  assert all(all(row) for row in LEDGER)


def test_every_key_exists():
  keys = {key for key, _ in config.flatten(load("configs/paper.py").to_dict())}
  named = set()
  for row in LEDGER:
    named |= set(re.findall(r"`([a-z0-9_.]+)`", row[5]))
  assert len(named) > 50
  assert named - keys <= {"then", "alexnet_jax.evaluate", "alexnet_jax.prepare"}


def test_every_configuration_is_listed_with_its_counts():
  paths = {
    f"configs/{path.name}" for path in (ROOT / "configs").glob("[a-z]*.py")
  }
  assert set(CONFIGURATIONS) == paths
  for path, counts in CONFIGURATIONS.items():
    values = load(path)
    network = networks.from_dict(values.network.to_dict(), values.num_classes)
    totals = layer_counts(network)["totals"]
    expected = [f"{totals['parameters']:,}", f"{totals['macs']:,}"]
    assert counts == expected, path


def test_the_quotients_of_the_text():
  def totals(name):
    values = load(f"configs/{name}.py")
    network = networks.from_dict(values.network.to_dict(), values.num_classes)
    return layer_counts(network)["totals"]

  lenet, paper, textbook = map(totals, ("lenet5", "paper", "d2l"))
  parameters = paper["parameters"] / lenet["parameters"]
  macs = paper["macs"] / lenet["macs"]
  assert f"{parameters:.0f} times LeNet-5's parameters" in TEXT
  assert f"{macs:,.0f} times its multiply-adds" in TEXT
  assert (
    f"{textbook['parameters'] / lenet['parameters']:.0f} times the parameters"
    in TEXT
  )
