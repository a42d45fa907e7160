"""The chips that programs can be compiled for, and what is missing for it."""

import importlib.util

import jax
import pytest

from alexnet_jax.analysis.topologies import compile_only_devices, compiling
from alexnet_jax.runtime.command import UserError


@pytest.mark.parametrize(
  "text",
  ["h100", "h100:", "h100:0", "h100:1x2x8", "v5e:4", "mi300:8", "h100:8 x", ""],
)
def test_an_invalid_topology_is_answered_with_valid_ones(text):
  with pytest.raises(UserError, match="is not valid: expected one of v4"):
    compile_only_devices(text)


def test_several_hosts_need_a_figure_of_their_network():
  with pytest.raises(UserError, match="such as l4:8"):
    compile_only_devices("l4:2x8")


def test_a_missing_compiler_is_answered_with_what_to_install(monkeypatch):
  monkeypatch.setenv("TPU_LIBRARY_PATH", "nowhere/libtpu.so")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"pip install .*libtpu"):
    compile_only_devices("v5e:2x4")
  with pytest.raises(UserError, match=f"jax-cuda13-pjrt=={jax.__version__}"):
    compile_only_devices("h100:8")


@pytest.mark.parametrize("missing", ["libdevice not found", "No ptxas here"])
def test_a_missing_part_of_the_compiler_is_named_too(missing):
  with pytest.raises(UserError, match="nvidia-nvvm"), compiling():
    raise jax.errors.JaxRuntimeError(f"INTERNAL: {missing}")


def test_another_error_of_the_compiler_is_a_sentence():
  error = "RESOURCE_EXHAUSTED: Ran out of memory.\nLargest allocations:\n..."
  with pytest.raises(UserError, match="out of memory") as raised, compiling():
    raise jax.errors.JaxRuntimeError(error)
  assert "Largest" not in str(raised.value)
