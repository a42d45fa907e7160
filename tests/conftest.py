"""Strict mode for every test, and what several test files share."""

import pathlib

import jax
import pytest

from alexnet_jax.runtime import libraries

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # starts the backend, so that no mesh makes fewer devices


def pytest_sessionstart() -> None:
  """After pytest has set its own hooks, which would hide those set before."""
  libraries.configure()  # as commands do


@pytest.fixture(scope="session")
def shared_data() -> str:
  """The real tfds sets beside the checkout; tests that want them may skip."""
  root = pathlib.Path(__file__).resolve().parents[1]
  for parent in root.parents:
    data_dir = parent / "shared" / "data" / "tfds"
    if data_dir.is_dir():
      return str(data_dir)
  pytest.skip("real data is absent: no shared/data/tfds beside the checkout")
