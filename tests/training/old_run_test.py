"""Today's program resumes a run that an older version began.

`old_run.tar.gz` holds what commit da17d2a (2026-11-26, the last one with all
modules in one folder) wrote:

  small_patterns/   33 images of the package's own patterns, 72 pixels wide
  run/              a workdir after 7 of 13 steps: 1/64 of the width, crops of
                    64 pixels, and a plateau schedule that has dropped its rate
  continued.jsonl   the metrics lines of steps 8 to 13 of the same program
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

from alexnet_jax.runtime import config as configs
from alexnet_jax.training.run_evaluation import evaluate_runs
from configs import paper

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARCHIVE = pathlib.Path(__file__).with_name("old_run.tar.gz")


@pytest.fixture
def folder(tmp_path):
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(tmp_path, filter="data")
  return tmp_path


def with_tuples(value):
  """A value from JSON as configurations hold it."""
  if isinstance(value, dict):
    return {key: with_tuples(item) for key, item in value.items()}
  return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def resume(folder, *overrides):
  """Runs the training command with the run's own configuration."""
  config = configs.load_saved(folder / "run" / "config.json")
  (folder / "config.py").write_text(
    "from ml_collections import ConfigDict\n"
    f"def get_config():\n  return ConfigDict({with_tuples(config)!r})\n"
  )
  command = [
    *(sys.executable, "-m", "alexnet_jax.main"),
    f"--config={folder / 'config.py'}",
    f"--workdir={folder / 'run'}",
    f"--config.data_dir={folder}",
    *overrides,
  ]
  environment = {
    "XDG_CACHE_HOME": str(folder / "cache"),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as the old run was made
  }
  return subprocess.run(
    command,
    cwd=ROOT,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_a_run_of_an_older_version_continues_as_that_version_did(folder):
  metrics = folder / "run" / "metrics.jsonl"
  before = metrics.read_text()
  result = resume(folder, "--config.total_steps=13")
  assert result.returncode == 0, result.stderr
  after = metrics.read_text()
  assert after.startswith(before)
  new = [json.loads(x) for x in after[len(before) :].splitlines()]
  old = [
    json.loads(x) for x in (folder / "continued.jsonl").read_text().splitlines()
  ]
  assert len(new) == len(old)
  clock = {"seconds", "images_per_second", "data_wait_fraction"}
  errors = {"top1_error", "top5_error"}
  for ours, theirs in zip(new, old, strict=True):
    assert theirs.keys() <= ours.keys()
    for key in theirs.keys() - clock - errors - {"loss"}:
      assert ours[key] == theirs[key], (key, ours)
    # Another processor rounds otherwise, and one image of 8 may change sides.
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    for key in errors:
      assert ours[key] == pytest.approx(theirs[key], abs=0.126)
  # The saved configuration now has the keys of today's version.
  saved = json.loads((folder / "run" / "config.json").read_text())
  assert configs.upgrade(saved) == saved


@pytest.mark.slow
def test_a_run_of_an_older_version_is_evaluated_as_that_version_did(
  folder, monkeypatch
):
  """Its workdir has no statistics; the second time there are no images."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
  workdir = str(folder / "run")
  last = json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])
  assert (last["split"], last["step"]) == ("validation", 7)
  for _ in range(2):
    found = evaluate_runs(
      [workdir], views=1, split="validation", data_dir=str(folder)
    ).result
    assert found["step"] == 7
    for key in ("num_examples", "top1_error", "top5_error"):
      assert found[key] == pytest.approx(last[key], abs=1e-6)
    assert found["loss"] == pytest.approx(last["loss"], rel=1e-3)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    for path in folder.glob("small_patterns/*/*-train.*"):
      path.unlink()


def test_the_configuration_of_an_older_run_gets_the_keys_of_today(folder):
  """Whoever adds a key to the configurations adds it to `configs.ADDED`."""
  saved = configs.load_saved(folder / "run" / "config.json")
  today = configs.to_json(paper.get_config())
  assert dict(configs.flatten(saved)).keys() == (
    dict(configs.flatten(today)).keys()
  )
