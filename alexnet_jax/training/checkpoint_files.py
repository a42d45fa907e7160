"""Checkpoint files: what was saved, and whether the disk still holds it.

A checkpoint that cannot be read is one of two things:

damaged: proven to be torn or altered. A file is missing, or its size or
  checksum is not that which `files.json` recorded when it was saved; or the
  metadata or an array differ from their own checksums. That never gets better,
  so the checkpoint is set aside if an older one can be used.

unreadable: everything else. An I/O error, a stale file handle, no permission,
  no memory, too many open files; the format of another version of this program
  or of Orbax; an error of Orbax although the files are those that were saved.
  Another attempt, machine or version may read it, so nothing is changed and the
  command ends with a message and status 2.

docs/reliability.md has the same as a table.
"""

import contextlib
import functools
import json
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

from alexnet_jax.runtime.files import crc32_of_json, write_atomic

FILE_LIST = "files.json"
# Orbax's own note that a save was complete; nothing reads it.
_NOT_LISTED = "commit_success.txt"
_BODY = "metadata/metadata"

T = TypeVar("T")


class DamagedError(Exception):
  """A checkpoint that is proven to be torn or altered."""


def steps(directory: str | os.PathLike) -> list[int]:
  """The steps of the complete checkpoints in a folder, ascending.

  Raises:
    OSError: the folder exists and cannot be listed.
  """
  names = _names(directory)
  return sorted(int(name) for name in names if name.isdecimal())


def latest_step(directory: str | os.PathLike) -> int:
  """Step of the newest checkpoint in a folder; -1 if there is none.

  Raises:
    OSError: the folder exists and cannot be listed.
  """
  return max(steps(directory), default=-1)


def set_aside(directory: str | os.PathLike) -> list[str]:
  """The names of the checkpoints that were set aside as damaged."""
  return sorted(n for n in _names(directory) if n.startswith("damaged-"))


def record(folder: pathlib.Path) -> None:
  """Writes size and CRC-32 of each file of a complete save to `files.json`.

  Raises:
    OSError: a file cannot be read, or the list cannot be written; or Orbax did
      not merge the databases of the processes, which it skips without an error
      if it cannot list their folders.
  """
  items = [path for path in folder.iterdir() if path.is_dir()]
  listed = {
    str(path.relative_to(folder)): _measure(path)
    for item in items
    for path in sorted(item.rglob("*"))
    if path.is_file() and path.name != _NOT_LISTED
  }
  for item in items:
    if "ocdbt.process_0" in os.listdir(item):
      os.stat(item / "manifest.ocdbt")
  body = {"files": listed, "crc32": crc32_of_json(listed)}
  write_atomic(folder / FILE_LIST, json.dumps(body, indent=1) + "\n")


def check(folder: pathlib.Path) -> bool:
  """Compares the files of a checkpoint with their list.

  Returns False if it has no valid list, such as one of an older version of this
  program; then nothing was compared.

  Raises:
    DamagedError: a file is not the one that was saved.
    OSError: a file cannot be read.
  """
  recorded = _recorded(folder)
  for name, saved in recorded.items():
    found = _measure_or_none(folder / name)
    if found != saved:  # proven only if it is so again
      found = _measure_or_none(folder / name)
    if found is None:
      raise DamagedError(f"{name} is missing")
    if found[0] != saved[0]:
      raise DamagedError(
        f"{name} has {found[0]:,} bytes instead of {saved[0]:,}"
      )
    if found != saved:
      raise DamagedError(f"{name} differs from the saved file")
  return bool(recorded)


def read_body(folder: pathlib.Path) -> dict[str, Any]:
  """The JSON of a checkpoint, as `Checkpoints.save` wrote it.

  Raises:
    DamagedError: it is not what was saved.
    OSError: it cannot be read.
  """
  content = _read(folder / _BODY)
  try:
    body = json.loads(content)
    is_whole = body.pop("crc32") == crc32_of_json(body)
  except (ValueError, AttributeError, KeyError, TypeError):
    is_whole = False
  if not is_whole or str(body["step"]) != folder.name:
    raise DamagedError("its metadata differ from the saved metadata")
  return body


def newest_metadata(
  directory: str | os.PathLike,
) -> tuple[int, dict[str, Any]] | None:
  """The newest readable metadata of a run, among them its configuration.

  Returns the step of its checkpoint, and the metadata as they were saved; None
  if there are none.
  """
  with contextlib.suppress(OSError):
    for step in reversed(steps(directory)):
      with contextlib.suppress(OSError, DamagedError):
        body = read_body(pathlib.Path(directory, str(step)))
        metadata = body.get("metadata", {})
        if metadata.get("config"):
          return step, metadata
  return None


def retried(read: Callable[..., T]) -> Callable[..., T]:
  """Reads once more after an OSError, which on a network may not come again."""

  @functools.wraps(read)
  def call(*arguments: Any) -> T:
    with contextlib.suppress(OSError):
      return read(*arguments)
    return read(*arguments)

  return call


@retried
def _names(directory: str | os.PathLike) -> list[str]:
  try:
    return os.listdir(directory)
  except FileNotFoundError:
    return []


@retried
def _read(path: pathlib.Path) -> bytes:
  return path.read_bytes()


def _recorded(folder: pathlib.Path) -> dict[str, list[int]]:
  try:
    body = json.loads(_read(folder / FILE_LIST))
    files = body["files"]
    return files if body["crc32"] == crc32_of_json(files) else {}
  except (FileNotFoundError, ValueError, KeyError, TypeError):
    return {}


@retried
def _measure(path: pathlib.Path) -> list[int]:
  """Size in bytes and CRC-32 of a file."""
  size = checksum = 0
  with open(path, "rb", buffering=0) as file:
    while block := file.read(1 << 20):
      size += len(block)
      checksum = zlib.crc32(block, checksum)
  return [size, checksum]


def _measure_or_none(path: pathlib.Path) -> list[int] | None:
  try:
    return _measure(path)
  except FileNotFoundError:
    return None
