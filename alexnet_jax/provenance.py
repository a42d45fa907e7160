"""Where a result comes from: versions and the commit."""

import importlib.metadata
import pathlib
import platform
import subprocess

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


def git_commit() -> str:
  """The commit of this package's checkout, `+changes` if it was edited.

  An empty text where it is no git checkout.
  """
  folder = pathlib.Path(__file__).parent
  try:
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
  except (OSError, subprocess.SubprocessError):
    return ""
  return commit + ("+changes" if changes else "")


def _git(folder: pathlib.Path, *arguments: str) -> str:
  result = subprocess.run(
    ["git", "-C", str(folder), *arguments],
    capture_output=True,
    text=True,
    check=True,
    timeout=10,
  )
  return result.stdout.strip()
