"""The status of a run: what became of its last attempt, in status.json.

A process that is killed cannot write that it ended. So the state "running"
counts only while the workdir is locked (`files.is_locked`); the operating
system releases the lock with its process. Some file servers have no locks, or
keep them on each host. There a run lives if its status changes while another
one waits. No decision depends on a clock or on a process number, which may be
wrong, or equal in two containers.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
from typing import NamedTuple

from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError

FILE_NAME = "status.json"
RUNNING, FINISHED, STOPPED, FAILED, STALLED = STATES = (
  "running",
  "finished",
  "stopped",
  "failed",
  "stalled",
)
# Between two writes of a running attempt, and how many of them may be missing.
HEARTBEAT_SECONDS = 10.0
MISSING_HEARTBEATS = 3
MESSAGE_LENGTH = 1000


class Status(NamedTuple):
  """One state of one attempt to train a run."""

  state: str  # one of STATES
  step: int  # steps trained
  message: str  # why the attempt ended, or does not go on
  host: str  # the machine
  pid: int  # the process on it
  time: str  # when this was written, with the time zone


def read(workdir: str | os.PathLike) -> Status | None:
  """The status in a workdir; None if there is none, or it is unreadable."""
  try:
    values = json.loads(pathlib.Path(workdir, FILE_NAME).read_bytes())
    found = Status(**{name: values[name] for name in Status._fields})
  except (OSError, ValueError, KeyError, TypeError):
    return None
  types = Status.__annotations__
  if found.state not in STATES or any(
    type(value) is not types[name] for name, value in found._asdict().items()
  ):
    return None
  return found


def last_attempt(
  workdir: str | os.PathLike, is_running: bool | None = None
) -> str:
  """A sentence about the last attempt; "" if it finished or is unknown.

  Args:
    workdir: of the run.
    is_running: whether a process works on the run; None: as the lock says.
  """
  found = read(workdir)
  if found is None or found.state == FINISHED:
    return ""
  where = f"process {found.pid} on host {found.host}"
  ended = f"the last attempt ended at step {found.step}"
  if found.state in (STOPPED, FAILED):
    return f"{ended}: {found.message}"
  if is_running is None:
    is_running = files.is_locked(workdir)
  stalled = f"; {found.message}" if found.state == STALLED else ""
  if is_running is False:
    return f"{ended} or later: {where} was killed after {found.time}{stalled}"
  lock = "" if is_running else " (without a lock: it may have been killed)"
  return f"running at step {found.step}, {found.time}: {where}{lock}{stalled}"


class StatusWriter:
  """Writes the status of one attempt; use it as a context manager.

  While it runs, a thread writes the current step every HEARTBEAT_SECONDS. An
  exception that leaves the context is written as "failed". A status that cannot
  be written is left out: it never stops a run.

  Attributes:
    last: a sentence about the attempt before this one, as `last_attempt`.
    step: steps trained; the owner sets it.
  """

  def __init__(
    self, workdir: str | os.PathLike, step: int = 0, is_locked: bool = True
  ):
    """Nothing is written before the context is entered.

    Args:
      workdir: of the run.
      step: steps trained so far.
      is_locked: whether this process has locked the workdir; if not, its file
        system has no locks.

    Raises:
      UserError: another process works on the run although it has no lock here.
    """
    self._workdir = str(workdir)
    self._is_locked = is_locked
    self._path = pathlib.Path(workdir, FILE_NAME)
    self._host = socket.gethostname()
    self._refuse_second()
    self.last = last_attempt(workdir, is_running=False)
    self.step = step
    self._stalled = ""
    self._lock = threading.Lock()
    self._ended = threading.Event()

  def __enter__(self) -> "StatusWriter":
    written = self._write(RUNNING, "")
    if not self._is_locked:
      # Of two that start at once, the one that wrote last goes on.
      time.sleep(HEARTBEAT_SECONDS / 2)
      if (other := read(self._workdir) or written) != written:
        raise _second_error(self._workdir, other)
    threading.Thread(target=self._beat, daemon=True).start()
    return self

  def __exit__(self, kind, error, traceback) -> None:
    if error is None:
      self.end(FINISHED, "")
    elif isinstance(error, KeyboardInterrupt):
      self.end(STOPPED, "interrupted")
    else:
      self.end(FAILED, _describe(error))

  def end(self, state: str, message: str) -> None:
    """Writes the last state of the attempt; only the first call counts."""
    # Another thread may hang while it writes to a file server that is gone.
    held = self._lock.acquire(timeout=5.0)
    try:
      if not self._ended.is_set():
        self._ended.set()
        self._write(state, message)
    finally:
      if held:
        self._lock.release()

  def stall(self, message: str) -> None:
    """Says why the run makes no progress, or with "" that it does again."""
    self._stalled = message

  def _beat(self) -> None:
    while not self._ended.wait(HEARTBEAT_SECONDS):
      with self._lock:
        if not self._ended.is_set():
          self._write(STALLED if self._stalled else RUNNING, self._stalled)

  def _refuse_second(self) -> None:
    """Raises UserError if another process goes on writing the status.

    Only one on another host, or without locks, can have escaped the lock.
    """
    if not self._is_locked:
      print(
        f"warning: the file system of {self._workdir} does not support file"
        " locks; two runs there are told apart by their status.json",
        file=sys.stderr,
      )
    found = read(self._workdir)
    if found is None or found.state not in (RUNNING, STALLED):
      return
    if self._is_locked and found.host == self._host:
      return  # it would hold the lock
    seconds = MISSING_HEARTBEATS * HEARTBEAT_SECONDS
    print(
      f"{self._workdir} was in use by process {found.pid} on host {found.host}."
      f" Waiting {seconds:.0f} s to see whether it still is."
    )
    before, deadline = _last_write(self._path), time.monotonic() + seconds
    while time.monotonic() < deadline:
      time.sleep(HEARTBEAT_SECONDS / 10)
      if _last_write(self._path) != before:
        raise _second_error(self._workdir, read(self._workdir) or found)

  def _write(self, state: str, message: str) -> Status:
    found = Status(
      state,
      self.step,
      message[:MESSAGE_LENGTH],
      self._host,
      os.getpid(),
      time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )
    text = json.dumps(found._asdict()) + "\n"
    try:
      files.write_atomic(self._path, text)
    except OSError:
      # A full disk has no room for a new file, but the old one has its block.
      with contextlib.suppress(OSError), open(self._path, "r+b") as file:
        file.write(text.encode())
        file.truncate()
    return found


def _last_write(path: pathlib.Path) -> tuple[int, int]:
  """What every write of a file changes, even if its content is the same."""
  status = path.stat()
  return status.st_ino, status.st_mtime_ns


def _second_error(workdir: str, other: Status) -> UserError:
  return UserError(
    f"another run is using {workdir}: process {other.pid} on host"
    f" {other.host}. Wait for it, stop it, or choose another --workdir=DIR."
  )


def _describe(error: BaseException) -> str:
  """One line about an exception; a UserError's message speaks for itself."""
  text = " ".join(str(error).split()) or type(error).__name__
  if type(error).__module__.startswith("alexnet_jax."):
    return text
  return f"{type(error).__name__}: {text}"
