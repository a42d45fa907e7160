"""Paths of flags: the home directory, and addresses that are no paths."""

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
