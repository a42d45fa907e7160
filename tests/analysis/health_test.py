"""Checks of runs, from invented metrics of healthy and of ill trainings."""

import math

import pytest

from alexnet_jax.analysis import health
from alexnet_jax.analysis.health import BAD, GOOD, UNKNOWN, WATCH


def train_line(epoch, **changes):
  """A training line of a healthy run with ten classes."""
  line = {"split": "train", "step": int(100 * epoch), "epoch": epoch}
  line |= {"learning_rate": 0.01, "loss": 0.5, "top1_error": 0.2}
  line |= {"images_per_second": 100.0, "data_wait_fraction": 0.02}
  line |= {"dead_conv1": 0.0, "dead_fc6": 0.1}
  line |= {"update_ratio_conv1": 2e-3, "update_ratio_fc6": 4e-4}
  return line | changes


def evaluation(epoch, error, **changes):
  line = {"split": "validation", "step": int(100 * epoch), "epoch": epoch}
  return line | {"top1_error": error, "loss": 1, "num_examples": 1000} | changes


HEALTHY = [
  *(train_line(epoch / 2) for epoch in range(1, 5)),
  *(evaluation(1, 0.3), evaluation(2, 0.22)),
]


def verdicts(lines):
  return {check.name: check.verdict for check in health.checks(lines, 10)}


def test_a_healthy_run_passes_all_checks():
  assert set(verdicts(HEALTHY).values()) == {GOOD}
  found = health.checks(HEALTHY, 10)
  assert not any(check.advice for check in found)
  assert health.verdict(found) == "good (6 of 6 checks pass)"


@pytest.mark.parametrize(
  "name, verdict, changes",
  [
    ("Finite numbers", BAD, {"loss": None}),
    ("Learning", WATCH, {"loss": math.log(10) - 0.01}),
    ("Learning", BAD, {"loss": 4.0}),
    ("Dead units", WATCH, {"dead_fc6": 0.6}),
    ("Dead units", BAD, {"dead_fc6": 1.0}),
    ("Size of updates", BAD, {"update_ratio_fc6": 0.5}),
    ("Size of updates", WATCH, {"update_ratio_conv1": 1e-8}),
    ("Overfitting", WATCH, {"top1_error": 0.01}),
    ("Input pipeline", WATCH, {"data_wait_fraction": 0.4}),
    ("Skipped images", WATCH, {"undecodable": 2}),
  ],
)
def test_each_illness_is_found_and_alone(name, verdict, changes):
  lines = [
    line | changes if line["split"] == "train" else line for line in HEALTHY
  ]
  found = health.checks(lines, 10)
  ill = [check for check in found if check.verdict in (WATCH, BAD)]
  assert [(check.name, check.verdict) for check in ill] == [(name, verdict)]
  assert ill[0].advice
  word = "problem" if verdict == BAD else "needs a look"
  assert health.verdict(found) == f"{word} ({name.lower()})"


def test_a_rise_of_the_validation_error_counts_beyond_chance_only():
  """Of 1,000 images 22% have an interval of 19.5 to 24.7%."""
  small = [*HEALTHY, evaluation(3, 0.245)]
  assert verdicts(small)["Overfitting"] == GOOD
  assert verdicts([*HEALTHY, evaluation(3, 0.28)])["Overfitting"] == WATCH


def test_a_loss_that_rises_above_guessing_after_it_had_fallen_is_a_spike():
  spike = train_line(0.75, loss=6.5)
  lines = [train_line(0.5), spike, *HEALTHY[2:]]
  check = next(x for x in health.checks(lines, 10) if x.name == "Learning")
  assert check.verdict == WATCH and "rose to 6.50 at epoch 0.8" in check.text
  # A loss above guessing at the very start is usual.
  assert verdicts([train_line(0.01, loss=6.5), *HEALTHY])["Learning"] == GOOD


def test_small_updates_at_a_fallen_learning_rate_are_no_vanishing():
  fallen = {"learning_rate": 1e-5, "update_ratio_conv1": 1e-8}
  lines = [*HEALTHY, train_line(2.5, **fallen)]
  assert verdicts(lines)["Size of updates"] == GOOD


def test_what_is_not_logged_is_unknown():
  assert set(verdicts([]).values()) == {UNKNOWN}
  keys = ("split", "step", "epoch", "loss", "top1_error", "learning_rate")
  bare = [{key: train_line(1)[key] for key in keys}]
  assert verdicts(bare) == {
    "Finite numbers": GOOD,
    "Learning": GOOD,
    "Dead units": UNKNOWN,
    "Size of updates": UNKNOWN,
    "Overfitting": UNKNOWN,
    "Input pipeline": UNKNOWN,
  }


def test_the_interval_is_wilsons():
  """(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) of 15 in 1,000."""
  low, high = health.interval(0.015, 1000)
  assert (low, high) == pytest.approx((0.00911, 0.02460), abs=2e-5)
