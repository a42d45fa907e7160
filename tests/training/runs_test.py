"""A run on disk: its images, whether it has ended, or may begin again."""

import json

import pytest
import tiny_runs
from sample_data import write_checkpoint_metadata, write_tiny

from alexnet_jax.data import sources
from alexnet_jax.runtime.command import UserError
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


LINE = '{"step": 812, "split": "train"}\n'


@pytest.mark.parametrize(
  "paths, problem",
  [
    (["first_checkpoint", "checkpoints/"], "has lost its checkpoints"),
    (["first_checkpoint"], "has lost its checkpoints"),
    ([], "has no folder checkpoints"),
    (
      ["checkpoints/damaged-5/", "checkpoints/damaged-8/"],
      r"has only damaged checkpoints .damaged-5, damaged-8.",
    ),
  ],
)
def test_a_run_that_lost_its_checkpoints_does_not_begin_again(
  tmp_path, paths, problem
):
  """It would replace its metrics."""
  place, workdir = tmp_path, tmp_path / "run"
  workdir.mkdir()
  (workdir / "metrics.jsonl").write_text(LINE)
  for path in paths:
    if path.endswith("/"):
      (workdir / path).mkdir(parents=True)
    else:
      (workdir / path).write_text("5\n")
  before = sorted(workdir.rglob("*"))
  with pytest.raises(UserError, match=rf"{problem}, .* reach step 812\. Noth"):
    tiny_runs.train(place, "run")
  assert sorted(workdir.rglob("*")) == before
  assert (workdir / "metrics.jsonl").read_text() == LINE


def test_a_run_that_never_had_a_checkpoint_may_begin_again(tmp_path):
  """It was killed before its first save, or is new."""
  runs.check_checkpoints(str(tmp_path))
  (tmp_path / "metrics.jsonl").write_text(LINE)
  (tmp_path / "checkpoints").mkdir()
  (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()
  runs.check_checkpoints(str(tmp_path))
  runs.note_checkpoint(str(tmp_path))
  assert not (tmp_path / "first_checkpoint").exists()
  (tmp_path / "checkpoints" / "5").mkdir()
  runs.note_checkpoint(str(tmp_path))
  assert (tmp_path / "first_checkpoint").read_text() == "5\n"
  runs.check_checkpoints(str(tmp_path))
  (tmp_path / "checkpoints" / "5").rmdir()
  with pytest.raises(UserError, match="has lost its checkpoints"):
    runs.check_checkpoints(str(tmp_path))
