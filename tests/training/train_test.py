"""The real command line, on images that the tests write themselves."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from sample_data import write_tiny

from alexnet_jax.model import network, sharding
from alexnet_jax.runtime import config as configs
from alexnet_jax.training import step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.train import train_and_evaluate

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = ("seconds", "images_per_second", "data_wait_fraction")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with a data set, a cache and the runs of these tests."""
  folder = tmp_path_factory.mktemp("train")
  write_tiny(folder)
  return folder


def alexnet(place, module, *arguments):
  """Runs a command as a user would; returns the finished process."""
  return subprocess.run(
    [sys.executable, "-m", f"alexnet_jax.{module}", *arguments],
    cwd=ROOT,
    env=os.environ | {"XDG_CACHE_HOME": str(place / "cache")},
    capture_output=True,
    text=True,
    timeout=300,
  )


def train(place, workdir, *overrides):
  """Trains a very small network: 1/32 of the width, 64 pixels."""
  return alexnet(
    place,
    "main",
    "--config=configs/quickstart.py",
    f"--workdir={place / workdir}",
    "--config.dataset=tiny",
    f"--config.data_dir={place}",
    "--config.num_classes=3",
    "--config.batch_size=8",
    "--config.image_size=72",
    "--config.network.crop_size=64",
    "--config.network.width=0.03125",
    "--config.log_every_steps=1",
    *overrides,
  )


def lines(place, workdir):
  """metrics.jsonl without what depends on the clock."""
  text = (place / workdir / "metrics.jsonl").read_text()
  return [
    {key: value for key, value in json.loads(line).items() if key not in TIMES}
    for line in text.splitlines()
  ]


def arrays(place, workdir, mesh_shape=(1, 2)):
  """Everything the newest checkpoint holds, as NumPy."""
  config = json.loads((place / workdir / "config.json").read_text())
  net = network.from_dict(config["network"], config["num_classes"])
  mesh = sharding.make_mesh(*mesh_shape)
  abstract = step.abstract_state(net, momentum_sgd(), mesh)
  checkpoints = Checkpoints(str(place / workdir / "checkpoints"))
  values, _ = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  return jax.device_get(values)


@pytest.fixture(scope="module")
def whole(place):
  """Ten steps of eight images: two epochs of forty, in one go."""
  result = train(place, "whole", "--config.total_steps=10")
  assert result.returncode == 0, result.stderr
  return result


def test_a_run_writes_what_the_design_promises(place, whole):
  assert "ln(3) = 1.099" in whole.stdout
  assert "data:1 x model:2 on 2 cpu devices" in whole.stdout
  written = lines(place, "whole")
  training = [line for line in written if line["split"] == "train"]
  assert [line["step"] for line in training] == list(range(1, 11))
  assert training[0]["learning_rate"] == 0.01
  validation = [line for line in written if line["split"] == "validation"]
  assert [line["epoch"] for line in validation] == [1, 2]
  for line in validation:
    assert line["num_examples"] == 10  # of batches of 8: none twice
    assert line["views"] == 1
    assert line["top5_error"] == 0  # of three classes
    assert line["top1_error"] * 10 == pytest.approx(
      round(line["top1_error"] * 10), abs=1e-5
    )
  names = {path.name.split(".")[0] for path in (place / "whole").iterdir()}
  assert {"config", "metrics", "checkpoints", "events"} <= names


def test_stopped_and_resumed_it_is_the_same_run_bit_for_bit(place, whole):
  for steps in (3, 7, 10):
    result = train(place, "parts", f"--config.total_steps={steps}")
    assert result.returncode == 0, result.stderr
  for (path, one), (_, other) in zip(
    jax.tree.leaves_with_path(arrays(place, "whole")),
    jax.tree.leaves_with_path(arrays(place, "parts")),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other, err_msg=str(path))
  # The parts also evaluated where they ended; all else is the same.
  ends = [
    line
    for line in lines(place, "parts")
    if not (line["split"] == "validation" and line["step"] in (3, 7))
  ]
  assert ends == lines(place, "whole")


@pytest.mark.slow
def test_the_cosine_of_an_extended_run_is_that_of_its_new_length(place):
  cosine = (
    "--config.schedule.name=cosine",
    "--config.schedule.warmup_epochs=.4",
  )
  result = train(place, "cosine", "--config.total_steps=4", *cosine)
  assert result.returncode == 0, result.stderr
  result = train(place, "cosine", "--config.total_steps=6", *cosine)
  assert "at epoch 0.8: it was 0 and is now 0.005" in result.stdout
  rates = [
    line["learning_rate"]
    for line in lines(place, "cosine")
    if line["split"] == "train"
  ]
  # Five steps an epoch, two of warm-up; then (1 + cos(x)) / 200 with x = 0 and
  # pi / 2 of two steps, and x = pi / 2 and 3 pi / 4 of four.
  expected = [0.0, 0.005, 0.01, 0.005, 0.005, 0.00146447]
  assert rates == pytest.approx(expected, rel=1e-5)


