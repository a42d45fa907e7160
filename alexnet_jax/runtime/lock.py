"""One run at a time in a workdir."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time

from alexnet_jax.runtime.command import UserError

FILE_NAME = "lock"


class WorkdirLock:
  """Holds `WORKDIR/lock` while a run lives; use it as a context manager.

  The operating system's lock decides, over NFS too, and ends with its process
  however that ends; so a lock file that a killed run left behind is stale by
  itself. What the file says only serves to name the holder. A record lock, not
  `flock`: that one would pass to child processes and outlive a killed run.
  """

  def __init__(self, workdir: str):
    """Takes the lock.

    Args:
      workdir: folder of the run, created when needed.

    Raises:
      UserError: another run holds it (names host and process), or the folder
        cannot be written.
    """
    self._path = pathlib.Path(workdir) / FILE_NAME
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
      raise UserError(
        f"the workdir {workdir} cannot be written ({error.strerror})."
        " Free it, or choose another one with --workdir=DIR."
      ) from None
    try:
      fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = _read_holder(self._file)
      os.close(self._file)
      raise UserError(
        f"another run works in {workdir}: {holder}. Wait for it, stop it, or"
        " choose another --workdir=DIR."
      ) from None
    except OSError as error:
      os.close(self._file)
      raise UserError(
        f"the file system of {workdir} gives no lock ({error.strerror}), so"
        " two runs could spoil each other there. Choose a --workdir=DIR on a"
        " local disk."
      ) from None
    self._write(
      {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
      }
    )

  def release(self) -> None:
    """Gives the lock back; the file stays, empty."""
    if self._file >= 0:
      self._write(None)
      os.close(self._file)
      self._file = -1

  def __enter__(self) -> "WorkdirLock":
    return self

  def __exit__(self, *exception) -> None:
    self.release()

  def _write(self, holder: dict | None) -> None:
    # On a full disk the lock holds without its holder's name.
    with contextlib.suppress(OSError):
      os.ftruncate(self._file, 0)
      if holder is not None:
        os.pwrite(self._file, json.dumps(holder).encode(), 0)


def _read_holder(file: int) -> str:
  try:
    holder = json.loads(os.pread(file, 1000, 0))
    return (
      f"process {holder['process']} on host {holder['host']},"
      f" since {holder['since']}"
    )
  except (ValueError, KeyError, TypeError):
    return "its process is not known"
