"""Configurations: loading, JSON, and what a resumed run may change."""

import copy
import functools
import json
import operator
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from alexnet_jax.runtime import config as config_lib
from alexnet_jax.runtime.command import UserError
from configs import paper


def _config(**changes):
  config = ConfigDict(
    {
      "seed": 0,
      "total_epochs": 90,
      "total_steps": 0,
      "data_dir": "",
      "log_every_steps": 50,
      "eval_every_epochs": 1,
      "boundaries": (25, 51, 79),
      "mesh": {"data": 0, "model": 2},
      "splits": {"train": "train", "validation": "validation"},
      "network": {"exchange_dtype": "float32", "exchanges": ("conv3",)},
    }
  )
  config.update_from_flattened_dict(changes)
  return config_lib.to_json(config)


def test_to_json_is_json_with_tuples_as_lists():
  plain = _config()
  assert json.loads(json.dumps(plain)) == plain
  assert plain["boundaries"] == [25, 51, 79]
  assert plain["mesh"] == {"data": 0, "model": 2}


def test_resume_may_change_length_place_and_cadence():
  config_lib.check_resume(
    _config(),
    _config(
      **{
        "total_epochs": 91,
        "total_steps": 10,
        "mesh.data": 4,
        "mesh.model": 1,
        "network.exchange_dtype": "float16",
        "data_dir": "elsewhere",
        "log_every_steps": 1,
        "eval_every_epochs": 5,
      }
    ),
  )


def test_resume_names_every_other_key_with_both_values():
  saved = _config()
  new = _config(
    **{
      "seed": 1,
      "splits.train": "train[:9]",
      "mesh.data": 2,
      "network.exchanges": (),
    }
  )
  del saved["boundaries"]
  with pytest.raises(UserError) as error:
    config_lib.check_resume(saved, new)
  message = str(error.value).split("Use the values")[0]
  assert "seed (was 0, now 1)" in message
  assert "splits.train (was 'train', now 'train[:9]')" in message
  assert "boundaries (was absent, now [25, 51, 79])" in message
  assert "network.exchanges (was ['conv3'], now [])" in message
  assert "mesh" not in message


@pytest.fixture
def tables(monkeypatch):
  """Versions in which keys were added and removed."""
  added = {"new": (1, 2), "mesh.pipe": 1, "group": {"a": 0}, "network.*.b": 5}
  monkeypatch.setattr(config_lib, "ADDED", added)
  monkeypatch.setattr(
    config_lib, "REMOVED", {"mesh.old": [3], "network.*.c": 0}
  )


def test_saved_keys_that_were_added_since_are_filled_in(tables):
  saved = {"seed": 0, "mesh": {"data": 2}, "network": {"conv1": {}, "k": 1}}
  before = copy.deepcopy(saved)
  assert config_lib.upgrade(saved) == {
    "seed": 0,
    "new": [1, 2],
    "mesh": {"data": 2, "pipe": 1},
    "group": {"a": 0},
    "network": {"conv1": {"b": 5}, "k": 1},
  }
  assert saved == before


def test_an_upgraded_configuration_keeps_its_values(tables):
  saved = {"new": 7, "mesh": {"pipe": 4}, "group": {"a": 1}, "other": None}
  assert config_lib.upgrade(saved) == saved
  once = config_lib.upgrade(_config())
  assert config_lib.upgrade(once) == once


def test_a_removed_key_is_dropped_if_it_has_the_only_supported_value(tables):
  saved = {"mesh": {"old": [3]}, "network": {"conv1": {"c": 0, "b": 1}}}
  assert config_lib.upgrade(saved)["mesh"] == {"pipe": 1}
  assert config_lib.upgrade(saved)["network"] == {"conv1": {"b": 1}}
  saved["network"]["conv1"]["c"] = 2
  with pytest.raises(UserError, match=r"network\.\*\.c=2 is no longer support"):
    config_lib.upgrade(saved)


@given(st.data())
def test_a_run_begun_before_keys_existed_resumes_under_their_old_values(data):
  """Whichever keys were added since, in whatever group."""
  now = _config()
  keys = [key for key, _ in config_lib.flatten(now)]
  added = data.draw(st.sets(st.sampled_from(keys)))
  saved = copy.deepcopy(now)
  for key in added:
    *groups, name = key.split(".")
    functools.reduce(operator.getitem, groups, saved).pop(name)
  with pytest.MonkeyPatch.context() as patch:
    values = dict(config_lib.flatten(now))
    patch.setattr(config_lib, "ADDED", {key: values[key] for key in added})
    config_lib.check_resume(config_lib.upgrade(saved), now)
    fixed = {"seed", "boundaries", "splits.train", "network.exchanges"}
    for key in fixed & added:  # the new key means something else now
      changed = copy.deepcopy(now)
      *groups, name = key.split(".")
      functools.reduce(operator.getitem, groups, changed)[name] = "changed"
      with pytest.raises(UserError, match=rf"differ: {key} \(was .*'changed'"):
        config_lib.check_resume(config_lib.upgrade(saved), changed)


def test_a_saved_key_that_the_program_does_not_know_is_rejected():
  saved = _config() | {"spare": 3}
  with pytest.raises(UserError, match=r"spare .was 3, now absent"):
    config_lib.check_resume(config_lib.upgrade(saved), _config())


def test_every_added_key_is_one_of_the_configurations():
  plain = config_lib.to_json(paper.get_config())
  assert config_lib.upgrade(plain) == plain


