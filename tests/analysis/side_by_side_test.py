"""Two runs side by side."""

import numpy as np
import pytest
from overview_test import evaluation, make_run, rows, train_line

from alexnet_jax.analysis import run_facts, side_by_side
from alexnet_jax.training import predictions
from alexnet_jax.training.predictions import Predictions

DATA = {"data": {"validation": "print"}}


def keep_predictions(folder, wrong):
  """Two hundred images of class 3; those in `wrong` are predicted as 4."""
  predicted = np.full(200, 3, np.int32)
  predicted[wrong] = 4
  ones = np.ones(200)
  label = np.full(200, 3, np.int32)
  index = np.arange(200, dtype=np.int32)
  found = Predictions(index, label, predicted, ones, ones, ones)
  predictions.write(str(folder), found, 50, "print")


@pytest.fixture
def two(tmp_path):
  runs = []
  for name, error, seed in (("a", 0.2, 0), ("b", 0.17, 1)):
    (tmp_path / name).mkdir()
    lines = [train_line(5), evaluation(5, error)]
    run = make_run(tmp_path / name, lines, step=50, seed=seed)
    runs.append(run._replace(metadata=DATA))
  return runs


def test_numbers_stand_beside_each_other_and_differences_are_named(two):
  html = side_by_side.side_by_side(two)
  numbers = {row[0]: row[1:] for row in rows(html)}
  assert numbers["validation top-1 error"] == ["20.0%", "17.0%"]
  assert numbers["images seen"] == ["3,200", "3,200"]
  differences = html[html.index("Differences in configuration") :]
  assert rows(differences) == [["seed", "0", "1"]]


def test_errors_on_the_same_images_are_compared_in_pairs(two, tmp_path):
  """Two images that only the first has wrong, eight the second: p = 112/1024.

  The binomial sum 2 * (1 + 10 + 45) / 2**10.
  """
  both = [0, 1, 2]
  keep_predictions(tmp_path / "a", [*both, 10, 11])
  keep_predictions(tmp_path / "b", [*both, *range(20, 28)])
  text = side_by_side.paired(*two)
  assert (
    "Of the same 200 images, a alone is wrong on 2 and b alone on 8" in text
  )
  assert "differs by +3.0 points" in text and "p = 0.109" in text


def test_predictions_of_another_checkpoint_are_not_compared(two, tmp_path):
  keep_predictions(tmp_path / "a", [1])
  keep_predictions(tmp_path / "b", [2])
  one, other = two
  assert "alone is wrong" in side_by_side.paired(one, other)
  later = other._replace(step=60)
  assert "not kept their predictions" in side_by_side.paired(one, later)
  fewer = other._replace(config=other.config | {"num_classes": 4})
  assert "not kept their predictions" in side_by_side.paired(one, fewer)


@pytest.mark.parametrize(
  "workdirs, names",
  [
    (["runs/a", "runs/b"], ["a", "b"]),
    (["runs/a"], ["a"]),
    (["/x/a/1", "/x/b/1"], ["a/1", "b/1"]),
    (["a", "a/b"], ["a", "a/b"]),
  ],
)
def test_names_are_as_short_as_they_can_be(workdirs, names):
  runs = [make_run(workdir, []) for workdir in workdirs]
  assert run_facts.short_names(runs) == names
