"""Standard output and error of a command, which never stop it.

A reader can close a pipe (`| head`), die of the same Ctrl-C as the command
(`| tee log`), or never have been there (`>&-`); a log file can be on a full
disk. What cannot be written then is dropped, in every thread, so that a
training goes on and is saved.
"""

import contextlib
import io
import os
import select
import sys
import threading
from collections.abc import Callable


class _LossyFile(io.FileIO):
  """A descriptor to write to; what cannot be written is dropped.

  Attributes:
    error: the first error, if there was one.
  """

  def __init__(self, descriptor: int):
    super().__init__(descriptor, "w", closefd=False)
    self.error: OSError | None = None

  def write(self, content) -> int:
    try:
      while (written := super().write(content)) is None:
        select.select([], [self], [])  # another program made it non-blocking
      return written
    except OSError as error:
      self.error = self.error or error
      return len(content)


def protect() -> None:
  """Makes `sys.stdout` and `sys.stderr` drop what cannot be written.

  Opens descriptors 0, 1 and 2 where they are closed, or the next files that
  the program opens would receive what C++ libraries print. Streams that a
  notebook or a test has replaced are left alone.
  """
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
  for descriptor, name in ((1, "stdout"), (2, "stderr")):
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__"):
      continue
    if stream is None:  # its descriptor may be another file's by now
      nothing = io.BufferedWriter(io.FileIO(os.devnull, "w"))
      setattr(sys, name, io.TextIOWrapper(nothing))
      continue
    with contextlib.suppress(OSError):
      stream.flush()
    lossy = io.TextIOWrapper(
      io.BufferedWriter(_LossyFile(descriptor)),
      encoding=stream.encoding,
      errors="backslashreplace" if stream.errors == "strict" else stream.errors,
      line_buffering=stream.line_buffering,
      write_through=stream.write_through,
    )
    setattr(sys, name, lossy)


def lost() -> OSError | None:
  """Why some of standard output was dropped; None if nothing was."""
  with contextlib.suppress(OSError, ValueError):
    sys.stdout.flush()
  buffer = getattr(sys.stdout, "buffer", None)
  return getattr(getattr(buffer, "raw", None), "error", None)


def within(seconds: float, function: Callable[[], object]) -> None:
  """Calls a function in a thread and waits for it, but not for longer.

  For output whose reader has stopped reading, and files whose server is gone.
  """
  thread = threading.Thread(target=function, daemon=True)
  thread.start()
  thread.join(seconds)
