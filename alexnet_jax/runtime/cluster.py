"""Several processes, one program: how they find each other, and how they part.

JAX does the work: `jax.distributed` joins the processes, after which each sees
all devices and runs the same lines on its own. What is left to say is who
writes files and talks (one process), and what happens when one of them is gone.
"""

import contextlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.runtime.command import UserError

# A silent process counts as dead after this; the others then stop.
HEARTBEAT_SECONDS = 60
# For those that are waited for in vain at the end.
SHUTDOWN_SECONDS = 20

# How XLA's errors begin where a connection broke. Their Python type says less:
# from a step they come as JaxRuntimeError, from the call of one as ValueError,
# and a device without memory is a JaxRuntimeError too.
_BROKEN = re.compile(
  "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL"
  "|UNAVAILABLE|UNKNOWN): "
)

# Environments that JAX recognises, by the variable that counts the processes.
SIZE_VARIABLES = {
  "SLURM_STEP_NUM_TASKS": "SLURM (srun)",
  "OMPI_COMM_WORLD_SIZE": "Open MPI (mpirun)",
}


def join(
  coordinator: str = "",
  num_processes: int = 0,
  process_id: int = -1,
  *,
  mesh_devices: int = 0,
) -> None:
  """Joins the processes of a run; does nothing where there is only one.

  From then on only the main process has a stdout; warnings and errors of all
  appear on stderr.

  Without arguments a cluster is detected: srun, mpirun, Cloud TPU pods; JAX
  asks them for everything else.

  Args:
    coordinator: host:port where process 0 listens.
    num_processes: how many there are.
    process_id: which one this is, from 0.
    mesh_devices: devices of the whole mesh, of which each process makes its
      part where there is only a CPU; 0: one each.

  Raises:
    UserError: only some of the three are given, they do not fit, or the others
      do not come.
  """
  options = {}
  detected = _detected_size()
  if coordinator or num_processes or process_id >= 0:
    if not (coordinator and 0 <= process_id < num_processes):
      raise UserError(
        f"--coordinator={coordinator} --num_processes={num_processes}"
        f" --process_id={process_id}: of several processes each needs all"
        " three, such as --coordinator=HOST:1234 --num_processes=2"
        " --process_id=0 and ... --process_id=1. On SLURM, Open MPI and TPU"
        " pods none is needed."
      )
    options = {
      "coordinator_address": coordinator,
      "num_processes": num_processes,
      "process_id": process_id,
    }
  elif detected > 1:
    num_processes = detected
  else:
    return
  if mesh_devices % num_processes:
    raise UserError(
      f"a mesh of {mesh_devices} devices cannot be shared evenly by"
      f" {num_processes} processes. Choose mesh.data and mesh.model so that it"
      " can."
    )
  here = mesh_devices // num_processes or 1
  jax.config.update("jax_num_cpu_devices", here)
  try:
    jax.distributed.initialize(
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      shutdown_timeout_seconds=SHUTDOWN_SECONDS,
      **options,
    )
    jax.devices()  # waits for all
  except (RuntimeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"the {num_processes} processes of this run did not come together:"
      f" {reason}"
    ) from None
  if not is_main():  # at the lowest level, because C++ libraries talk too
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _detected_size() -> int:
  """How many processes the environment says there are; 1 if it is silent."""
  for variable in SIZE_VARIABLES:
    if variable in os.environ:
      return int(os.environ[variable])
  hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
  return len(hosts.split(",")) if hosts else 1


def alone() -> bool:
  """Whether this process is the only one; does not start JAX's backend."""
  return not jax.distributed.is_initialized()


def is_main() -> bool:
  """Whether this process writes and talks for all."""
  return alone() or jax.process_index() == 0


def anyone(flag: bool) -> bool:
  """Whether any process says so; each must ask at the same place."""
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


@contextlib.contextmanager
def own_folder(folder: str) -> Iterator[str]:
  """Where this process writes what only one is to write.

  `folder` itself in the main process, in the others one that is thrown away.
  """
  if is_main():
    yield folder
    return
  with tempfile.TemporaryDirectory() as nowhere:
    yield nowhere


@contextlib.contextmanager
def parting() -> Iterator[None]:
  """Ends this process at once on an error, where there are several.

  The others would wait for it in the next collective, and it for them at
  exit. So it leaves without a word to them; their connections break, and they
  leave by the same way, within HEARTBEAT_SECONDS at the latest.
  """
  try:
    yield
  except Exception as error:
    if alone():
      raise
    who = f"process {jax.process_index()} of {jax.process_count()}"
    status = 1
    if isinstance(error, UserError):
      print(f"error: {error}", file=sys.stderr)
      status = 2
    elif _BROKEN.match(str(error)):
      reason = " ".join(str(error).split())[:200]
      print(
        f"error: {who} stops because another one is gone (its own message, if"
        f" it had time for one, says why): {reason}. Checkpoints are untouched:"
        " start all processes again with the same command and the run goes on"
        " from the last one.",
        file=sys.stderr,
      )
    else:
      traceback.print_exc()
      print(f"{who} stops because of this error", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(status)
