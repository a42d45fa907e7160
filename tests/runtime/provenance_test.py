"""The recorded versions and commit."""

import pathlib
import subprocess

import jax

from alexnet_jax.runtime import provenance

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_versions_and_commit_are_those_of_this_checkout():
  assert provenance.versions()["jax"] == jax.__version__
  if (ROOT / ".git").exists():
    head = subprocess.run(
      ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    assert provenance.git_commit().removesuffix("+changes") == head


def test_without_git_the_commit_is_empty(monkeypatch, request):
  request.addfinalizer(provenance.git_commit.cache_clear)
  monkeypatch.setenv("PATH", "")
  provenance.git_commit.cache_clear()
  assert provenance.git_commit() == ""
