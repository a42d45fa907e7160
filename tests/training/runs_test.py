"""A run on disk: its images, and whether it has ended."""

import json

import pytest
from sample_data import write_checkpoint_metadata, write_tiny

from alexnet_jax.data import sources
from alexnet_jax.training import runs


def test_a_run_trains_on_the_examples_not_held_out(tmp_path):
  config = {
    "dataset": "tiny",
    "data_dir": write_tiny(tmp_path),
    "splits": {"train": "train"},
    "holdout": 12,
    "seed": 7,
    "random_streams": "shared",
  }
  train = sources.open_split("tiny", "train", config["data_dir"])
  rest, _ = sources.hold_out(train, 12, 7)
  found = runs.open_split(config, "train")
  assert [found[i] for i in range(len(found))] == [rest[i] for i in range(28)]
  assert found.fingerprint == rest.fingerprint


@pytest.mark.parametrize(
  "due, errors, patience, ended",
  [
    (False, [], 2, False),
    (False, [], 1, True),
    (False, [], 0, False),
    (True, [], 2, False),  # a signal ended the run before the evaluation
    (True, [0.5], 2, True),  # which was made later, and after it nothing saved
    (True, [0.25], 2, True),  # equal is not lower
    (True, [0.2], 1, False),
  ],
)
def test_a_run_has_ended_early_by_its_newest_checkpoint(
  tmp_path, due, errors, patience, ended
):
  config, state = {"seed": 0}, {"best_error": 0.25, "waited": 1}
  older = state | {"waited": 0}
  write_checkpoint_metadata(tmp_path, 5, config=config, early_stopping=older)
  write_checkpoint_metadata(
    tmp_path, 10, config=config, early_stopping=state, evaluation_due=due
  )
  lines = [
    {"step": step, "split": split, "top1_error": error}
    for step, split, error in (
      (5, "validation", 0.25),
      (10, "train", 0.9),
      *((10, "validation", error) for error in errors),
    )
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (tmp_path / "metrics.jsonl").write_text(text)
  reason = runs.stopped_early(str(tmp_path), patience)
  assert bool(reason) == ended
  assert not ended or "than 25.00%" in reason


def test_a_run_of_before_has_not_ended_early(tmp_path):
  assert runs.stopped_early(str(tmp_path), 1) == ""
  write_checkpoint_metadata(tmp_path, 5, config={"seed": 0})
  assert runs.stopped_early(str(tmp_path), 1) == ""
