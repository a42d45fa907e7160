"""Every experiment with --quick, what they measure, and the generated page."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from alexnet_jax.analysis import claims, gallery
from alexnet_jax.data import images
from alexnet_jax.runtime.command import UserError
from experiments import (
  dropout,
  figure4,
  frame,
  plateau,
  readme,
  released_source,
  relu_tanh,
)
from experiments.outcome import Outcome

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXPERIMENTS = readme.all_experiments()
CORES = 2  # that a quick run has a minute of


def outcome(losses=(), errors=(), batch_size=10, classes=10, epoch=10):
  """An outcome as it stands in metrics.jsonl, an epoch of so many steps."""
  lines = [
    {
      "split": "train",
      "epoch": (i + 1) / epoch,
      "loss": loss,
      "top1_error": error,
    }
    for i, (loss, error) in enumerate(
      zip(losses or errors, errors or losses, strict=True)
    )
  ]
  config = {"batch_size": batch_size, "num_classes": classes}
  return Outcome("x", 0, "", config, lines)


def test_epochs_to_a_quarter():
  falling = outcome(errors=[0.9, 0.4, 0.3, 0.2, 0.1, 0.5])
  # Means of three: .53, .3, .2: the fifth step's is the first below a quarter.
  assert relu_tanh.epochs_to_bound(falling, window=3) == 0.5
  assert relu_tanh.epochs_to_bound(outcome(errors=[0.26] * 9), window=3) is None


def test_figure_1s_ratio_is_of_the_rates_that_the_trial_chose():
  def run(*errors):
    """Each error for an epoch of a hundred steps."""
    return [outcome(errors=np.repeat(errors, 100).tolist(), epoch=100)]

  runs = {
    "relu-0.001": run(0.8, 0.0),
    "relu-0.003": run(0.7, 0.7, 0.0),  # goes on, though not the first
    "tanh-0.001": run(0.8, 0.8, 0.8, 0.8, 0.8, 0.0),
    "tanh-0.003": run(0.9),  # left after the trial
  }
  result = relu_tanh.measure(runs)
  assert result["chosen"]["relu"]["learning_rate"] == 0.003
  assert result["chosen"]["tanh"]["learning_rate"] == 0.001
  # A mean of 39 is below a quarter with 13 of 0.7, 26 steps after the last but
  # 13; with 12 of 0.8, 27 steps after.
  ratio = (5 + 0.27) / (2 + 0.26)
  assert result["ratio_to_relu"]["tanh"] == pytest.approx(ratio)
  claim = relu_tanh.claims(result)["relu.speedup"]
  assert claim["value"] == result["ratio_to_relu"]["tanh"]
  runs["tanh-0.001"] = run(0.8, 0.8, 0.8)
  assert relu_tanh.claims(relu_tanh.measure(runs)) == {}


TINY = frame.QUICK | {
  "image_size": 32,
  "network.crop_size": 32,
  "network.width": 1.0,
  "total_steps": 8,
  "checkpoint_every_steps": 2,
}


def test_after_a_trial_the_chosen_run_goes_on_until_it_is_enough(tmp_path):
  """Eight steps are asked for; the chosen run has had enough after six."""
  experiment = frame.Experiment(
    name="trial",
    question="?",
    runs=[
      frame.Run(f"rate-{rate:g}", "configs/cifar_80sec.py", {
        **TINY, "schedule.learning_rate": rate
      })
      for rate in (0.0, 0.001)
    ],
    check=lambda outcomes, result: None,
    enough=lambda outcome: len(outcome.train("loss")) > 4,
    trial={"total_steps": 2},
    choose=lambda outcomes: ["rate-0.001"],
    measure=lambda outcomes: {
      name: [one.train("loss") for one in each]
      for name, each in outcomes.items()
    },
    words=lambda result: "",
  )  # fmt: skip
  found = frame.carry_out(experiment, str(tmp_path), extra={"data_dir": ""})
  losses = found["result"]
  assert [len(each[0]) for each in losses.values()] == [2, 6]
  assert found["command"] == "python -m experiments.trial --set=data_dir=DIR"
  # The trial was the beginning of the run, which is left alone from now on.
  assert losses["rate-0"][0] != losses["rate-0.001"][0][:2]
  again = frame.carry_out(
    experiment, str(tmp_path), record=str(tmp_path / "kept.json")
  )
  assert again["result"] == losses
  assert json.loads((tmp_path / "kept.json").read_text()) == again
  assert "<svg" in (tmp_path / "kept.svg").read_text()


def test_a_cut_schedule_keeps_the_shares_of_all_its_epochs():
  """Of 91 epochs a seventh: all comes after a seventh of its time."""
  (_, source) = released_source.EXPERIMENT.runs
  config = frame.configure(
    released_source.EXPERIMENT, source, "", 0, False, {"total_epochs": 13}
  )
  assert config.schedule.boundaries == pytest.approx((25 / 7, 51 / 7, 79 / 7))
  assert config.schedule.conv1_frozen_from == pytest.approx(72 / 7)
  assert config.augmentation.lighting_until == pytest.approx(67 / 7)


def test_images_to_leave_the_plateau():
  chance = math.log(10)
  losses = [chance] * 5 + [chance - 0.2] * 5
  # Of four steps' mean, two lowered ones are the first to be enough.
  assert plateau.images_to_leave(outcome(losses), window=4) == 70
  stays = outcome([chance - 0.04] * 9)
  assert plateau.images_to_leave(stays, window=4) is None


def test_what_dropout_costs():
  fast = [400.0 - 3 * i for i in range(1, 101)]
  slow = [400.0 - i for i in range(1, 101)]
  # Straight lines from one point: three times as many steps to any loss.
  assert dropout.iterations_ratio(fast, slow) == pytest.approx(3, abs=0.05)
  assert dropout.iterations_ratio(fast, [400.0] * 100) is None


def test_a_run_whose_last_hidden_layer_died_may_end():
  lines = [
    {"split": "train", "step": 20, "dead_fc7": 0.5, "dead_fc6": 1.0},
    {"split": "train", "step": 40},
    {"split": "train", "step": 60, "dead_fc7": 1.0},
  ]
  alive, dead = (
    Outcome("x", 0, "", {}, lines[:end]) for end in (2, len(lines))
  )
  assert dropout.dead_by(dead) == 60 and dropout.EXPERIMENT.enough(dead)
  assert dropout.dead_by(alive) is None
  assert not dropout.EXPERIMENT.enough(alive)


def test_the_numbers_of_figure_4():
  seen = gallery.Figure4(**dict.fromkeys(gallery.Figure4._fields))._replace(
    labels=np.array([0, 6]),
    # Of seven classes the last is the most probable.
    said=np.log(np.tile(np.arange(1, 8) / 28, (2, 1))),
    near_labels=np.array([[0, 0, 6, 1, 1, 1], [6, 6, 6, 6, 6, 0]]),
    counts=np.array([3, 1, 1, 1, 1, 1, 2]),
  )
  assert figure4.numbers(seen) == {
    "images": 2,
    "training_images": 10,
    "top1_hits": 1,
    "top5_hits": 1,
    "neighbours_of_the_class": pytest.approx(7 / 12),
    "by_chance": pytest.approx((0.3 + 0.2) / 2),
  }


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
  """Many runs are of the same programs: each is compiled once."""
  settings = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
    "jax_persistent_cache_min_compile_time_secs": 0.2,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # earlier tests made JAX decide against one
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_it_runs_quickly_and_its_check_holds(name, tmp_path):
  began = time.process_time()
  record = frame.carry_out(EXPERIMENTS[name], str(tmp_path), quick=True)
  # Of all threads, so that other work on the machine does not count.
  assert time.process_time() - began < 60 * CORES
  assert record["quick"] and not record["claims"] and record["in_words"]
  rows = (tmp_path / "runs.jsonl").read_text().splitlines()
  assert {json.loads(row)["run"] for row in rows} == set(record["epochs"])
  assert "<svg" in (tmp_path / "figure.svg").read_text()
  assert json.loads((tmp_path / "result.json").read_text()) == record


def test_a_check_can_fail(tmp_path):
  """Where the switch does nothing, the experiment does not pass."""
  broken = EXPERIMENTS["lighting"]._replace(
    runs=[
      frame.Run("paper", "configs/no_lighting.py"),
      frame.Run("no_lighting", "configs/no_lighting.py"),
    ],
    quick={"total_steps": 2},
  )
  with pytest.raises(AssertionError):
    frame.carry_out(broken, str(tmp_path), quick=True)


@pytest.mark.parametrize("key", ["netwrk.width", "widht", "batch_size.x"])
def test_a_key_that_is_not_there_is_a_sentence(key):
  experiment = EXPERIMENTS["ten_views"]
  (run,) = experiment.runs
  with pytest.raises(UserError, match=f"--set={key}=1: configs/paper.py has"):
    frame.configure(experiment, run, "x", 0, False, {key: 1})


def test_a_result_that_needs_a_run_left_out_is_refused(tmp_path):
  small = EXPERIMENTS["ten_views"]._replace(
    runs=[
      frame.Run("paper", "configs/paper.py"),
      frame.Run("other", "configs/no_lighting.py"),
    ],
    quick={"total_steps": 2},
  )
  with pytest.raises(UserError, match="leaves out 'paper', which the result"):
    frame.carry_out(small, str(tmp_path), quick=True, only=["other"])
  mistaken = small._replace(measure=lambda outcomes: {}["top9_error"])
  with pytest.raises(KeyError, match="top9_error"):
    frame.carry_out(mistaken, str(tmp_path), quick=True, only=["other"])


def test_warped_images_that_are_crops_are_seen(tmp_path, monkeypatch):
  monkeypatch.setattr(images, "warp", lambda image, side: image[:side, :side])
  small = EXPERIMENTS["rescaling"]
  small = small._replace(quick={**small.quick, "total_steps": 8})
  with pytest.raises(AssertionError) as caught:
    frame.carry_out(small, str(tmp_path), quick=True)
  assert "warped.max()" in str(caught.traceback[-1].statement)


def test_a_finished_experiment_trains_nothing_again(tmp_path):
  small = EXPERIMENTS["ten_views"]._replace(
    quick={"total_steps": 2}, check=lambda outcomes, result: None
  )
  first = frame.carry_out(small, str(tmp_path), quick=True)["result"]
  file = tmp_path / "paper-0" / "metrics.jsonl"
  before = file.stat().st_mtime_ns
  assert frame.carry_out(small, str(tmp_path), quick=True)["result"] == first
  assert file.stat().st_mtime_ns == before


def test_every_measured_experiment_of_the_paper_names_its_claims():
  known = {claim.key for claim in claims.CLAIMS}
  for name, record in readme.results().items():
    assert record.get("claims", {}).keys() <= known, name
    assert {"what", "hardware", "versions", "command", "commit"} <= set(record)


def test_a_figure_beside_its_record_is_linked(tmp_path, monkeypatch):
  monkeypatch.setattr(readme, "FOLDER", tmp_path)
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "x.svg").touch()
  assert readme._link("x.json").endswith(", [figure](results/x.svg)")
  assert "figure" not in readme._link("y.json")


def test_the_notebook_runs(tmp_path):
  """All its cells, in order, in one process, a few steps only."""
  notebook = json.loads((ROOT / "experiments" / "colab.ipynb").read_text())
  cells = [
    "".join(cell["source"])
    for cell in notebook["cells"]
    if cell["cell_type"] == "code"
  ]
  script = tmp_path / "cells.py"
  script.write_text("\n\n".join(cells))
  done = subprocess.run(
    [sys.executable, str(script)],
    cwd=ROOT,
    env=os.environ
    | {
      "MPLBACKEND": "Agg",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # they outlast three steps
      "STEPS": "3",
      "SEARCH": "64",
      "WORKDIR": str(tmp_path / "run"),
    },
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert "as declared: the towers meet at conv3, fc6, fc7, fc8" in done.stdout
  assert "missing" not in done.stdout
