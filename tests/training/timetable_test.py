"""Timetables, compared with counting the images step by step."""

import pytest

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.timetable import Timetable


def _timetable(images=1000, **changes):
  options = {
    "batch_size": 64,
    "total_epochs": 3,
    "log_every_steps": 20,
    "diagnose_every_lines": 5,
  }
  return Timetable(num_examples=images, **options | changes)


@pytest.mark.parametrize("images", [1000, 1024, 65, 64, 10])
def test_an_epoch_ends_with_the_step_that_trains_its_last_image(images):
  table = _timetable(images)
  seen, ends = 0, []
  for step in range(1, 1000):
    before, seen = seen // images, seen + 64
    if seen // images > before:
      ends.append(step)
    if seen >= 3 * images:
      assert table.last_step == step
      break
  found = [
    step for step in range(1, table.last_step + 1) if table.evaluates(step)
  ]
  assert found == ends
  assert all(table.saves(step) for step in found)


def test_total_steps_wins_over_epochs():
  table = _timetable(total_steps=7, eval_every_epochs=0)
  assert table.last_step == 7
  assert [s for s in range(1, 8) if table.evaluates(s)] == [7]
  assert [s for s in range(1, 8) if table.logs(s)] == [1, 7]


def test_checkpoints_in_between():
  table = _timetable(checkpoint_every_steps=10)
  saved = [s for s in range(1, table.last_step + 1) if table.saves(s)]
  assert saved == [10, 16, 20, 30, 32, 40, 47]


def test_diagnostics_at_the_first_step_and_at_every_fifth_line():
  table = _timetable(total_steps=450)
  diagnosed = [step for step in range(1, 451) if table.diagnoses(step)]
  assert diagnosed == [1, 100, 200, 300, 400]
  assert all(table.logs(step) for step in diagnosed)
  never = _timetable(diagnose_every_lines=0)
  assert not any(never.diagnoses(step) for step in range(1, 451))


@pytest.mark.parametrize(
  "wrong",
  [
    {"total_steps": -1},
    {"total_epochs": 0},
    {"total_epochs": -2.0},
    {"total_epochs": float("nan")},
    {"total_epochs": float("inf")},
  ],
)
def test_a_run_has_at_least_one_step(wrong):
  ((key, value),) = wrong.items()
  with pytest.raises(UserError, match=rf"{key} must be .*got {value}"):
    _timetable(**wrong)


@pytest.mark.parametrize("images", [1000, 1024, 65, 10])
@pytest.mark.parametrize("every", [0.0, 0.3, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("steps", [0, 1, 20])
def test_the_evaluations_that_remain(images, every, steps):
  table = _timetable(images, eval_every_epochs=every, total_steps=steps)
  last = table.last_step
  for step in range(last + 1):
    remaining = sum(map(table.evaluates, range(step + 1, last + 1)))
    assert table.evaluations_after(step) == remaining


@pytest.mark.parametrize("tenths", [1, 2, 3, 5, 7, 10, 15])
@pytest.mark.parametrize("images, batch_size", [(1000, 8), (970, 64), (30, 1)])
def test_fractions_of_an_epoch_miss_no_evaluation(tenths, images, batch_size):
  """Counted in integers; 0.1 as a float is a little more than a tenth."""
  table = _timetable(
    images,
    batch_size=batch_size,
    total_epochs=3,
    eval_every_epochs=tenths / 10,
  )
  wanted, done = [], 0
  last = -(-3 * images // batch_size)
  for step in range(1, last + 1):
    periods = 10 * step * batch_size // (tenths * images)
    if periods > done or step == last:
      wanted.append(step)
    done = periods
  assert table.last_step == last
  found = [step for step in range(1, last + 1) if table.evaluates(step)]
  assert found == wanted


def test_a_length_in_tenths_of_an_epoch_has_no_step_too_many():
  # 1.1 * 100 is 110.00000000000001 in floats.
  assert _timetable(100, batch_size=10, total_epochs=1.1).last_step == 11