def test_saved_configurations_are_read_with_an_explanation(tmp_path):
  path = tmp_path / "config.json"
  whole = config_lib.to_json(paper.get_config())
  del whole["network"]["compute_dtype"]  # as before the key existed
  path.write_text(json.dumps(whole))
  assert config_lib.load_saved(path)["network"]["compute_dtype"] == "float32"
  for damage, message in (
    ({"seed": None}, r"config\.json .* seed must be .*got None.*restore it"),
    ({"network": 3}, r"config\.json .* network must be a group of keys"),
    ({"sede": 1}, r"config\.json .* unknown .* 'sede'.* nearest is 'seed'"),
  ):
    path.write_text(json.dumps(whole | damage))
    with pytest.raises(UserError, match=message):
      config_lib.load_saved(path)
  del whole["batch_size"]
  path.write_text(json.dumps(whole))
  with pytest.raises(UserError, match="lacks the key 'batch_size'"):
    config_lib.load_saved(path)
  for text in ("", "{", "[]", "3"):
    path.write_text(text)
    with pytest.raises(UserError, match="not valid JSON"):
      config_lib.load_saved(path)


def test_a_key_that_only_begins_like_a_free_one_is_not_free():
  saved, new = _config(), _config()
  saved["mesh_order"], new["mesh_order"] = 0, 1
  with pytest.raises(UserError, match="mesh_order"):
    config_lib.check_resume(saved, new)


@pytest.mark.parametrize(
  ("path", "workdir"),
  [
    ("configs/paper.py", "runs/paper"),
    ("/elsewhere/my.config.py", "runs/my.config"),
    ("configs/cnn.py:a/b", "runs/cnn_a_b"),
  ],
)
def test_default_workdir(path, workdir):
  assert config_lib.default_workdir(path) == workdir


def test_load_locks(tmp_path):
  (tmp_path / "c.py").write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config():\n  return ConfigDict({'seed': 3})\n"
  )
  config = config_lib.load(str(tmp_path / "c.py"))
  assert config.seed == 3
  with pytest.raises(AttributeError):
    config.sed = 4


def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  text = "from ml_collections import ConfigDict\nget_config = ConfigDict\n"
  (tmp_path / "mine.py").write_text(text)
  assert not config_lib.load("~/mine.py")


def test_load_names_the_nearest_file(tmp_path):
  (tmp_path / "quickstart.py").touch()
  (tmp_path / "paper.py").touch()
  with pytest.raises(UserError, match=r"nearest is '.*quickstart\.py'"):
    config_lib.load(str(tmp_path / "quikstart.py"))


@pytest.mark.parametrize("name", ["paper", "configs/paper.py"])
def test_a_shipped_configuration_is_found_from_any_folder(
  name, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert config_lib.load(name).dataset == "imagenet2012"
  with pytest.raises(UserError, match="nearest is 'paper'"):
    config_lib.load("papper")
  with pytest.raises(UserError, match=r"'quikstart'.* is 'quickstart'"):
    config_lib.load("finetune:quikstart")


def test_a_file_of_the_user_builds_on_shipped_ones_and_on_its_neighbours(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "base.py").write_text(
    "from configs import paper\n"
    "def get_config():\n"
    "  config = paper.get_config()\n"
    "  config.seed = 3\n"
    "  return config\n"
  )
  (tmp_path / "mine.py").write_text(
    "def get_config():\n"
    "  from configs import base\n"
    "  config = base.get_config()\n"
    "  config.batch_size = 7\n"
    "  return config\n"
  )
  before = {name for name in sys.modules if name.startswith("configs")}
  config = config_lib.load("mine.py")
  assert (config.seed, config.batch_size, config.total_epochs) == (3, 7, 90)
  # A file in the folder comes before the shipped one of the same name.
  (tmp_path / "configs" / "paper.py").write_text(
    "from ml_collections import ConfigDict\n"
    "def get_config():\n  return ConfigDict({'seed': 0})\n"
  )
  assert config_lib.load("configs/paper.py").to_dict() == {"seed": 0}
  assert config_lib.load("paper").total_epochs == 90
  assert {n for n in sys.modules if n.startswith("configs")} == before


def test_a_group_with_a_wrong_key_is_named():
  made = ConfigDict({"optimizer": {"momentum": 0.9, "speed": 3}})
  with pytest.raises(UserError, match=r"'optimizer'.*'speed'"):
    config_lib.call(lambda momentum: momentum, made, "optimizer")
  made = ConfigDict({"optimizer": {"momentum": 0.9}})
  assert config_lib.call(
    lambda momentum, x: momentum + x, made, "optimizer", x=1
  )


def test_a_run_keeps_its_random_streams(monkeypatch):
  """Those that its configuration has for new runs are for new runs."""
  new = ConfigDict({"seed": 1, "random_streams": "separate"}).lock()
  old = config_lib.upgrade({"seed": 0})
  kept = config_lib.with_kept_values(new, old)
  assert kept.to_dict() == {"seed": 1, "random_streams": "shared"}
  assert kept.is_locked
  assert new.random_streams == "separate"
  # Said on the command line, it is compared like any other key.
  monkeypatch.setattr(config_lib, "_overrides", lambda: ["random_streams"])
  given = config_lib.with_kept_values(new, old)
  with pytest.raises(UserError, match=r"random_streams .was 'shared', now"):
    config_lib.check_resume(old | {"seed": 1}, given.to_dict())
