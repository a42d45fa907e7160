"""When things happen, against a walk through the images one by one."""

import pytest
from ml_collections import ConfigDict

from alexnet_jax.training import timetable
from alexnet_jax.training.timetable import Stopwatch, Timetable


def _config(**changes):
  return ConfigDict(
    {
      "batch_size": 64,
      "total_epochs": 3,
      "total_steps": 0,
      "log_every_steps": 20,
      "diagnose_every_lines": 5,
      "eval_every_epochs": 1,
      "checkpoint_every_steps": 0,
    }
    | changes
  )


@pytest.mark.parametrize("images", [1000, 1024, 65, 64, 10])
def test_an_epoch_ends_with_the_step_that_trains_its_last_image(images):
  table = Timetable(_config(), images)
  seen, ends = 0, []
  for step in range(1, 1000):
    before, seen = seen // images, seen + 64
    if seen // images > before:
      ends.append(step)
    if seen >= 3 * images:
      assert table.total == step
      break
  found = [step for step in range(1, table.total + 1) if table.evaluates(step)]
  assert found == ends
  assert all(table.saves(step) for step in found)


def test_total_steps_wins_over_epochs():
  table = Timetable(_config(total_steps=7, eval_every_epochs=0), 1000)
  assert table.total == 7
  assert [s for s in range(1, 8) if table.evaluates(s)] == [7]
  assert [s for s in range(1, 8) if table.logs(s)] == [1, 7]


def test_checkpoints_in_between():
  table = Timetable(_config(checkpoint_every_steps=10), 1000)
  saved = [s for s in range(1, table.total + 1) if table.saves(s)]
  assert saved == [10, 16, 20, 30, 32, 40, 47]


def test_the_stopwatch_leaves_out_the_first_step(monkeypatch):
  now = 100.0
  monkeypatch.setattr(timetable.time, "monotonic", lambda: now)
  stopwatch = Stopwatch(batch_size=64)

  def one_step(wait, work):
    nonlocal now
    with stopwatch.waiting():
      now += wait
    now += work
    stopwatch.step_ends()

  one_step(5, 60)  # compiles
  assert stopwatch.read() == {"images_per_second": 0, "data_wait_fraction": 0}
  one_step(1, 3)
  one_step(1, 3)
  assert stopwatch.read() == {
    "images_per_second": 64 * 2 / 8,
    "data_wait_fraction": 2 / 8,
  }
  one_step(0, 2)
  assert stopwatch.read()["images_per_second"] == 32
  stopwatch.pause()
  one_step(9, 9)
  assert stopwatch.read()["images_per_second"] == 0


def test_it_looks_inside_at_the_first_step_and_at_every_fifth_line():
  table = Timetable(_config(total_steps=450), 1000)
  looks = [step for step in range(1, 451) if table.diagnoses(step)]
  assert looks == [1, 100, 200, 300, 400]
  assert all(table.logs(step) for step in looks)
  never = Timetable(_config(diagnose_every_lines=0), 1000)
  assert not any(never.diagnoses(step) for step in range(1, 451))
