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

from alexnet_jax.runtime import cluster, files, rendezvous
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.watch import exit_now

# A process that is silent for so long counts as dead; the others then exit.
HEARTBEAT_SECONDS = 60
# How long a process that has finished waits for the others.
SHUTDOWN_SECONDS = 20
# How long JAX may take to connect processes that have all reported.
CONNECT_SECONDS = 60

# How XLA's errors begin when a connection broke. Their Python type does not
# tell: a step raises JaxRuntimeError, the call of a step ValueError, and a
# device that is out of memory raises JaxRuntimeError too.
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED: ")
_CONNECTION_ERROR = re.compile(
  "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL"
  "|UNAVAILABLE|UNKNOWN): "
)


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
  timeout: float = 120,
) -> None:
  """Joins the processes of a run; does nothing if there is only one.

  Without arguments JAX detects a cluster (srun, mpirun, TPU pods, Kubernetes)
  and asks it for the rest. After the call only the main process has a stdout;
  warnings and errors of all processes appear on stderr.

  Args:
    coordinator: HOST:PORT of process 0.
    num_processes: number of processes; 1 alone means that this process trains
      alone, whatever the environment says.
    process_id: index of this process, from 0.
    mesh_devices: of the whole mesh; on a CPU each process creates its share of
      them. 0: one per process.
    timeout: seconds that each process waits for the others.

  Raises:
    UserError: only some of the three are given, they contradict each other,
      the environment tells of more processes than JAX finds, or some of the
      processes do not come; the message names them.
  """
  place = _place(coordinator, num_processes, process_id, timeout)
  if place is None:
    return
  if mesh_devices % place.num_processes:
    raise UserError(
      f"a mesh of {mesh_devices} devices cannot be divided evenly among"
      f" {place.num_processes} processes. Choose mesh.data and mesh.model so"
      f" that their product is a multiple of {place.num_processes}."
    )
  jax.config.update(
    "jax_num_cpu_devices", mesh_devices // place.num_processes or 1
  )
  rendezvous.wait_for_all(
    place.coordinator, place.num_processes, place.process_id, timeout
  )
  try:
    jax.distributed.initialize(
      place.coordinator,
      place.num_processes,
      place.process_id,
      place.local_device_ids,
      cluster_detection_method="deactivate",  # it is done
      initialization_timeout=CONNECT_SECONDS,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    jax.devices()  # waits for all processes
  except (RuntimeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"the {place.num_processes} processes of this run could not connect:"
      f" {reason}"
    ) from None
  if not is_main():  # the descriptor, because C++ libraries print too
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _place(
  coordinator: str, num_processes: int, process_id: int, timeout: float
) -> cluster.Place | None:
  """The place of this process, by arguments of `join` or by its cluster."""
  if timeout <= 0:
    raise UserError(f"--join_timeout must be above 0 seconds (got {timeout}).")
  if not coordinator and num_processes == 1 and process_id in (-1, 0):
    return None
  if not (coordinator or num_processes or process_id >= 0):
    return cluster.find(timeout)
  if not (coordinator and 0 <= process_id < num_processes):
    raise UserError(
      f"--coordinator={coordinator} --num_processes={num_processes}"
      f" --process_id={process_id} do not fit: each process needs all three,"
      " such as --coordinator=HOST:1234 --num_processes=2 --process_id=0 for"
      " the first of two and --process_id=1 for the second. On SLURM, Open"
      " MPI and TPU pods leave them out."
    )
  if num_processes == 1:
    return None
  place = cluster.Place(coordinator, num_processes, process_id, None)
  devices = cluster.local_device_ids(place, timeout)
  return place._replace(local_device_ids=devices)


def check_joined() -> None:
  """Raises UserError if some devices belong to processes that are not joined.

  The hosts of a TPU pod see each other's devices without `join`, but then each
  of them would write the files of the run.
  """
  if is_single_process() and jax.process_count() > 1:
    raise UserError(
      f"the devices of this machine belong to a pod of {jax.process_count()}"
      " hosts, but this process has not joined the others. " + cluster.REMEDY
    )


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

  Raises:
    UserError: a device is out of memory, and the run has one process.
  """
  try:
    yield
  except Exception as error:
    if _OUT_OF_MEMORY.match(str(error)):
      error = _out_of_memory(error)
    if is_single_process():
      if isinstance(error, UserError):
        raise error from None
      raise
    name = f"process {jax.process_index()} of {jax.process_count()}"
    status = 1
    if isinstance(error, UserError):
      print(f"error: {name}: {error}", file=sys.stderr)
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


def _out_of_memory(error: Exception) -> UserError:
  """What to do about a device that could not allocate memory."""
  reason = " ".join(str(error).split())[:200]
  return UserError(
    f"a device of {platform.node()} is out of memory ({reason}). Reduce"
    " batch_size, divide the batch over more devices with mesh.data, or end"
    " other programs that use the device, then run the same command again."
  )
