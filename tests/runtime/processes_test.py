"""Settings of one process, and the start and end of several."""

import os
import platform
import re
import subprocess
import sys

import jax
import pytest

from alexnet_jax.model import sharding
from alexnet_jax.runtime import cluster, processes
from alexnet_jax.runtime.command import UserError

FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
  from alexnet_jax.runtime import cluster, processes
  assert processes.keep_freed_memory()
def faults():
  np.ones(100_000_000, np.uint8)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="another C library's allocator"
)
def test_freed_memory_is_not_mapped_again():
  def faults(how):
    return int(
      subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        check=True,
        capture_output=True,
        text=True,
      ).stdout
    )

  kept = faults("keep")
  assert kept < 100
  assert faults("leave") > 20 * max(kept, 1)


def test_compiled_programs_are_kept_in_the_users_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  before = jax.config.jax_compilation_cache_dir
  try:
    jax.config.update("jax_compilation_cache_dir", None)
    processes.use_compilation_cache()
    expected = str(tmp_path / "alexnet_jax" / "compiled")
    assert jax.config.jax_compilation_cache_dir == expected
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    processes.use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_incomplete_or_contradictory_flags_are_refused():
  for flags in (("", 2, 0), ("localhost:1", 2, 2), ("localhost:1", 0, -1)):
    with pytest.raises(UserError, match="each process needs all three"):
      processes.join(*flags)
  with pytest.raises(UserError, match="join_timeout must be above 0"):
    processes.join("localhost:1", 2, 0, timeout=0)
  with pytest.raises(UserError, match="cannot be divided evenly"):
    processes.join("localhost:1", 2, 0, mesh_devices=3)


def test_a_single_process_joins_nothing_and_writes_everything(
  tmp_path, monkeypatch
):
  for name in (*cluster.SIZES, *cluster.TPU_HOSTS):
    monkeypatch.delenv(name, raising=False)
  processes.join(mesh_devices=8)
  assert processes.is_single_process()
  assert processes.is_main()
  assert processes.any_process(True)
  assert not processes.any_process(False)
  with processes.main_process_folder(str(tmp_path)) as folder:
    assert folder == str(tmp_path)
  assert sharding.process_share(sharding.make_mesh(4, 2)) == (0, 1)
  with pytest.raises(UserError, match="x"), processes.exit_on_error():
    raise UserError("x")
  full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
  with pytest.raises(UserError, match="batch_size"), processes.exit_on_error():
    raise full


def test_a_mesh_inside_one_of_two_hosts_is_refused(monkeypatch):
  """Every process refuses it; one without a device could not train."""
  monkeypatch.setattr(processes, "is_single_process", lambda: False)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(UserError, match="of only 1 of the 2 processes") as caught:
    sharding.make_mesh(1, 2)  # the eight devices here are of process 0
  assert "their product is 8" in str(caught.value)


@pytest.mark.parametrize(
  ("error", "expected", "status"),
  [
    (
      ValueError("UNKNOWN: Gloo AllGather failed: reset by peer"),
      "another process died",
      1,
    ),
    (
      jax.errors.JaxRuntimeError("INTERNAL: NCCL: remote error"),
      "another process died",
      1,
    ),
    (
      jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes."
      ),
      "error: process 0 of 1: a device of .* is out of memory .* batch_size",
      2,
    ),
    (ValueError("UNKNOWN is no field"), "Traceback", 1),
    (UserError("no such file"), "error: process 0 of 1: no such file", 2),
  ],
)
def test_a_process_reports_whether_it_or_another_one_failed(
  error, expected, status, monkeypatch, capsys
):
  """The first message was seen in a run whose other process was killed."""
  monkeypatch.setattr(processes, "is_single_process", lambda: False)
  monkeypatch.setattr(os, "_exit", sys.exit)
  with pytest.raises(SystemExit) as leaving, processes.exit_on_error():
    raise error
  assert leaving.value.code == status
  message = capsys.readouterr().err
  assert re.search(expected, message)
  another = "another process died"
  assert (another in message) == (expected == another)
