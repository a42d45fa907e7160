"""Watches over a run: signals to stop it, and steps that do not come.

SIGTERM and SIGINT ask the run to save and leave; a second one leaves at once.
A thread listens too, because Python's own handlers wait while the main thread
is in C++: compiling, say, which can take minutes.
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

T = TypeVar("T")


class Stopped(BaseException):
  """A signal asked to stop; raised only where the run's state is whole.

  Not an Exception, so that no library takes it for an error of its own.
  """


class Watch:
  """Context manager around a run; to be used in the main thread.

  Until the first step is done there is nothing to save, and a signal ends the
  process at once with status 0. After it, `Stopped` comes out of the iterators
  that `guard` made: at the next batch, or while waiting for one.
  """

  def __init__(
    self,
    stall_minutes: float,
    anyone: Callable[[bool], bool] | None = None,
  ):
    """Nothing is watched before the context is entered.

    Args:
      stall_minutes: after so long without a step or another sign of life, the
        stacks of all threads are printed, again and again; 0: never.
      anyone: for several processes, which must stop at the same batch: tells
        each, when all have called it, whether any had a signal. None: this
        process stops alone.
    """
    self._stall_seconds = 60 * stall_minutes or float("inf")
    self._anyone = anyone
    self._phase = "starting"
    self._sign_of_life = time.monotonic()
    self._something_to_save = False
    self._interruptible = False
    self._signals = 0

  def __enter__(self) -> "Watch":
    self._handlers = {
      number: signal.signal(number, self._handle)
      for number in (signal.SIGTERM, signal.SIGINT)
    }
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._wakeup = signal.set_wakeup_fd(self._write)
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *exception) -> None:
    signal.set_wakeup_fd(self._wakeup)
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    os.close(self._write)  # ends the thread
    self._thread.join()
    os.close(self._read)

  def phase(self, what: str) -> None:
    """A sign of life; says what the run does now.

    Args:
      what: completes "it was ...", such as `compiling`.
    """
    self._phase = what
    self._sign_of_life = time.monotonic()

  def stepped(self) -> None:
    """A step is done: from now on a signal means to save first."""
    self._something_to_save = True
    self.phase("training")

  def guard(self, batches: Iterable[T], what: str) -> Iterator[T]:
    """Hands on `batches`; a signal can stop the run before each of them.

    Several processes stop before the same one, so they must be handed equally
    many.

    Args:
      batches: the iterable to hand on.
      what: what waiting for a batch is called.

    Raises:
      Stopped: after a signal.
    """
    iterator = iter(batches)
    while True:
      before = self._phase
      self.phase(what)
      try:
        self._interruptible = self._anyone is None
        asked = self._signals > 0
        if self._anyone(asked) if self._anyone else asked:
          raise Stopped
        batch = next(iterator)
      except StopIteration:
        return
      finally:
        self._interruptible = False
      self.phase(before)
      yield batch

  def _handle(self, number: int, frame: object) -> None:
    """Runs in the main thread, once that is out of C++."""
    del number, frame
    self._signals += 1
    if self._interruptible:
      raise Stopped

  def _listen(self) -> None:
    received = 0
    while True:
      silence = time.monotonic() - self._sign_of_life
      if silence >= self._stall_seconds:
        self._tell_stall(silence)
        self._sign_of_life, silence = time.monotonic(), 0.0
      # Not longer than a second: a sign of life may have come meanwhile.
      ready, _, _ = select.select([self._read], [], [], 1.0)
      if not ready:
        continue
      numbers = os.read(self._read, 16)
      if not numbers:
        return
      received += len(numbers)
      if received > 1:
        _leave("left at once, on a second signal", 128 + numbers[-1])
      if not self._something_to_save:
        _leave(
          f"stopped while {self._phase}: no step is done since the start, so"
          " nothing is to be saved",
          0,
        )
      # One write, for the training thread may print at the same time.
      print(
        f"stopping (it was {self._phase}): saving first; a second signal"
        " leaves at once\n",
        end="",
        flush=True,
      )

  def _tell_stall(self, silence: float) -> None:
    print(
      f"warning: no step for {silence / 60:.1f} minutes; the run is still"
      f" {self._phase}. What every thread does:",
      file=sys.stderr,
      flush=True,
    )
    faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)


def how_to_go_on() -> str:
  """A sentence with the command line of this process."""
  return f"To go on, run the same command again: {shlex.join(sys.orig_argv)}"


def leave(status: int) -> NoReturn:
  """Ends the process at once, with this exit status.

  `sys.exit` would wait for the threads that read images, for ever if it is
  they that hang.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _leave(why: str, status: int) -> NoReturn:
  print(f"{why}. {how_to_go_on()}")
  leave(status)
