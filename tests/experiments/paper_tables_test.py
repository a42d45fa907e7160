"""The tables of the paper: errors, ensembles, fitted weights, the command."""

import io
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from experiments import paper_tables


def random_probabilities(seed, networks=3, examples=60, classes=8):
  random = np.random.default_rng(seed)
  labels = random.integers(classes, size=examples).astype(np.int32)
  scores = random.normal(size=(networks, examples, classes))
  scores[:, np.arange(examples), labels] += np.arange(networks)[:, None] / 2
  found = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  return list(found.astype(np.float32)), labels


def test_top_error_equals_that_of_a_sort():
  (found, *_), labels = random_probabilities(0)
  order = np.argsort(-found, axis=1)
  for k in (1, 5):
    wrong = [label not in row[:k] for label, row in zip(labels, order)]  # noqa: B905
    assert paper_tables.top_error(found, labels, k) == pytest.approx(
      np.mean(wrong)
    )


def test_tied_classes_count_in_part():
  found = np.full((2, 10), 0.1, np.float32)
  labels = np.array([0, 9], np.int32)
  assert paper_tables.top_error(found, labels, 5) == pytest.approx(0.5)


def test_nan_is_a_wrong_answer():
  found = np.full((2, 10), np.nan)
  found[1] = np.arange(10) == 3
  assert paper_tables.top_error(found, np.array([3, 3]), 5) == 0.5


def test_ilsvrc_2010_is_evaluated_on_its_test_images(monkeypatch):
  """In the configurations "test" is the validation split of 2012."""
  opened = []

  def open_split(dataset, split, data_dir):
    opened.append(split)
    raise UserError("stop")

  config = configs.to_json(configs.load("configs/paper.py"))
  monkeypatch.setattr(paper_tables.sources, "open_split", open_split)
  monkeypatch.setattr(
    paper_tables.stored_runs, "load_config", lambda path: config
  )
  for config["dataset"] in ("imagenet2010_256", "imagenet2012"):
    with pytest.raises(UserError, match="stop"):
      paper_tables.of_runs(["x"])
  assert opened == ["test", "validation"]


def test_fitted_weights_are_a_coordinatewise_minimum():
  each, labels = random_probabilities(1)

  def error(weights):
    return paper_tables.top_error(
      paper_tables.average(each, weights), labels, 2
    )

  weights = paper_tables.fit_weights(each, labels, k=2)
  assert error(weights) < error([1.0] * 3)
  for i, value in itertools.product(range(3), np.arange(21) / 20):
    other = [*weights[:i], float(value), *weights[i + 1 :]]
    if any(other):
      assert error(other) >= error(weights)


def test_equally_good_weights_stay_equal():
  (found, *_), labels = random_probabilities(2)
  assert paper_tables.fit_weights([found, found], labels) == [1.0, 1.0]


def test_runs_answer_the_claims_about_them(tmp_path, monkeypatch):
  """Errors of networks and of their ensemble reach the rows of their claims."""
  monkeypatch.setattr(
    paper_tables.stored_runs, "load_config", lambda path: runs[path]
  )
  monkeypatch.setattr(
    paper_tables.metrics, "read", lambda path: [{"epoch": 90.0}]
  )
  plain = configs.to_json(configs.load("configs/paper.py"))
  runs = {name: plain | {"seed": seed} for seed, name in enumerate("abcde")}
  answers = {name: random_probabilities(ord(name), 1)[0][0] for name in runs}
  labels = random_probabilities(ord("a"), 1)[1]
  monkeypatch.setattr(
    paper_tables, "probabilities", lambda path, **_: (answers[path], labels)
  )
  ours, refused, measured = paper_tables.of_runs(list(runs))
  error = paper_tables.top_error
  mean = sum(answers.values()) / 5
  # All seeds count, not the first one.
  assert ours["table2.1_cnn.top1"].value == pytest.approx(
    np.mean([error(found, labels, 1) for found in answers.values()])
  )
  assert ours["table2.5_cnns.top5"].value == pytest.approx(
    error(mean, labels, 5)
  )
  assert "table2.7_cnns_star.top1" not in ours
  assert "table1.cnn.top1" not in ours  # another year's images
  assert not refused
  assert len(measured) == 2 * (5 + 2)
  assert measured[-1]["tuned_on_validation"]


def test_the_tables_have_every_number_of_the_paper():
  tables = json.loads(json.dumps(paper_tables.collect()))
  keys = {"paper", "logged", "run", "ours", "difference", "where", "note"}
  keys |= {"not_comparable"}
  rows = tables["claims"]
  assert len(rows) == 67 and all(keys <= row.keys() for row in rows)
  console = Console(file=io.StringIO(), width=160)
  paper_tables.show(tables, console)
  text = console.file.getvalue()
  assert "not run" in text and "40.6640" in text


@pytest.mark.slow
def test_the_command_writes_every_number(tmp_path):
  file = tmp_path / "tables.json"
  command = [sys.executable, "-m", "experiments.paper_tables", f"--json={file}"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert "not run" in done.stdout and "40.6640" in done.stdout
  rows = json.loads(file.read_text())["claims"]
  keys = {"paper", "logged", "run", "ours", "difference", "where", "note"}
  assert len(rows) == 67 and all(keys <= row.keys() for row in rows)
