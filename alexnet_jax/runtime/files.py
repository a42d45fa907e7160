"""Files that other processes read or write: atomic writes, lock, cache."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import time
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from alexnet_jax.runtime.command import UserError


def write_atomic(path: str | os.PathLike, content: str | bytes) -> None:
  """Replaces a file in one step, as `replacing`; text is written as UTF-8."""
  with replacing(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Yields a file to write, which replaces the file `path` in one step.

  A reader, or a process that is killed, finds either the old file or the new
  one, never a part. After an exception the old one is unchanged. The folder is
  created if needed.

  Raises:
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.exists() and not path.is_file():  # such as /dev/stdout
    with open(path, "wb") as file:
      yield file
    return
  # Random: processes in two containers may have equal numbers.
  temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
  try:
    with open(temporary, "w+b") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def crc32_of_json(value: Any) -> int:
  """A checksum of JSON values, whatever the order of their keys."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def cache_directory() -> str:
  """The user's folder for files that can be generated again."""
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return os.path.join(os.path.expanduser(base), "alexnet_jax")


def is_locked(workdir: str | os.PathLike) -> bool | None:
  """Whether some process holds the lock of a workdir; changes nothing.

  None if the file system does not say.
  """
  path = pathlib.Path(workdir) / "lock"
  try:
    # Closing any descriptor of a file gives up this process's locks on it.
    if _identity(path.stat()) in _HELD:
      return True
    file = os.open(path, os.O_RDONLY)
  except FileNotFoundError:
    return False
  except OSError:
    return None
  try:
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except OSError as error:
    return True if error.errno in _HELD_ERRORS else None
  finally:
    os.close(file)
  return False


# What `lockf` raises if another process holds the lock; the standard allows
# both.
_HELD_ERRORS = (errno.EAGAIN, errno.EACCES)
# The lock files that this process holds, by device and inode: its own locks do
# not exclude each other.
_HELD: set[tuple[int, int]] = set()


class WorkdirLock:
  """Reserves a workdir for one process; use it as a context manager.

  The lock is the operating system's, on `WORKDIR/lock`. It works over NFS and
  ends with its process, however that ends, so a file left by a killed run
  blocks nobody. The file's content only names the holder in error messages.
  A record lock (`lockf`), because child processes would inherit one of `flock`
  and keep it after the run is killed.
  """

  def __init__(
    self, workdir: str, flag: str = "--workdir", required: bool = True
  ):
    """Takes the lock; creates the folder if needed.

    Args:
      workdir: folder of the run.
      flag: for messages, the flag that chooses the folder.
      required: whether a file system without locks is refused; if not, `held`
        is False there.

    Raises:
      UserError: another run holds the lock (the message names its host and
        process), or the folder cannot be written, or its file system does not
        support locks.
    """
    self._path = pathlib.Path(workdir) / "lock"
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      # Before it is opened, because closing it would give up the lock.
      if self._path.exists() and _identity(self._path.stat()) in _HELD:
        raise UserError(
          f"another run of this process is using {workdir}. Wait for it, or"
          f" choose another {flag}=DIR."
        )
      self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
      raise UserError(
        f"the workdir {workdir} cannot be written ({error.strerror})."
        f" Make it writable, or choose another one with {flag}=DIR."
      ) from None
    try:
      _lock(self._file)
    except OSError as error:
      self.held = False
      if error.errno not in _HELD_ERRORS and not required:
        return
      holder = os.pread(self._file, 1000, 0).decode(errors="replace")
      os.close(self._file)
      if error.errno in _HELD_ERRORS:
        raise UserError(
          f"another run is using {workdir}: {holder or 'an unknown process'}."
          f" Wait for it, stop it, or choose another {flag}=DIR."
        ) from None
      raise UserError(
        f"the file system of {workdir} does not support file locks"
        f" ({error.strerror}), so a second run could corrupt this one. Choose a"
        f" {flag}=DIR on a local disk."
      ) from None
    self.held = True
    _HELD.add(_identity(os.fstat(self._file)))
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    self._write_holder(
      f"process {os.getpid()} on host {socket.gethostname()}, since {since}"
    )

  def __enter__(self) -> "WorkdirLock":
    return self

  def __exit__(self, *exception) -> None:
    self._write_holder("")  # the file stays, empty
    _HELD.discard(_identity(os.fstat(self._file)))
    os.close(self._file)

  def _write_holder(self, holder: str) -> None:
    # On a full disk the lock still holds, without the name of its holder.
    with contextlib.suppress(OSError):
      os.ftruncate(self._file, 0)
      os.pwrite(self._file, holder.encode(), 0)


def _identity(status: os.stat_result) -> tuple[int, int]:
  return status.st_dev, status.st_ino


def _lock(file: int) -> None:
  """Takes the lock of an open file, or raises OSError."""
  for wait in (0.05, 0.1, 0.2, 0.0):
    try:
      return fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      # `is_locked` in another process may hold it for a moment.
      if error.errno not in _HELD_ERRORS or not wait:
        raise
    time.sleep(wait)
