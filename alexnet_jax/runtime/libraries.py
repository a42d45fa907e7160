"""Settings of libraries in the process of a command.

`command.run` makes them. Importing the package makes none, so a notebook or
another program keeps its own.
"""

import functools
import logging
import os
import re
import sys
import threading
import warnings
from typing import Any

import absl.logging


def configure() -> None:
  """Silences what libraries print beside their errors; threads of OpenCV."""
  quiet_orbax()
  # Pillow's warning of a very large image, which is refused with a reason.
  warnings.filterwarnings("ignore", "Image size .* exceeds limit of")
  # One thread per image, because images are processed in parallel. OpenCV reads
  # this when it is first used.
  os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")


_ORBAX = re.compile(
  "orbax|tensorstore|event loop is closed|was never awaited", re.IGNORECASE
)


def quiet_orbax() -> None:
  """Silences what Orbax prints beside the errors that it raises.

  When one read or write fails, Orbax closes its event loop and cancels the
  others. Each of them is then reported once more, now or when memory is
  collected, even after the manager is closed. These reports come through five
  channels, as tracebacks that the user can do nothing about; `Checkpoints`
  reports the error itself, in a sentence. Everything else is still printed.
  """
  # 1. absl: Orbax logs the exception that it is about to raise.
  absl.logging.get_absl_logger().addFilter(
    lambda record: "orbax" not in record.pathname
  )
  # 2. asyncio: "Task exception was never retrieved". Where the task ran in a
  # thread, only the traceback names Orbax.
  logging.getLogger("asyncio").addFilter(
    lambda record: not _ORBAX.search(logging.Formatter().format(record))
  )
  # 3. warnings: coroutines that were not started before the loop closed.
  warnings.filterwarnings("ignore", "coroutine .* was never awaited")
  # 4. Threads of Orbax raise what `wait_until_finished` raises again.
  threading.excepthook = functools.partial(_report_thread, threading.excepthook)
  # 5. Destructors of its futures and coroutines.
  sys.unraisablehook = functools.partial(_report_unraisable, sys.unraisablehook)


def _report_thread(report: Any, failure: threading.ExceptHookArgs) -> None:
  if not type(failure.thread).__module__.startswith("orbax."):
    report(failure)


def _report_unraisable(report: Any, failure: Any) -> None:
  if not _ORBAX.search(str(failure.exc_value)):
    report(failure)
