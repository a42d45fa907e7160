"""The processes of a run: settings of each one, start and end of several.

JAX does the work of several processes: `jax.distributed` joins them, after
which each sees all devices and runs the same program. This file adds who
prints and writes files (one process), and what happens when one of them dies.
"""

import contextlib
import ctypes
import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.watch import exit_now

# A process that is silent for so long counts as dead; the others then exit.
HEARTBEAT_SECONDS = 60
# How long a process that has finished waits for the others.
SHUTDOWN_SECONDS = 20

# How XLA's errors begin when a connection broke. Their Python type does not
# tell: a step raises JaxRuntimeError, the call of a step ValueError, and a
# device that is out of memory raises JaxRuntimeError too.
_CONNECTION_ERROR = re.compile(
  "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL"
  "|UNAVAILABLE|UNKNOWN): "
)

# Environments that JAX recognises, by the variable with their process count.
SIZE_VARIABLES = {
  "SLURM_STEP_NUM_TASKS": "SLURM (srun)",
  "OMPI_COMM_WORLD_SIZE": "Open MPI (mpirun)",
}


def configure() -> None:
  """Sets up memory and the compilation cache of this process.

  Call it once, after `join` and before the first computation. With several
  processes the compilation cache is untested, so it is not used.
  """
  keep_freed_memory()
  if is_single_process():
    use_compilation_cache()


def keep_freed_memory() -> bool:
  """Makes the C library keep freed memory; returns whether it could be set.

  A training step on a CPU frees and allocates gigabytes. By default the C
  library returns each large block to the operating system, and the next
  allocation maps and clears the same pages again, which takes as long as a
  large part of the arithmetic.
  """
  if platform.libc_ver()[0] != "glibc":
    return False
  mallopt = ctypes.CDLL(None).mallopt
  settings = {  # parameters of mallopt(3)
    -4: 0,  # M_MMAP_MAX: large blocks come from the heap,
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: which never shrinks,
    -2: 64 * 2**20,  # M_TOP_PAD: grows in large pieces,
    -8: 1,  # M_ARENA_MAX: and is shared by all threads
  }
  return all([mallopt(name, value) for name, value in settings.items()])


def use_compilation_cache() -> None:
  """Keeps compiled programs, unless JAX_COMPILATION_CACHE_DIR says where."""
  if not jax.config.jax_compilation_cache_dir:
    folder = os.path.join(files.cache_directory(), "compiled")
    jax.config.update("jax_compilation_cache_dir", folder)


def join(
  coordinator: str = "",
  num_processes: int = 0,
  process_id: int = -1,
  *,
  mesh_devices: int = 0,
) -> None:
  """Joins the processes of a run; does nothing if there is only one.

  Without arguments a cluster is detected (srun, mpirun, Cloud TPU pods) and
  JAX asks it for the rest. After the call only the main process has a stdout;
  warnings and errors of all processes appear on stderr.

  Args:
    coordinator: HOST:PORT of process 0.
    num_processes: number of processes.
    process_id: index of this process, from 0.
    mesh_devices: of the whole mesh; on a CPU each process creates its share of
      them. 0: one per process.

  Raises:
    UserError: only some of the three are given, they contradict each other,
      or the other processes do not connect.
  """
  options = {}
  if coordinator or num_processes or process_id >= 0:
    if not (coordinator and 0 <= process_id < num_processes):
      raise UserError(
        f"--coordinator={coordinator} --num_processes={num_processes}"
        f" --process_id={process_id} do not fit: each process needs all three,"
        " such as --coordinator=HOST:1234 --num_processes=2 --process_id=0 for"
        " the first of two and --process_id=1 for the second. On SLURM, Open"
        " MPI and TPU pods leave them out."
      )
    options = {
      "coordinator_address": coordinator,
      "num_processes": num_processes,
      "process_id": process_id,
    }
  elif (num_processes := _detected_size()) < 2:
    return
  if mesh_devices % num_processes:
    raise UserError(
      f"a mesh of {mesh_devices} devices cannot be divided evenly among"
      f" {num_processes} processes. Choose mesh.data and mesh.model so that"
      f" their product is a multiple of {num_processes}."
    )
  jax.config.update("jax_num_cpu_devices", mesh_devices // num_processes or 1)
  try:
    jax.distributed.initialize(
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
      **options,
    )
    jax.devices()  # waits for all processes
  except (RuntimeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"the {num_processes} processes of this run could not connect: {reason}"
    ) from None
  if not is_main():  # the descriptor, because C++ libraries print too
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _detected_size() -> int:
  """The number of processes according to the environment; 1 by default."""
  for variable in SIZE_VARIABLES:
    if variable in os.environ:
      return int(os.environ[variable])
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
  return len(hosts.split(",")) if hosts else 1


def is_single_process() -> bool:
  """Whether the run has one process; does not start JAX's backend."""
  return not jax.distributed.is_initialized()


def is_main() -> bool:
  """Whether this is the process that prints and writes files."""
  return is_single_process() or jax.process_index() == 0


def any_process(flag: bool) -> bool:
  """Whether `flag` is true in any process; a collective call of all."""
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def gather(values: np.ndarray) -> np.ndarray:
  """`values` of all processes, as one flat array; a collective call of all."""
  if is_single_process():
    return values.ravel()
  return np.asarray(multihost_utils.process_allgather(values)).ravel()


def main_process_folder(folder: str) -> AbstractContextManager[str]:
  """Yields `folder` in the main process, in the others a temporary folder."""
  if is_main():
    return contextlib.nullcontext(folder)
  return tempfile.TemporaryDirectory()


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
  """Ends this process at once on an error if the run has several processes.

  Without it the other processes would wait for this one in their next
  collective, and this one for them at exit. It exits without waiting; the
  connections of the others break, and they exit in the same way, after
  HEARTBEAT_SECONDS at the latest.
  """
  try:
    yield
  except Exception as error:
    if is_single_process():
      raise
    name = f"process {jax.process_index()} of {jax.process_count()}"
    status = 1
    if isinstance(error, UserError):
      print(f"error: {error}", file=sys.stderr)
      status = 2
    elif _CONNECTION_ERROR.match(str(error)):
      reason = " ".join(str(error).split())[:200]
      print(
        f"error: {name} is exiting because another process died; see that"
        f" process's output for the cause. Reported here: {reason}. The"
        " checkpoints are intact: run the same command again on all processes"
        " to resume from the last one.",
        file=sys.stderr,
      )
    else:
      traceback.print_exc()
      print(f"{name} is exiting because of this error", file=sys.stderr)
    exit_now(status)
