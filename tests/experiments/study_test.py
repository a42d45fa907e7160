"""The registered study: its page, its size and its family of tests."""

import io
import pathlib

import pytest
from rich.console import Console

from experiments import study
from experiments.common.configuration import configure
from experiments.common.experiment import Options

PAGE = pathlib.Path("docs/study.md").read_text()


def record(name, p_value, mean=-1.0):
  experiment = study.load(name)
  values = {
    "difference": {
      "mean": mean,
      "low": mean - 0.5,
      "high": mean + 0.5,
      "seeds": 5,
      "p_value": p_value,
    },
    "equivalence_p_value": p_value,
    "verdict": "supported",
  }
  return {
    "result": {
      "contrasts": {
        contrast.name: values | {"claimed": contrast.claimed}
        for contrast in experiment.contrasts
      }
    }
  }


def test_the_family_counts_what_is_not_measured():
  rows = study.family(
    {"dropout": record("dropout", 0.004), "biases": record("biases", 0.01)}
  )
  by_stage = {row["stage"]: row for row in rows}
  assert len(rows) == 11
  # Holm: the least of eleven times 11, the next times 10.
  assert by_stage["dropout"]["adjusted_p_value"] == pytest.approx(0.044)
  assert by_stage["dropout"]["verdict"] == "supported"
  assert by_stage["biases"]["adjusted_p_value"] == pytest.approx(0.1)
  assert by_stage["biases"]["verdict"] == "undecided"
  assert by_stage["lrn"]["verdict"] == "not run"
  console = Console(file=io.StringIO(), width=140)
  study.show(rows, console)
  assert "-1.50 to -0.50" in console.file.getvalue()


@pytest.mark.parametrize("stage", study.STAGES)
def test_the_registered_page_has_every_stage_and_arm(stage):
  experiment = study.load(stage.name)
  assert f"| `{stage.name}` |" in PAGE
  names = {run.name for run in experiment.runs}
  for contrast in experiment.contrasts:
    arms = set(contrast.arms)
    assert sum(contrast.arms.values()) == pytest.approx(0)
    if stage.name != "relu_tanh":  # whose arms are those of the chosen rates
      assert arms <= names
  primary = [c for c in experiment.contrasts if c.primary]
  assert all(contrast.claimed is not None for contrast in primary)
  secondary = ("schedules", "hidden_layers", "figure4")
  secondary += ("stopping", "mixing", "l1")  # added when others had begun
  assert bool(primary) == (stage.name not in secondary)


def test_all_trainings_of_the_contrasts_see_100_000_images():
  for stage in study.STAGES:
    if stage.name != "relu_tanh":
      for run in study.load(stage.name).runs:
        options = Options("", overrides=study.SMALL)
        config = configure(study.load(stage.name), run, 0, options)
        assert config.splits.train == "train[:10000]"
        assert config.total_epochs * 10_000 == 100_000 * run.length
        until = config.augmentation.lighting_until
        assert until in (0, 0.75 * config.total_epochs)
