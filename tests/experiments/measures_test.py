"""What the experiments compute from outcomes, on outcomes made by hand."""

import functools
import json
import math

import numpy as np
import pytest

from alexnet_jax.analysis import figures
from experiments import biases, depth, figure4, plateau, rates, relu_tanh
from experiments.common.curves import images_to_leave_plateau, running_mean
from experiments.common.outcome import Outcome, Outcomes


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


def evaluated(*errors, name="x", seed=0):
  """An outcome with these training errors in evaluation, one an epoch."""
  lines = [
    {
      "step": 79 * epoch,
      "split": "validation",
      "epoch": float(epoch),
      "top1_error": error,
    }
    for epoch, error in enumerate(errors, 1)
  ]
  return Outcome(name, seed, "", {"num_classes": 10}, lines)


def test_epochs_to_a_bound_are_interpolated():
  falling = evaluated(0.7, 0.5, 0.3, 0.2)
  assert relu_tanh.epochs_to(falling, 0.25) == pytest.approx(3.5)
  assert relu_tanh.epochs_to(falling, 0.4) == pytest.approx(2.5)
  assert relu_tanh.epochs_to(falling, 0.8) == pytest.approx(0.5)  # .9 at 0
  assert relu_tanh.epochs_to(falling, 0.1) is None


def test_the_ratio_of_figure_1_has_the_rates_that_seed_0_chose_at_the_bound():
  def runs(name, *curves):
    return [evaluated(*c, name=name, seed=s) for s, c in enumerate(curves)]

  slow = (0.9, 0.9, 0.9, 0.9, 0.1)  # 25% at epoch 4.8125
  outcomes = Outcomes(
    {
      # Lower after the first epoch, but later at 25%.
      "relu-source-0.001": runs("a", (0.5, 0.45, 0.4, 0.2)),
      "relu-source-0.002": runs("b", (0.9, 0.1), (0.9, 0.1), (0.9, 0.1)),
      "tanh-source-0.001": runs("c", (0.9, 0.5, 0.5, 0.5)),
      "tanh-source-0.002": runs("d", (0.9, 0.2), slow, slow),
    }
  )
  result = relu_tanh.measure(outcomes)
  assert result["chosen"]["relu-source"]["learning_rate"] == 0.002
  assert result["chosen"]["tanh-source"]["learning_rate"] == 0.002
  assert not result["chosen"]["tanh-source"]["at_an_edge"]
  # Seed 0 chose and does not count; .8125 of the way from .9 to .1.
  ratio = 4.8125 / 1.8125
  assert result["ratios"]["source"]["25%"] == pytest.approx(ratio)
  assert relu_tanh.claims(result)["relu.speedup"]["value"] == pytest.approx(
    ratio
  )
  arms = relu_tanh.by_arm(outcomes)
  assert [outcome.seed for outcome in arms["tanh-source"]] == [1, 2]
  logs = [relu_tanh.log_epochs(arm[0]) for arm in arms.values()]
  assert math.exp(logs[1] - logs[0]) == pytest.approx(ratio)
  edge = {"tanh-source-0.016": runs("e", (0.9, 0.1))}
  result = relu_tanh.measure(Outcomes(outcomes | edge))
  assert result["chosen"]["tanh-source"]["at_an_edge"]


def written(folder, name, *errors, seed=0):
  """A run whose metrics lie in `folder`, beside those of other rates."""
  outcome = evaluated(*errors, name=name, seed=seed)
  workdir = folder / f"{name}-{seed}"
  workdir.mkdir(exist_ok=True)
  lines = "".join(json.dumps(line) + "\n" for line in outcome.lines)
  (workdir / "metrics.jsonl").write_text(lines)
  return outcome._replace(workdir=str(workdir))


def test_a_rate_ends_when_another_has_reached_the_bound_no_later(tmp_path):
  def run(rate, *errors, seed=0):
    return written(tmp_path, f"tanh-source-{rate}", *errors, seed=seed)

  slow = run(0.001, 0.8, 0.7)
  assert not relu_tanh.is_decided(slow)
  run(0.002, 0.6, 0.4, 0.2)  # reaches 25% at epoch 2.75
  assert not relu_tanh.is_decided(slow)  # it may reach it at 2.5
  assert relu_tanh.is_decided(run(0.001, 0.8, 0.7, 0.6))
  assert relu_tanh.is_decided(run(0.002, 0.6, 0.4, 0.2))  # itself
  # Not by another unit; and other seeds end at the lowest bound.
  other = slow._replace(name="relu-source-0.001")
  assert not relu_tanh.is_decided(other)
  assert not relu_tanh.is_decided(run(0.002, 0.6, 0.4, 0.22, seed=1))
  assert relu_tanh.is_decided(run(0.002, 0.6, 0.4, 0.2, seed=1))


def test_a_rate_is_compared_with_those_of_its_start(tmp_path):
  run = functools.partial(written, tmp_path)
  run("tanh-glorot-0.064", 0.6, 0.2)  # a rate of Glorot's weights alone
  assert relu_tanh.is_decided(run("tanh-glorot-0.016", 0.8, 0.7))
  assert not relu_tanh.is_decided(run("tanh-source-0.016", 0.8, 0.7))
  edges = {
    name: [evaluated(0.9, 0.1, name=name, seed=0)]
    for name in ("tanh-glorot-0.016", "relu-glorot-0.064")
  }
  chosen = relu_tanh.measure(Outcomes(edges))["chosen"]
  assert not chosen["tanh-glorot"]["at_an_edge"]
  assert chosen["relu-glorot"]["at_an_edge"]


def test_the_best_rate_is_that_of_the_lowest_validation_loss():
  def run(rate, loss):
    lines = [
      {"split": "train", "loss": loss, "top1_error": 0.5},
      {
        "split": "validation",
        "loss": loss,
        "top1_error": 0.5,
        "top5_error": 0.1,
      },
    ]
    config = {"schedule": {"learning_rate": rate}, "num_classes": 10}
    return [Outcome("x", 0, "", config, lines)]

  tried = {0.005: 2.0, 0.01: 1.5, 0.02: 1.7}
  outcomes = Outcomes({str(r): run(r, loss) for r, loss in tried.items()})
  result = rates.measure(outcomes)
  assert result["best"] == 0.01 and not result["at_an_edge"]
  outcomes["0.005"] = run(0.005, 1.0)
  assert rates.measure(outcomes)["at_an_edge"]


def test_depth_chooses_each_rate_by_the_validation_error(monkeypatch):
  """And reports the test error there, which chose nothing."""
  test = {"source": 30.0, "no_conv3": 35.0, "no_conv3-rate2": 34.0}
  monkeypatch.setattr(
    depth, "error_on_test_images", lambda o: test[o.name] + o.seed
  )

  def runs(name, validation):
    return [evaluated(validation, name=name, seed=seed) for seed in range(3)]

  outcomes = Outcomes(
    {
      "source": runs("source", 0.3),
      "no_conv3": runs("no_conv3", 0.35),
      "no_conv3-rate2": runs("no_conv3-rate2", 0.32),
    }
  )
  result = depth.tuned(outcomes)
  assert list(result) == ["no_conv3"]
  assert result["no_conv3"]["rate"] == 2.0
  assert result["no_conv3"]["difference"]["mean"] == pytest.approx(4.0)


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


def test_the_early_loss_is_that_of_the_first_tenth():
  assert biases.early_loss(outcome([3.0, 2.0] + [1.0] * 18)) == 2.5


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
