"""The cluster that started this process, as JAX detects it.

JAX recognises SLURM, Open MPI, Cloud TPU pods and Kubernetes, by environment
variables and by asking servers. It decides. What the environment says about the
number of processes is only compared with its answer, because a process that
wrongly believes to be alone would write over the files of the others.
"""

import contextlib
import os
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from jax._src import cloud_tpu_init
from jax._src.clusters import ClusterEnv

from alexnet_jax.runtime.command import UserError

# Variables with the number of processes, by launcher; the first that is set
# counts, because mpirun starts its own helpers with srun.
SIZES = {
  "OMPI_COMM_WORLD_SIZE": "Open MPI (mpirun)",
  "PMI_SIZE": "MPI (mpiexec)",
  "SLURM_STEP_NUM_TASKS": "SLURM (srun)",
  "WORLD_SIZE": "torchrun",
}
# Variables with the hosts of a TPU slice, separated by commas.
TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
# JAX asks the metadata server for the first three if they are not in the
# environment, and for all else unless the last one is.
_INSTEAD_OF_METADATA = (
  "MEGASCALE_COORDINATOR_ADDRESS",
  "MEGASCALE_NUM_SLICES",
  "MEGASCALE_SLICE_ID",
  "TPU_SKIP_MDS_QUERY",
)
# What an error message shows of the environment.
_PREFIXES = ("SLURM_", "OMPI_COMM_", "TPU_WORKER", "TPU_PROCESS", "MEGASCALE_")
_SHOWN = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")

REMEDY = (
  "Pass --coordinator=HOST:PORT, --num_processes and --process_id to each"
  " process, or --num_processes=1 to train in this process alone."
)


class Place(NamedTuple):
  """The place of this process among the processes of a run."""

  coordinator: str  # HOST:PORT of process 0
  num_processes: int
  process_id: int  # from 0
  local_device_ids: list[int] | None  # None: all devices of this machine


def find(timeout: float) -> Place | None:
  """The place that the cluster gives to this process; None if it is alone.

  Args:
    timeout: seconds to wait until the coordinator's name is known.

  Raises:
    UserError: the environment cannot be understood, or it tells of more
      processes than JAX finds.
  """
  expected, source = _size_in_environment()
  with _metadata_server() as reachable:
    # First the number alone: the address of a single process is not needed,
    # and asking for it can wait.
    _, count, _, _ = _detect("unused", None, 0, [0], timeout)
    if count and count > 1:
      place = Place(*_detect(None, None, None, None, timeout))
    else:
      place = None
  if expected > (count or 1):
    raise UserError(
      f"this run has {expected} processes ({source}), but JAX finds"
      f" {count or 'no cluster'}, so that {expected} processes would train the"
      f" same run and overwrite each other's files. {REMEDY}"
    )
  if not reachable and count is None:
    _warn(
      "the metadata server of this TPU VM does not answer, so this process"
      f" trains alone. If it belongs to a pod: {REMEDY}"
    )
  tasks = os.environ.get("SLURM_NTASKS", "1")
  if not place and "SLURM_STEP_ID" not in os.environ and tasks != "1":
    _warn(
      f"this SLURM job has SLURM_NTASKS={tasks} tasks, but only this process"
      " was started. To train in all of them put `srun` before the command."
    )
  return place


def local_device_ids(place: Place, timeout: float) -> list[int] | None:
  """The devices that a cluster gives to a process whose place is known."""
  with _metadata_server():
    return _detect(*place[:3], None, timeout)[3]


def _detect(
  coordinator: str | None,
  count: int | None,
  index: int | None,
  devices: list[int] | None,
  timeout: float,
) -> tuple[str | None, int | None, int | None, list[int] | None]:
  """JAX's own detection, of those arguments that are None."""
  try:
    with warnings.catch_warnings():
      # jax 0.12 calls re.split as Python 3.13 will no longer allow.
      warnings.simplefilter("ignore", DeprecationWarning)
      return ClusterEnv.auto_detect_unset_distributed_params(
        coordinator, count, index, devices, None, int(timeout)
      )
  # Empty and wrong variables, servers that do not answer, names without an
  # address, and whatever else the libraries of a cluster raise.
  except Exception as error:
    reason = " ".join(str(error).split()) or type(error).__name__
    shown = ", ".join(
      f"{name}={value!r}"
      for name, value in sorted(os.environ.items())
      if name.startswith(_PREFIXES)
      and (not name.startswith("SLURM_") or name.endswith(_SHOWN))
    )
    raise UserError(
      f"JAX cannot read which cluster this process belongs to ({reason})."
      f" The environment has {shown or 'no variable of a launcher'}. Start the"
      f" command with the cluster's launcher (srun, mpirun). {REMEDY}"
    ) from None


def _size_in_environment() -> tuple[int, str]:
  """The largest number of processes in the environment, and where."""
  found = [(1, "")]
  for variable, launcher in SIZES.items():
    if variable in os.environ:
      count = _number(variable)
      found.append((count, f"{variable}={count}, set by {launcher}"))
      break
  for variable in TPU_HOSTS:
    if hosts := os.environ.get(variable, ""):
      slices = 1
      if os.environ.get("MEGASCALE_NUM_SLICES"):
        slices = _number("MEGASCALE_NUM_SLICES")
      count = slices * len(hosts.split(","))
      found.append((count, f"{variable}={hosts}, of a TPU pod"))
  return max(found)


def _number(variable: str) -> int:
  text = os.environ[variable]
  if not text.isdecimal() or int(text) < 1:
    raise UserError(
      f"{variable}={text!r} in the environment is not a number of processes."
      " Unset it, or start the command with srun or mpirun, which set it."
      f" {REMEDY}"
    )
  return int(text)


@contextlib.contextmanager
def _metadata_server() -> Iterator[bool]:
  """Keeps JAX from waiting for a metadata server that does not answer.

  JAX asks it on every TPU VM, for a minute each time. Yields whether it
  answers, or is not needed.
  """
  if not cloud_tpu_init.running_in_cloud_tpu_vm or _answers():
    yield True
    return
  added = [name for name in _INSTEAD_OF_METADATA if name not in os.environ]
  os.environ.update(dict.fromkeys(added, ""))
  try:
    yield False
  finally:  # libtpu reads them too
    for name in added:
      del os.environ[name]


def _answers(timeout: float = 5.0) -> bool:
  """Whether the metadata server of Google Cloud answers."""
  host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    f"http://{host}/computeMetadata/v1/instance/",
    headers={"Metadata-Flavor": "Google"},
  )
  try:
    with urllib.request.urlopen(request, timeout=timeout):
      return True
  except urllib.error.HTTPError:
    return True
  except (OSError, ValueError):
    return False


def _warn(message: str) -> None:
  print(f"warning: {message}", file=sys.stderr, flush=True)
