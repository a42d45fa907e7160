"""Whole files, and where results come from."""

import os
import pathlib
import subprocess

import jax
import pytest

from alexnet_jax.runtime import files, provenance

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_writes_text_and_bytes_and_replaces(tmp_path):
  path = tmp_path / "a" / "b.json"
  files.write_whole(path, "öne")
  assert path.read_text() == "öne"
  files.write_whole(path, b"\0two")
  assert path.read_bytes() == b"\0two"
  assert os.listdir(path.parent) == ["b.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
  path = tmp_path / "b.json"
  files.write_whole(path, "old")

  def fail(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(OSError, match="No space"):
    files.write_whole(path, "new")
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["b.json"]


def test_provenance():
  assert provenance.versions()["jax"] == jax.__version__
  if (ROOT / ".git").exists():
    head = subprocess.run(
      ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    assert provenance.git_commit().removesuffix("+changes") == head


def test_no_git_no_commit(monkeypatch, request):
  request.addfinalizer(provenance.git_commit.cache_clear)
  monkeypatch.setenv("PATH", "")
  provenance.git_commit.cache_clear()
  assert provenance.git_commit() == ""
