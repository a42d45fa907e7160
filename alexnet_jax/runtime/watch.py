"""Signals that stop a run, and warnings about a run that makes no progress.

On SIGTERM or SIGINT the run saves and ends; on a second signal it ends at once.
A command then exits. A thread receives the signals as well, because Python's
own handlers wait while the main thread is in C++, for example for minutes in a
compilation.

In a notebook, and in any program that calls the library, the process is not
ours: it is never ended, and only SIGINT (Ctrl-C) is handled, the second one by
a KeyboardInterrupt.
"""

import faulthandler
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

SIGNALS = (signal.SIGTERM, signal.SIGINT)

T = TypeVar("T")


class Stopped(BaseException):
  """A signal asked the run to stop; raised between steps only.

  Not an Exception, so that no library handles it as an error.
  """


class Watch:
  """Context manager around a run.

  Before the first step there is nothing to save, and a signal ends the process
  at once with status 0. Afterwards the iterators that `guard` returns raise
  `Stopped`, at the next batch or while they wait for one. Outside of the main
  thread, where Python handles no signals, it only warns.

  Attributes:
    owns_process: whether signals may end the process; `command.run` sets it.
      If not, a signal that would end the process raises KeyboardInterrupt.
  """

  owns_process = False

  def __init__(
    self,
    stall_minutes: float,
    any_process: Callable[[bool], bool] | None = None,
  ):
    """Watching begins when the context is entered.

    Args:
      stall_minutes: minutes without progress after which the stacks of all
        threads are printed, repeatedly; 0: never.
      any_process: a collective call that returns whether its argument is true
        in any process, so that all stop at the same batch; None if there is
        only one.
    """
    self._stall_seconds = 60 * stall_minutes or float("inf")
    self._any_process = any_process
    self._phase = "starting"
    self._last_progress = time.monotonic()
    self._something_to_save = False
    self._interruptible = False
    self._signals = 0

  def __enter__(self) -> "Watch":
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._handlers = {}
    if threading.current_thread() is threading.main_thread():
      for number in SIGNALS if self.owns_process else (signal.SIGINT,):
        self._handlers[number] = signal.signal(number, self._handle)
      self._wakeup = signal.set_wakeup_fd(self._write)
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *exception) -> None:
    if self._handlers:
      signal.set_wakeup_fd(self._wakeup)
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    os.close(self._write)  # ends the thread
    self._thread.join()
    os.close(self._read)

  def phase(self, name: str) -> None:
    """Records progress and what the run does now, such as "compiling"."""
    self._phase = name
    self._last_progress = time.monotonic()

  def step_finished(self) -> None:
    """Records a finished step: from now on a signal means to save first."""
    self._something_to_save = True
    self.phase("training")

  def guard(self, batches: Iterable[T], name: str) -> Iterator[T]:
    """Yields `batches`; a signal can stop the run before each of them.

    With several processes each must ask for the same number of batches,
    because they agree on the batch before which they stop. While a batch is
    awaited, the phase is `name`.

    Raises:
      Stopped: after a signal.
    """
    iterator = iter(batches)
    while True:
      before = self._phase
      self.phase(name)
      try:
        self._interruptible = self._any_process is None
        stop = self._signals > 0
        if self._any_process:
          stop = self._any_process(stop)
        if stop:
          raise Stopped
        batch = next(iterator)
      except StopIteration:
        return
      finally:
        self._interruptible = False
      self.phase(before)
      yield batch

  def _handle(self, number: int, frame: object) -> None:
    """The signal handler; runs in the main thread when that is not in C++."""
    del number, frame
    self._signals += 1
    # A process of ours is ended by `_listen`, also while this cannot run.
    at_once = self._signals > 1 or not self._something_to_save
    if at_once and not self.owns_process:
      raise KeyboardInterrupt
    if self._interruptible:
      raise Stopped

  def _listen(self) -> None:
    received = 0
    while True:
      silence = time.monotonic() - self._last_progress
      if silence >= self._stall_seconds:
        self._warn_of_stall(silence)
        self._last_progress = time.monotonic()
      # At most a second, because there may be progress meanwhile.
      ready, _, _ = select.select([self._read], [], [], 1.0)
      if not ready:
        continue
      numbers = os.read(self._read, 16)
      if not numbers:
        return
      numbers = [number for number in numbers if number in self._handlers]
      received += len(numbers)
      at_once = received > 1 or not self._something_to_save
      if not numbers or (at_once and not self.owns_process):
        continue
      if received > 1:
        _exit("stopped at once on a second signal", 128 + numbers[-1])
      if at_once:
        state = "no step has finished yet, so there is nothing to save"
        _exit(f"stopped while {self._phase}; {state}", 0)
      # One write, because the training thread may print at the same time.
      print(
        f"stopping (was {self._phase}): saving first; a second signal stops at"
        " once\n",
        end="",
        flush=True,
      )

  def _warn_of_stall(self, silence: float) -> None:
    print(
      f"warning: no progress for {silence / 60:.1f} minutes while"
      f" {self._phase}. Stacks of all threads:",
      file=sys.stderr,
      flush=True,
    )
    faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)


def resume_hint() -> str:
  """A sentence that says how to resume the run, for a command with its line."""
  if not Watch.owns_process:
    return "To resume, call the same function again."
  return f"To resume, run the same command again: {shlex.join(sys.orig_argv)}"


def exit_now(status: int) -> NoReturn:
  """Ends the process without waiting for its threads, which may hang.

  A process that is not ours goes on: there it raises SystemExit.
  """
  if not Watch.owns_process:
    sys.exit(status)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _exit(reason: str, status: int) -> NoReturn:
  print(f"{reason}. {resume_hint()}")
  exit_now(status)
