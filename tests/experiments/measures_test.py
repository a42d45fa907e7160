"""What the experiments compute from outcomes, on outcomes made by hand."""

import math

import numpy as np
import pytest

from alexnet_jax.analysis import figures
from experiments import dropout, figure4, plateau, relu_tanh
from experiments.common.curves import images_to_leave_plateau, running_mean
from experiments.common.outcome import Outcome


def outcome(losses=(), errors=(), batch_size=10, classes=10, epoch=10):
  """An outcome with these training lines; `epoch` steps are one epoch."""
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


def test_epochs_to_25_percent_error():
  falling = outcome(errors=[0.9, 0.4, 0.3, 0.2, 0.1, 0.5])
  # Means of three: .53, .3, .2: that of the fifth step is the first below .25.
  assert relu_tanh.epochs_to_bound(falling, window=3) == 0.5
  assert relu_tanh.epochs_to_bound(outcome(errors=[0.26] * 9), window=3) is None


def test_the_ratio_of_figure_1_uses_the_rates_chosen_in_the_trial():
  def run(*errors):
    """Each error for an epoch of a hundred steps."""
    return [outcome(errors=np.repeat(errors, 100).tolist(), epoch=100)]

  runs = {
    "relu-0.001": run(0.8, 0.0),
    "relu-0.003": run(0.7, 0.7, 0.0),  # lower after the trial, crosses later
    "tanh-0.001": run(0.8, 0.8, 0.8, 0.8, 0.8, 0.0),
    "tanh-0.003": run(0.9),  # not continued
  }
  result = relu_tanh.measure(runs)
  assert result["chosen"]["relu"]["learning_rate"] == 0.003
  assert result["chosen"]["tanh"]["learning_rate"] == 0.001
  # A mean of 39 errors is first below .25 with 13 of 0.7 in it and 26 of 0, or
  # with 12 of 0.8 and 27 of 0.
  ratio = (5 + 0.27) / (2 + 0.26)
  assert result["ratio_to_relu"]["tanh"] == pytest.approx(ratio)
  claim = relu_tanh.claims(result)["relu.speedup"]
  assert claim["value"] == result["ratio_to_relu"]["tanh"]
  runs["tanh-0.001"] = run(0.8, 0.8, 0.8)
  assert relu_tanh.claims(relu_tanh.measure(runs)) == {}


def test_running_mean():
  assert running_mean([1.0, 2.0, 6.0, 4.0], 2) == [1.5, 4.0, 5.0]
  assert running_mean([1.0], 2) == []


def test_images_to_leave_the_plateau():
  chance = math.log(10)
  losses = [chance] * 5 + [chance - 0.2] * 5
  # Of four steps' mean, two lowered ones are the first to be enough.
  assert images_to_leave_plateau(losses, 10, 10, window=4) == 70
  stays = [chance - 0.04] * 9
  assert images_to_leave_plateau(stays, 10, 10, window=4) is None


def test_the_window_of_the_plateau_is_a_hundred_steps():
  chance = math.log(10)
  # 150 steps at chance, then .1 below: half of a window of 100 must be so.
  losses = [chance] * 150 + [chance - 0.1] * 100
  count = images_to_leave_plateau(losses, 64, 10)
  assert count in (200 * 64, 201 * 64)  # exactly at, or the first past, .05
  assert images_to_leave_plateau([chance] * 300, 64, 10) is None
  assert images_to_leave_plateau([0.0] * 99, 64, 10) is None


def test_a_run_is_counted_with_its_own_batch_size_and_classes():
  short = outcome([math.log(7) - 0.1] * 100, batch_size=3, classes=7)
  assert plateau.images_to_leave(short) == 300
  assert (
    plateau.images_to_leave(
      short._replace(config={"batch_size": 3, "num_classes": 6})
    )
    is None
  )


def test_iterations_ratio_of_dropout():
  fast = [400.0 - 3 * i for i in range(1, 101)]
  slow = [400.0 - i for i in range(1, 101)]
  # Two lines from one point, one three times as steep as the other.
  assert dropout.iterations_ratio(fast, slow) == pytest.approx(3, abs=0.05)
  assert dropout.iterations_ratio(fast, [400.0] * 100) is None


def test_a_run_ends_when_all_units_of_fc7_are_dead():
  lines = [
    {"split": "train", "step": 20, "dead_fc7": 0.5, "dead_fc6": 1.0},
    {"split": "train", "step": 40},
    {"split": "train", "step": 60, "dead_fc7": 1.0},
  ]
  alive, dead = (
    Outcome("x", 0, "", {}, lines[:end]) for end in (2, len(lines))
  )
  assert dropout.dead_by(dead) == 60 and dropout.EXPERIMENT.stop_early(dead)
  assert dropout.dead_by(alive) is None
  assert not dropout.EXPERIMENT.stop_early(alive)


def test_hits_of_figure_4():
  content = figures.Figure4(**dict.fromkeys(figures.Figure4._fields))._replace(
    labels=np.array([0, 6]),
    # Of seven classes the last is the most probable.
    log_probabilities=np.log(np.tile(np.arange(1, 8) / 28, (2, 1))),
    neighbour_labels=np.array([[0, 0, 6, 1, 1, 1], [6, 6, 6, 6, 6, 0]]),
    class_counts=np.array([3, 1, 1, 1, 1, 1, 2]),
  )
  assert figure4.count_hits(content) == {
    "images": 2,
    "training_images": 10,
    "top1_hits": 1,
    "top5_hits": 1,
    "neighbours_of_the_class": pytest.approx(7 / 12),
    "by_chance": pytest.approx((0.3 + 0.2) / 2),
  }