def test_one_device_with_both_towers_trains_the_same_network(place, whole):
  result = train(
    place,
    "one_device",
    "--config.total_steps=10",
    "--config.mesh.model=1",
    "--config.mesh.data=1",
  )
  assert result.returncode == 0, result.stderr
  assert "data:1 x model:1 on 1 cpu device;" in result.stdout
  for (path, one), (_, other) in zip(
    jax.tree.leaves_with_path(arrays(place, "whole")),
    jax.tree.leaves_with_path(arrays(place, "one_device", (1, 1))),
    strict=True,
  ):
    scale = np.abs(one).max() + 1e-12
    assert np.abs(one - other).max() <= 2e-5 * scale, path


def test_a_finished_run_prints_its_table_and_writes_nothing(place, whole):
  folder = place / "whole"
  before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
  result = train(place, "whole", "--config.total_steps=10")
  assert result.returncode == 0, result.stderr
  assert "validation top-1" in result.stdout
  after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
  assert after == before


@pytest.mark.parametrize(
  "overrides, message",
  [
    (["--config.seed=7"], r"seed (was 0, now 7)"),
    (["--config.batchsize=3"], "'batch_size'"),
    (["--config.batch_size=9", "--config.mesh.data=2"], "batch_size=9"),
    (["--config.mesh.data=5", "--config.mesh.model=2"], "needs 10 devices"),
    (["--config.network.within_map_n=3"], "no layer is followed by 'within"),
    (["--config.checkpoints_to_keep=0"], "keep 1 or more"),
    (["--config.num_classes=4"], "--config.num_classes=3"),
    (["--config.dataset=nothing"], "alexnet_jax.prepare"),
    (["--config.schedule.name=sine"], "plateau"),
    (["--config.network.conv1.then=('gelu',)"], "relu"),
    (["--config.network.crop_size=30"], "too small"),
    (["--config.network.exchanges=('conv5', 'fc8')"], "'conv5'"),
  ],
)
def test_a_mistake_is_one_paragraph_and_touches_nothing(
  place, whole, overrides, message
):
  folder = place / "whole"
  fresh = "seed" not in overrides[0]
  before = sorted(folder.rglob("*"))
  result = train(
    place, "mistaken" if fresh else "whole", "--config.total_steps=10",
    *overrides,
  )  # fmt: skip
  assert result.returncode == 2, result.stderr
  assert message in result.stderr
  assert "Traceback" not in result.stderr
  assert not (place / "mistaken" / "config.json").exists()
  assert sorted(folder.rglob("*")) == before


def test_a_loss_that_is_not_finite_stops_the_run(place):
  """At the same step however seldom it is told; nothing later is saved."""
  said = []
  for every in (1, 100):
    result = train(
      place,
      f"exploding{every}",
      "--config.total_steps=20",
      "--config.schedule.learning_rate=1e6",
      f"--config.log_every_steps={every}",
    )
    assert result.returncode == 2
    assert "learning rate 1e+06" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((place / f"exploding{every}" / "checkpoints").iterdir())
    said.append(result.stderr.splitlines()[-1])
  assert said[0] == said[1]


def test_the_host_does_not_wait_between_two_steps(place, monkeypatch):
  """Not for a step before the next is sent, but where something is told."""
  events = []
  make, fetch = step.make_train_step, sharding.fetch

  def make_train_step(*arguments):
    compiled = make(*arguments)

    def train_step(*arguments):
      events.append("sent")
      return compiled(*arguments)

    return train_step

  def fetched(tree):
    if "finite" in tree:
      events.append("waited")
    return fetch(tree)

  monkeypatch.setattr(step, "make_train_step", make_train_step)
  monkeypatch.setattr(sharding, "fetch", fetched)
  monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
  config = configs.load(str(ROOT / "configs" / "quickstart.py"))
  changes = {
    "dataset": "tiny",
    "data_dir": str(place),
    "num_classes": 3,
    "batch_size": 8,
    "image_size": 72,
    "network.crop_size": 64,
    "network.width": 1 / 32,
    "log_every_steps": 3,
    "eval_every_epochs": 0,
    "total_steps": 7,
  }
  config.update_from_flattened_dict(changes)
  train_and_evaluate(config, str(place / "ahead"))
  # Told of: steps 1, 3, 6 and 7.
  told = ("sw", "ssww", "sswsww", "sw")
  assert "".join(event[0] for event in events) == "".join(told)


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_counts_every_example_and_repeats_training_s_figures(
  place, whole, views
):
  out = place / "evaluation.json"
  result = alexnet(
    place, "evaluate", f"--workdir={place / 'whole'}", f"--views={views}",
    f"--json={out}",
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  found = json.loads(out.read_text())
  assert found["num_examples"] == 10
  assert found["views"] == views
  if views == 1:
    last = lines(place, "whole")[-1]
    for name in ("loss", "top1_error", "top5_error"):
      assert found[name] == pytest.approx(last[name], rel=1e-6)
