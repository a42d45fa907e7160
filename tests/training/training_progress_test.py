"""The progress of a training: the time left, and whether it learns."""

import math
import time

import numpy as np
import pytest

from alexnet_jax.training.progress import EVALUATING, TrainingProgress
from alexnet_jax.training.timetable import Timetable

TIMETABLE = Timetable(
  num_examples=640, batch_size=64, total_epochs=4, eval_every_epochs=1
)  # 40 steps; evaluations after 10, 20, 30 and 40


@pytest.fixture
def clock(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, "monotonic", lambda: now[0])
  return now


def _steps(progress, clock, numbers, seconds):
  for step in numbers:
    clock[0] += seconds
    progress.step_finished(step, loss=1.5)


def test_the_time_left_counts_steps_and_evaluations(clock):
  progress = TrainingProgress(TIMETABLE, num_classes=10, num_validation=128)
  progress.phase("compiling the training step")
  _steps(progress, clock, [1], 50.0)  # with the compilation
  assert progress.seconds_left() is None
  _steps(progress, clock, range(2, 10), 2.0)
  # 31 steps of 2 s, 4 evaluations of two batches without backward pass.
  assert progress.seconds_left() == pytest.approx(31 * 2 + 4 * 2 * 2 / 3)
  _steps(progress, clock, [10], 2.0)
  progress.phase(EVALUATING)
  clock[0] += 5
  progress.evaluated(0.25)
  progress.phase("saving")
  clock[0] += 30
  _steps(progress, clock, range(11, 16), 2.0)
  # The step after the pause is not measured; an evaluation takes 5 s.
  assert progress.seconds_left() == pytest.approx(25 * 2 + 3 * 5)


def test_an_evaluation_that_is_going_on_is_counted_in_part(clock):
  progress = TrainingProgress(TIMETABLE, num_classes=10, num_validation=128)
  _steps(progress, clock, range(1, 40), 1.0)
  progress.phase(EVALUATING)
  clock[0] += 4
  progress.evaluated(0.5)
  _steps(progress, clock, [40], 1.0)
  progress.phase(EVALUATING)
  batches = progress.evaluating([{"label": np.zeros(96)}] * 2)
  next(batches)
  assert progress.seconds_left() == pytest.approx(4)
  next(batches)  # the first one is done
  assert progress.seconds_left() == pytest.approx(4 * 32 / 128)
  assert next(batches, None) is None  # with images that fill the last batch up
  assert progress.seconds_left() == pytest.approx(0)


def test_the_line_says_whether_it_learns(clock):
  progress = TrainingProgress(TIMETABLE, num_classes=10, num_validation=128)
  progress.resume(4)
  _steps(progress, clock, range(5, 11), 1.0)
  progress.phase(EVALUATING)
  progress.evaluated(0.255)
  _steps(progress, clock, [11, 12], 1.0)
  progress.report({"images_per_second": 64.0, "data_wait_fraction": 0.5}, "")
  assert progress.share() == pytest.approx(12 / 40)
  assert progress.text() == (
    f"training 30%: 0:28 left, validation error 25.5%, loss 1.50 (chance"
    f" {math.log(10):.2f}), epoch 1.20 of 4, step 12/40, 64 images/s, 50% of"
    " the time without images"
  )
  progress.report({}, "stalled: see docs/plateau.md")
  assert progress.details()[0] == "stalled: see docs/plateau.md"


def test_a_log_has_the_first_three_reports_at_once(clock, capsys):
  progress = TrainingProgress(TIMETABLE, num_classes=10, num_validation=128)
  with progress:
    for step in range(1, 11):
      _steps(progress, clock, [step], 1.0)
      progress.report({}, "")
  lines = capsys.readouterr().out.splitlines()
  assert [line.rpartition("step ")[2] for line in lines] == [
    "1/40",
    "2/40",
    "3/40",
  ]
