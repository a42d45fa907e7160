"""Fixtures for the tests of data: a tiny dataset and an empty cache."""

import pytest
from sample_data import write_tiny


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
  return write_tiny(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "alexnet_jax"
