"""Settings of one process, and the start and end of several."""

import os
import platform
import subprocess
import sys

import jax
import pytest

from alexnet_jax.model import sharding
from alexnet_jax.runtime import processes
from alexnet_jax.runtime.command import UserError

FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
  from alexnet_jax.runtime import processes
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
  with pytest.raises(UserError, match="cannot be divided evenly"):
    processes.join("localhost:1", 2, 0, mesh_devices=3)


@pytest.mark.parametrize(
  ("variable", "value", "size"),
  [
    ("SLURM_STEP_NUM_TASKS", "4", 4),
    ("OMPI_COMM_WORLD_SIZE", "2", 2),
    ("TPU_WORKER_HOSTNAMES", "a,b,c", 3),
    ("UNRELATED", "7", 1),
  ],
)
def test_clusters_are_detected_by_their_variables(
  variable, value, size, monkeypatch
):
  for name in (*processes.SIZE_VARIABLES, "TPU_WORKER_HOSTNAMES"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv(variable, value)
  assert processes._detected_size() == size


def test_a_single_process_joins_nothing_and_writes_everything(
  tmp_path, monkeypatch
):
  for name in (*processes.SIZE_VARIABLES, "TPU_WORKER_HOSTNAMES"):
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
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"), "Traceback", 1),
    (ValueError("UNKNOWN is no field"), "Traceback", 1),
    (UserError("no such file"), "error: no such file", 2),
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
  assert expected in message
  another = "another process died"
  assert (another in message) == (expected == another)
