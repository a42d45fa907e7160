"""The origin of a result: hardware, versions, command and commit."""

import contextlib
import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint")


def versions() -> dict[str, str]:
  """Versions of Python and of the libraries that results depend on."""
  found = {"python": platform.python_version()}
  for name in LIBRARIES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "absent"
  return found


def hardware() -> str:
  """Cores, processor and devices as text."""
  import jax

  affinity = getattr(os, "sched_getaffinity", None)
  cores = len(affinity(0)) if affinity else os.cpu_count()
  model = platform.processor() or platform.machine()
  with contextlib.suppress(OSError):
    text = pathlib.Path("/proc/cpuinfo").read_text()
    if name := re.search(r"^model name\s*:(.*)", text, re.MULTILINE):
      model = name[1].strip()
  kinds = sorted({device.device_kind for device in jax.devices()})
  devices = jax.device_count()
  return (
    f"{cores} core{'s' * (cores != 1)} of {model};"
    f" {devices} device{'s' * (devices != 1)}: {', '.join(kinds)}"
  )


def record(
  what: str,
  command: str,
  result: Any,
  *,
  seed: int | list[int] = 0,
  libraries: dict[str, str] | None = None,
) -> dict[str, Any]:
  """A measurement in the format of `experiments/results/`.

  Args:
    what: description of what was measured.
    command: the command line that measured it, without paths of this machine.
    result: the figures.
    seed: one seed, or the seeds of several runs.
    libraries: versions of libraries beside those in LIBRARIES.
  """
  return {
    "what": what,
    "hardware": hardware(),
    "versions": versions() | (libraries or {}),
    "seed": seed,
    "command": command,
    "commit": git_commit(),
    "load_average": os.getloadavg()[0],
    "result": result,
  }


@functools.cache
def git_commit() -> str:
  """The commit, with "+changes" if tracked files differ; "" without git."""
  try:
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
  except (OSError, subprocess.SubprocessError):
    return ""
  return commit + ("+changes" if changes else "")


def _git(*arguments: str) -> str:
  command = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
  return subprocess.check_output(
    command, stderr=subprocess.DEVNULL, text=True, timeout=10
  ).strip()
