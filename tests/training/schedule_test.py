"""Schedules against tables of rates and formulas in float64."""

import dataclasses

import numpy as np
import pytest

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.schedule import Piecewise, Plateau, make_schedule


@pytest.mark.parametrize(
  "epoch, rate",
  [(0, 0.01), (24.99, 0.01), (25, 1e-3), (50, 1e-3), (51, 1e-4), (80, 1e-5)],
)
def test_piecewise_follows_the_log_of_the_recorded_run(epoch, rate):
  assert Piecewise().rate(epoch) == pytest.approx(rate, rel=1e-12)


def test_plateau_divides_three_times_and_no_more():
  schedule = Plateau(learning_rate=0.01, patience=2, drops=3)
  rates = []
  for error in [0.9, 0.8, 0.81, 0.8, 0.7, 0.7, 0.7, 0.71, 0.72, *[0.7] * 9]:
    schedule.observe(error)
    rates.append(schedule.rate(0))
  # 0.81 and 0.8 are no new best: first drop; 0.7 is; then every two.
  expected = [2, 2, 2, 3, 3, 3, 4, 4, 5] + [5] * 9
  assert rates == pytest.approx([10.0**-exponent for exponent in expected])


# (epoch, weights, biases, conv1's weights, conv1's biases): notes kept with
# the layer files of net #145 and, for dexp, of #170 (95 epochs, F = 250).
RECORDED = {
  "log145_2012": [
    (24.9, 1e-2, 0.02, 1e-2, 0.02),
    (25, 1e-3, 0.02, 1e-3, 0.02),
    (51, 1e-4, 0.02, 1e-4, 0.02),
    (67, 1e-4, 0.02, 1e-5, 0.02),
    (72, 1e-4, 0.02, 0, 0),
    (79, 1e-5, 0.02, 0, 0),
    (90, 1e-5, 0.02, 0, 0),
  ],
  "log145_2010": [
    (22.9, 1e-2, 0.02, 1e-2, 0.02),
    (23, 1e-3, 0.002, 1e-3, 0.002),
    (51, 1e-4, 0.002, 1e-4, 0.002),
    (68, 1e-4, 0.002, 1e-5, 0.002),
    (72, 1e-4, 0.002, 0, 0),
    (78, 1e-5, 0.002, 0, 0),
  ],
  "dexp": [
    (23.7, 0.01, 0.02, 0.01, 0.02),
    (23.8, 0.0015874, 0.02, 0.0015874, 0.02),
    (47.4, 0.0015874, 0.02, 0.0015874, 0.02),
    (47.6, 0.00025198, 0.002, 0.00025198, 0.002),
    (71.3, 0.00004, 0.002, 0.00004, 0.002),
    (74, 0.00004, 0.002, 0, 0),
  ],
}


def _schedule(name, **changes):
  options = {
    "boundaries": (25.0, 51.0, 79.0),
    "patience": 3,
    "drops": 3,
    "total_epochs": 95,
  }
  return make_schedule(name=name, **options, **changes)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_schedules(name):
  schedule = _schedule(
    name,
    bias_learning_rate=0.02,
    bias_drops="never" if name == "log145_2012" else "once",
    conv1_frozen_from=74.0 if name == "dexp" else 72.0,
  )
  for epoch, *rates in RECORDED[name]:
    np.testing.assert_allclose(schedule.rates(epoch), rates, rtol=1e-4)


@pytest.mark.parametrize("name", ["piecewise", "plateau", *RECORDED])
def test_by_default_all_rates_are_equal_until_the_logs_lower_conv1(name):
  for epoch in (0, 26, 52, 60):
    rates = _schedule(name).rates(epoch)
    assert len(set(map(float, rates))) == 1


def test_biases_can_follow_the_plateau_once():
  schedule = _schedule("plateau", bias_learning_rate=0.02, bias_drops="once")
  for drops in range(4):
    expected = [0.01 / 10**drops, 0.002 if drops else 0.02]
    np.testing.assert_allclose(schedule.rates(0)[:2], expected, rtol=1e-6)
    for error in (0.5, 0.5, 0.5) if drops else (0.5, 0.5, 0.5, 0.5):
      schedule.observe(error)


def test_mistakes_are_refused_by_name():
  with pytest.raises(UserError, match=r"'sine'.*piecewise.*plateau"):
    _schedule("sine")
  with pytest.raises(UserError, match=r"bias_drops.*'twice'"):
    _schedule("dexp", bias_drops="twice")
  with pytest.raises(UserError, match=r"schedule\.speed"):
    _schedule("dexp", speed=3)


def test_a_resumed_schedule_keeps_what_it_saw_and_nothing_else():
  before = Plateau(learning_rate=0.01, patience=2, drops=3)
  for error in [0.5, 0.6, 0.6, 0.6]:
    before.observe(error)
  after = Plateau(learning_rate=0.02, patience=7, drops=1)
  after = after.resumed(dataclasses.asdict(before))
  assert (after.best_error, after.waited, after.dropped) == (0.5, 1, 1)
  assert (after.learning_rate, after.patience, after.drops) == (0.02, 7, 1)
  boundaries = Piecewise(boundaries=(9.0,)).resumed(
    dataclasses.asdict(Piecewise(boundaries=(1.0,)))
  )
  assert boundaries.boundaries == (9.0,)
