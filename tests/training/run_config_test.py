"""config.json is lost or edited: the copy in the checkpoints decides."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny_runs
from sample_data import ROOT

from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import run_config
from alexnet_jax.training.checkpoint import Checkpoints

CONFIG = configs.load(str(ROOT / "configs" / "quickstart.py"))
CONFIG.update_from_flattened_dict(tiny_runs.CHANGES)
TRAINED = configs.to_json(CONFIG)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A run of one checkpoint, with something else in place of its network."""
  workdir = tmp_path_factory.mktemp("saved")
  run_config.write_config(str(workdir), TRAINED)
  checkpoints = Checkpoints(str(workdir / "checkpoints"))
  arrays = {"x": jax.numpy.zeros(3, np.float32)}
  checkpoints.save(4, arrays, {"config": TRAINED})
  checkpoints.wait()
  checkpoints.close()
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  run_config._warn.cache_clear()
  return shutil.copytree(saved, tmp_path / "run")


# What became of config.json, and what is said about it.
LOST = {
  "gone": (None, "is missing"),
  "emptied": ("", "not valid JSON"),
  "cut": (json.dumps(TRAINED)[:200], "not valid JSON"),
  "damaged": (json.dumps(TRAINED | {"seed": None}), "seed must be"),
  "lacks a key": (
    json.dumps({k: v for k, v in TRAINED.items() if k != "batch_size"}),
    "lacks the key 'batch_size'",
  ),
}
EDITED = json.dumps(TRAINED | {"seed": 5, "batch_size": 9, "total_steps": 3})


def put(workdir, text):
  path = workdir / "config.json"
  path.unlink()
  if text is not None:
    path.write_text(text)


def files(workdir):
  return {
    str(path): path.read_bytes()
    for path in workdir.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize("how", LOST)
def test_a_lost_configuration_is_that_of_the_checkpoint(workdir, capsys, how):
  text, problem = LOST[how]
  put(workdir, text)
  assert run_config.load_config(str(workdir)) == TRAINED  # as `evaluate` does
  run_config.check_config(str(workdir), TRAINED)
  for line in capsys.readouterr().err.splitlines():
    assert line.startswith("warning: ") and problem in line
    assert line.endswith("the copy in checkpoint 4 is used")
  run_config.write_config(str(workdir), TRAINED)
  assert json.loads((workdir / "config.json").read_text()) == TRAINED


def test_an_edited_configuration_is_named_and_not_believed(workdir, capsys):
  """Keys that may change on resuming are no edit."""
  put(workdir, EDITED)
  changes = (
    "batch_size was 8 in training and is 9 in the file, seed was 0 in training"
    " and is 5 in the file"
  )
  with pytest.raises(UserError, match=f"not the .* checkpoint 4: {changes}\\."):
    run_config.load_config(str(workdir))
  run_config.check_config(str(workdir), TRAINED)
  assert f"was edited ({changes})" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "", EDITED])
def test_a_training_with_another_configuration_is_refused(workdir, text):
  """Also if it is that of the edited file; nothing is written."""
  put(workdir, text)
  before = files(workdir)
  with pytest.raises(UserError, match=r"differ: .*seed \(was 0, now 5\)"):
    tiny_runs.train(workdir.parent, "run", seed=5, batch_size=9)
  assert files(workdir) == before


def test_before_the_first_checkpoint_the_file_decides(workdir):
  shutil.rmtree(workdir / "checkpoints")
  with pytest.raises(UserError, match=r"seed \(was 0, now 5\)"):
    run_config.check_config(str(workdir), TRAINED | {"seed": 5})
  put(workdir, "{")
  for read in (
    lambda: run_config.load_config(str(workdir)),
    lambda: run_config.check_config(str(workdir), TRAINED),
  ):
    with pytest.raises(UserError, match="not valid JSON"):
      read()
  put(workdir, None)
  with pytest.raises(UserError, match="is not the directory of a run"):
    run_config.load_config(str(workdir))
  run_config.check_config(str(workdir), TRAINED)  # a new run
