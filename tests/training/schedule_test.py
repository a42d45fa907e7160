"""Schedules against tables of rates and formulas in float64."""

import dataclasses
import json

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
    "warmup_epochs": 0.0,
    "total_epochs": 95,
  }
  return make_schedule(name=name, **options | changes)


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


# Five of ninety epochs of warm-up; then 0.005 (1 + cos(x)) with x = 0, pi / 4,
# pi / 2, 3 pi / 4 and pi.
COSINE = [
  (0, 0),
  (2.5, 0.005),
  (5, 0.01),
  (26.25, 0.0085355339),
  (47.5, 0.005),
  (68.75, 0.0014644661),
  (90, 0),
  (91, 0),
]


@pytest.mark.parametrize("epoch, rate", COSINE)
def test_cosine(epoch, rate):
  schedule = _schedule("cosine", warmup_epochs=5.0, end_epoch=90.0)
  assert schedule.rate(epoch) == pytest.approx(rate, rel=1e-8)
  np.testing.assert_allclose(schedule.rates(epoch), [rate] * 4, rtol=1e-6)


def test_cosine_without_a_warm_up_begins_at_the_full_rate():
  schedule = _schedule("cosine")
  assert [schedule.rate(epoch) for epoch in (0, 47.5, 95)] == pytest.approx(
    [0.01, 0.005, 0.0]
  )


def test_a_run_that_ends_in_its_warm_up_only_rises():
  schedule = _schedule("cosine", warmup_epochs=5.0, end_epoch=2.0)
  assert schedule.rate(1.5) == pytest.approx(0.003)


def test_biases_and_conv1_do_the_same_with_a_cosine_as_with_any_schedule():
  schedule = _schedule(
    "cosine",
    bias_learning_rate=0.02,
    bias_drops="never",
    conv1_frozen_from=80.0,
  )
  np.testing.assert_allclose(
    schedule.rates(47.5), [0.005, 0.02, 0.005, 0.02], rtol=1e-6
  )
  np.testing.assert_array_equal(schedule.rates(80)[2:], [0, 0])


def test_a_jump_of_the_rate_on_resuming_is_reported():
  saved = json.loads(json.dumps(dataclasses.asdict(_schedule("cosine"))))
  assert _schedule("cosine").jump(saved, 40.0) == ""
  longer = _schedule("cosine", end_epoch=190.0)
  assert "at epoch 95: it was 0 and is now 0.005" in longer.jump(saved, 95.0)
  saved = json.loads(json.dumps(dataclasses.asdict(_schedule("dexp"))))
  assert _schedule("dexp").jump(saved, 94.0) == ""
  shorter = _schedule("dexp", total_epochs=40).resumed(saved, 30.0)
  assert "it was 0.00159 and is now 4e-05" in shorter.jump(saved, 30.0)


@pytest.mark.parametrize("name", ["piecewise", "plateau"])
def test_other_schedules_do_not_depend_on_the_length_of_the_run(name):
  saved = _schedule(name)
  for error in (0.9, 0.9, 0.9, 0.9):
    saved.observe(error)
  longer = _schedule(name, total_epochs=190)
  state = json.loads(json.dumps(dataclasses.asdict(saved)))
  assert longer.resumed(state, 95.0).jump(state, 95.0) == ""


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
  with pytest.raises(UserError, match=r"warmup_epochs must.* -1"):
    _schedule("cosine", warmup_epochs=-1)
  with pytest.raises(UserError, match=r"bias_drops='once' needs"):
    _schedule("cosine", bias_drops="once")


def test_a_resumed_schedule_takes_the_state_of_the_saved_one_only():
  before = Plateau(learning_rate=0.01, patience=2, drops=3)
  for error in [0.5, 0.6, 0.6, 0.6]:
    before.observe(error)
  after = Plateau(learning_rate=0.02, patience=7, drops=1)
  after = after.resumed(dataclasses.asdict(before), 1.0)
  assert (after.best_error, after.waited, after.dropped) == (0.5, 1, 1)
  assert (after.learning_rate, after.patience, after.drops) == (0.02, 7, 1)
  boundaries = Piecewise(boundaries=(9.0,)).resumed(
    dataclasses.asdict(Piecewise(boundaries=(1.0,))), 0.5
  )
  assert boundaries.boundaries == (9.0,)
