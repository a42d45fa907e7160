"""The record of a run, from six lines of metrics."""

import pytest

from alexnet_jax.runtime.command import UserError
from experiments import record


def _train(step, loss, speed):
  return {
    "step": step,
    "split": "train",
    "loss": loss,
    "images_per_second": speed,
  }


def _validation(step, error):
  return {
    "step": step,
    "split": "validation",
    "epoch": step / 2,
    "num_examples": 9,
    "top1_error": error,
    "top5_error": 0.0,
    "loss": 1.0,
    "seconds": 60.0 * step,
    "views": 1,
  }


def test_losses_are_means_since_the_previous_evaluation():
  rows = record.evaluations(
    [
      _train(1, 3.0, 0.0),
      _train(2, 2.0, 30.0),
      _validation(2, 0.5),
      _train(3, 1.0, 20.0),
      _train(4, 0.5, 10.0),
      _validation(4, 0.25),
    ]
  )
  assert [row["train_loss"] for row in rows] == [2.5, 0.75]
  assert [row["images_per_second"] for row in rows] == [30, 20]
  assert [row["top1_error"] for row in rows] == [0.5, 0.25]
  assert [row["minutes"] for row in rows] == [2, 4]


def test_an_evaluation_without_a_training_line_before_it():
  """With log_every_steps above the steps between two evaluations."""
  lines = [_train(1, 3.0, None), _validation(1, 0.5), _validation(2, 0.25)]
  rows = record.evaluations(lines)
  assert [row["train_loss"] for row in rows] == [3.0, None]
  assert [row["images_per_second"] for row in rows] == [0.0, None]
  assert [row["top1_error"] for row in rows] == [0.5, 0.25]


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(UserError, match="has no config"):
    record.record(str(tmp_path), "none")
