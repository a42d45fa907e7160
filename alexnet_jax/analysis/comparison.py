"""Puts the numbers of the paper, the authors' log and this project together."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from alexnet_jax.analysis import claims
from alexnet_jax.analysis.claims import Claim
from alexnet_jax.model import network as networks
from alexnet_jax.model.shapes import layer_counts, shapes
from alexnet_jax.runtime import config as configs

NOT_RUN = "not run"


def sizes(config: Any) -> dict[str, float]:
  """The values of the claims `size.*` in a configuration, by key."""
  net = networks.from_dict(config.network.to_dict(), config.num_classes)
  counts = layer_counts(net)
  neurons = {"input": net.crop_size**2 * net.channels}
  kernels = {}
  for layer in counts["layers"]:
    name, shape = layer["name"], layer["output_shape"]
    neurons[name] = (1 if name == "fc8" else net.towers) * math.prod(shape)
    kernels[name] = net.towers * shape[-1]
  return {
    "size.parameters": counts["totals"]["parameters"],
    "size.neurons": sum(neurons.values()) - neurons["input"],
    **{f"size.neurons.{name}": count for name, count in neurons.items()},
    **{f"size.kernels.{name}": count for name, count in kernels.items()},
    "size.lrn_k": net.lrn_k,
    "size.lrn_n": net.lrn_n,
    "size.lrn_alpha": net.lrn_alpha,
    "size.lrn_beta": net.lrn_beta,
    "size.pool_stride": net.pool_stride,
    "size.pool_size": net.pool_size,
    "size.crops": (config.image_size - net.crop_size + 1) ** 2 * 2,
    "size.lighting": config.augmentation.lighting,
    "size.dropout_rate": net.dropout_rate,
    "size.batch_size": config.batch_size,
    "size.momentum": config.optimizer.momentum,
    "size.weight_decay": config.optimizer.weight_decay,
    "size.learning_rate": config.schedule.learning_rate,
    "size.drops": len(config.schedule.boundaries),
    "size.std": (net.conv3 or shapes(net)[0].layer).std,
    "size.epochs": config.total_epochs,
  }


class Ours(NamedTuple):
  """Our number for a claim (errors as fractions) and where it is from."""

  value: float
  source: str


def committed(folder: str = "experiments/results") -> dict[str, Ours]:
  """Our numbers from the committed results, by key of the claim.

  A result file lists the claims that it measures: `"claims": {KEY: {"value": x,
  "how": "differences from the paper's experiment"}}`.
  """
  found = {}
  for path in sorted(pathlib.Path(folder).glob("*.json")):
    record = json.loads(path.read_text())
    for key, claim in record.get("claims", {}).items():
      found[key] = Ours(claim["value"], f"{path.stem}: {claim['how']}")
  return found


def table(ours: Mapping[str, Ours]) -> list[dict[str, Any]]:
  """All claims in the order of the paper, as JSON.

  Args:
    ours: our numbers by key of the claim.

  Returns:
    One dict per claim: its fields without `net`, `logged` as six digits or
    None; `logged_as` (of a difference, both numbers), `source`, `ours` (errors
    as fractions) and `difference` (in points); "not run" for a missing number.
  """
  rows = []
  for claim in claims.CLAIMS:
    mine = ours.get(claim.key)
    row = claim._asdict() | {
      "logged": logged(claim),
      "logged_as": " - ".join(claim.logged),
      "ours": mine.value if mine else NOT_RUN,
      "difference": difference(claim, mine.value) if mine else NOT_RUN,
      "source": mine.source if mine else "",
    }
    del row["net"]
    rows.append(row)
  return rows


def logged(claim: Claim) -> str | None:
  """The authors' number with six digits; None if they logged none."""
  if not claim.logged:
    return None
  first, *rest = map(Decimal, claim.logged)
  return str(first - sum(rest, Decimal("0.000000")))


def difference(claim: Claim, ours: float) -> float:
  """Our number minus the paper's; for errors in percentage points."""
  scale = 100 if claim.unit in ("%", "points") else 1
  return round(scale * ours - float(claim.paper), 10)


def format_row(
  row: Mapping[str, Any], digits: int = 4
) -> tuple[str, str, str, str]:
  """The columns paper, logged, ours and difference of a row, for a table.

  Errors are in percent and their differences in points in every column, with
  `digits` after the point; with 4 the authors' numbers keep all of theirs.
  """
  unit, mine, delta = row["unit"], row["ours"], row["difference"]
  errors, paper = unit in ("%", "points"), row["paper"]
  if not errors and float(paper) >= 1000:
    paper = f"{int(paper):,}"
  suffix = "%" if unit == "%" else f" {unit}" if unit else ""
  logged = row["logged"] and f"{Decimal(row['logged']).scaleb(2):.{digits}f}"
  columns = paper + suffix, logged + suffix if logged else ""
  if mine == NOT_RUN:
    return *columns, NOT_RUN, ""
  if errors:
    delta = f"{delta:+.{min(digits, 2)}f} points"
    return *columns, f"{100 * mine:.{digits}f}{suffix}", delta
  mine = f"{mine:,.6g}" if mine < 1000 else f"{mine:,}"
  return *columns, mine, f"{delta:+,g}"


def is_in_the_paper(dataset: str) -> bool:
  """Whether the paper has results on a tfds dataset, prepared or not."""
  name = without_version(dataset)
  return name in {claim.net.dataset for claim in claims.CLAIMS if claim.net}


def without_version(dataset: str) -> str:
  """The name of a tfds dataset as the claims have it, prepared or not."""
  return dataset.split("/")[0].split(":")[0].removesuffix("_256")


def name_of(run: Mapping[str, Any], known: Iterable[str]) -> str:
  """The name of the configuration file that a run was trained with.

  Configurations count as equal if their network, augmentation and optimiser
  are; data, duration and learning rates may differ. Of several equal ones, the
  name is that of the one whose schedule has the most equal keys.

  Args:
    run: the run's configuration, as in config.json.
    known: configuration files to compare with.

  Returns:
    The file's name without ".py"; "" if none is equal.
  """
  equal_keys = {}
  for path in known:
    other = configs.to_json(configs.load(path))
    groups = ("network", "augmentation", "optimizer")
    same = (run["schedule"].get(k) == v for k, v in other["schedule"].items())
    if all(run[key] == other[key] for key in groups):
      equal_keys[pathlib.Path(path).stem] = sum(same)
  return max(equal_keys, key=equal_keys.get, default="")
