"""Signals that stop a run, and warnings about a run that makes no progress.

On SIGTERM or SIGINT (Ctrl-C) the run saves and ends; on a second one it ends at
once. A command then exits. A thread receives the signals as well, because
Python's own handlers wait while the main thread is in C++, for example for
minutes in a compilation.

SIGHUP (the terminal is gone), SIGUSR1 and SIGUSR2 (the warnings of schedulers)
save and end the run too, but never count as a second signal: a lost terminal
sends SIGHUP twice, and a scheduler's SIGTERM follows its warning.

In a notebook, and in any program that calls the library, the process is not
ours: it is never ended, and only SIGINT (Ctrl-C) is handled, the second one by
a KeyboardInterrupt.
"""

import faulthandler
import math
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, Protocol, TextIO, TypeVar

from alexnet_jax.runtime import output

INSISTENT = (signal.SIGTERM, signal.SIGINT)
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# `timeout` sends SIGTERM twice, to its child and to the group of its child.
# Signals that follow an earlier one within so many seconds count as the same.
SAME_SIGNAL_SECONDS = 0.2
# How long a message may take to be printed, or a status to be written, before
# the process ends without it: the reader of a pipe or a file server may hang.
PATIENCE_SECONDS = 5.0

T = TypeVar("T")


class Attempt(Protocol):
  """What a watch tells about a run; `status.StatusWriter` writes it."""

  step: int

  def stall(self, message: str) -> None: ...

  def end(self, state: str, message: str) -> None: ...


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
    attempt: the status of the run, once there is one, which tells what a signal
      or a stall did to it.
    reason: why the run stops, such as "stopped by SIGTERM".
  """

  owns_process = False
  attempt: Attempt | None = None

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
    self._received = False  # whether `_listen` has received a signal
    self._insisted = math.inf  # when the first of INSISTENT was received
    self.reason = "stopped by a signal to another process"

  def __enter__(self) -> "Watch":
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._handlers = {}
    if threading.current_thread() is threading.main_thread():
      for number in self._handled():
        self._handlers[number] = signal.signal(number, self._handle)
      self._wakeup = signal.set_wakeup_fd(self._write)
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()
    _ENTERED.append(self)
    return self

  def __exit__(self, *exception) -> None:
    _ENTERED.remove(self)
    if self._handlers:
      signal.set_wakeup_fd(self._wakeup)
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    os.close(self._write)  # ends the thread
    self._thread.join()
    os.close(self._read)

  def _handled(self) -> Iterator[signal.Signals]:
    if not self.owns_process:
      yield signal.SIGINT
      return
    yield from INSISTENT
    for number in WARNINGS:  # what is ignored stays so, as `nohup` asks
      if signal.getsignal(number) != signal.SIG_IGN:
        yield number

  def phase(self, name: str) -> None:
    """Records progress and what the run does now, such as "compiling"."""
    self._phase = name
    self.progress()

  def progress(self) -> None:
    """Records progress in the present phase."""
    self._last_progress = time.monotonic()
    if self.attempt:
      self.attempt.stall("")

  def step_restored(self, step: int) -> None:
    """Records that the run begins after `step` steps, which are saved."""
    if self.attempt:
      self.attempt.step = step

  def step_finished(self, step: int = 0) -> None:
    """Records that `step` steps are trained: a signal then saves first."""
    self._something_to_save = True
    if self.attempt:
      self.attempt.step = step
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
        # Before the first step `_listen` ends the process.
        stop = self._signals > 0 and self._something_to_save
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
    del frame
    self._signals += 1
    # A process of ours is ended by `_listen`, also while this cannot run.
    at_once = self._signals > 1 or not self._something_to_save
    if at_once and not self.owns_process:
      raise KeyboardInterrupt
    if self._interruptible and self._something_to_save:
      raise Stopped

  def _listen(self) -> None:
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
      for number in numbers:
        if number in self._handlers:
          self._receive(signal.Signals(number))

  def _receive(self, number: signal.Signals) -> None:
    """Answers a signal, in the thread that listens."""
    is_second = False
    if number in INSISTENT:
      now = time.monotonic()
      is_second = now - self._insisted > SAME_SIGNAL_SECONDS
      self._insisted = min(self._insisted, now)
    is_first, self._received = not self._received, True
    at_once = is_second or not self._something_to_save
    if at_once and not self.owns_process:
      return  # `_handle` raises KeyboardInterrupt
    if is_first:
      self.reason = f"stopped by {number.name}"
    if is_second:
      self._exit("stopped at once on a second signal", 128 + number)
    if at_once:
      state = "no step has finished yet, so there is nothing to save"
      self._exit(f"stopped while {self._phase}; {state}", 0)
    if is_first:
      # One write, because the training thread may print at the same time.
      text = (
        f"stopping (was {self._phase}): saving first; a second SIGTERM or"
        " Ctrl-C stops at once\n"
      )
      _print_soon(text)

  def _exit(self, what: str, status: int) -> NoReturn:
    """Ends the process, wherever its other threads hang."""
    if self.attempt:
      message = f"{self.reason}: {what}"
      attempt = self.attempt
      output.within(PATIENCE_SECONDS, lambda: attempt.end("stopped", message))
    _print_soon(f"{what}. {resume_hint()}\n")
    os._exit(status)

  def _warn_of_stall(self, silence: float) -> None:
    message = f"no progress for {silence / 60:.1f} minutes while {self._phase}"
    if self.attempt:
      self.attempt.stall(message)
    text = f"warning: {message}. Stacks of all threads:\n"
    _print_soon(text, sys.stderr)
    faulthandler.dump_traceback(file=2, all_threads=True)


def _print_soon(text: str, file: TextIO | None = None) -> None:
  """Prints a text, or does not if nobody reads what the process prints."""
  output.within(
    PATIENCE_SECONDS, lambda: print(text, end="", file=file, flush=True)
  )


def progress() -> None:
  """Records that long work advances, such as one image of many.

  It goes to the watch of the run, whoever does the work; without one, nowhere.
  """
  for watch in _ENTERED:
    watch.progress()


_ENTERED: list[Watch] = []  # those whose context this process is in


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
