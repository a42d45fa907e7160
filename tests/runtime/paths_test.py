"""Paths of flags: the home directory, and addresses that are no paths."""

import re
import subprocess
import sys

import pytest
from absl import flags

from alexnet_jax.data import preparing, sources
from alexnet_jax.runtime import paths
from alexnet_jax.runtime.command import UserError


@pytest.fixture
def home(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
  "given, path",
  [
    ("~/runs/x", "/home/me/runs/x"),
    ("~", "/home/me"),
    ("runs/~x", "runs/~x"),
    ("/data/a:b/c", "/data/a:b/c"),
    ("c:/data", "c:/data"),  # a letter and a colon is no address
    ("", ""),
  ],
)
def test_the_home_directory_is_expanded(home, given, path):
  assert paths.local_path(given, "--workdir") == path


@pytest.mark.parametrize(
  "address",
  ["gs://bucket/x", "s3://b", "gs:/b/x", "hf://datasets/a", "HTTPS://a.b/c"],
)
def test_an_address_is_refused_with_what_to_do(address):
  with pytest.raises(UserError, match=f"--workdir={address} .*Mount.*copy"):
    paths.local_path(address, "--workdir")


def test_flags_expand_and_refuse(home):
  values = flags.FlagValues()
  paths.DEFINE_path("output", None, "a file", flag_values=values)
  paths.DEFINE_paths("workdir", [], "folders", flag_values=values)
  values(["program", "--output=~/a.json", "--workdir=~/a,b"])
  assert values.output == "/home/me/a.json"
  assert values.workdir == ["/home/me/a", "b"]
  with pytest.raises(UserError, match="--workdir=gs://a is an address"):
    values(["program", "--workdir=b,gs://a"])


def test_data_are_not_looked_for_at_an_address(monkeypatch):
  with pytest.raises(UserError, match="data_dir=s3://b/x is an address"):
    sources.open_split("cifar10", "train", "s3://b/x")
  with pytest.raises(UserError, match="--source=folder=gs://b is an address"):
    preparing.open_originals("folder:gs://b")
  monkeypatch.setenv("TFDS_DATA_DIR", "gs://tfds")
  with pytest.raises(UserError, match="TFDS_DATA_DIR=gs://tfds is an address"):
    sources.open_split("cifar10", "train", "")


def test_any_name_can_be_shown():
  shown = paths.printable("a\n\x1b[31m\udcffé\ud800.jpg")
  assert shown == r"a\n\x1b[31m\xffé\ud800.jpg"


def test_an_output_that_cannot_be_written_is_refused_and_nothing_is_left(
  tmp_path,
):
  (tmp_path / "file").write_text("kept")
  for good in ("", "new.json", "file"):
    paths.check_output(good and str(tmp_path / good), "--json")
  for bad, reason in (
    ("none/x.json", "no folder .*none.*mkdir -p"),
    ("", "is a folder"),
    ("file/x.json", "no folder"),
    ("sub/", "is a folder"),
  ):
    with pytest.raises(UserError, match=rf"^--json=.*{reason}"):
      paths.check_output(f"{tmp_path}/{bad}", "--json")
  with pytest.raises(UserError, match="/proc accepts no files"):
    paths.check_output("/proc/x.json", "--json")
  for good in ("", "new", "new/deep", "."):
    paths.check_output_folder(good and str(tmp_path / good), "--output")
  with pytest.raises(UserError, match="file is a file"):
    paths.check_output_folder(f"{tmp_path}/file/deep", "--output")
  with pytest.raises(UserError, match="/proc accepts no files"):
    paths.check_output_folder("/proc/none/deep", "--output")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]
  assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
  "define",
  [
    paths.DEFINE_path,
    paths.DEFINE_paths,
    paths.DEFINE_output,
    paths.DEFINE_output_folder,
  ],
)
def test_help_lists_a_flag_as_the_commands_own(define):
  """`--help` shows the flags of the module that called DEFINE_..., its own."""
  define("planted", None, "help")
  try:
    keys = flags.FLAGS.get_key_flags_for_module(__name__)
    assert "planted" in [flag.name for flag in keys]
  finally:
    del flags.FLAGS.planted


def test_help_lists_config_and_checkpoint():
  text = subprocess.run(
    [sys.executable, "-m", "alexnet_jax.predict", "--help"],
    capture_output=True,
    text=True,
  ).stdout
  listed = set(re.findall(r"^  --(\w+):", text, re.MULTILINE))
  assert {"config", "checkpoint", "workdir", "weights"} <= listed
