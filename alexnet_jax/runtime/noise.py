"""Silence for what Orbax says beside the errors that it raises.

When one read or write fails, Orbax closes its event loop over the others.
Each of them is then reported once more, now or when memory is collected, even
after its checkpoints are closed: by absl, asyncio, Python's warnings, and the
hooks for threads and for destructors, in tracebacks that ask nothing of the
user. `checkpoint` tells the error itself, in a sentence.
"""

import functools
import re
import sys
import threading
import warnings
from logging import Formatter, getLogger
from typing import Any

from absl import logging

_ORBAX = re.compile(
  "orbax|tensorstore|event loop is closed|was never awaited", re.IGNORECASE
)


def silence() -> None:
  """Silences it in this process, from now on; everything else is told."""
  logging.get_absl_logger().addFilter(
    lambda record: "orbax" not in record.pathname
  )
  # Where it was a thread's, only the traceback names Orbax.
  getLogger("asyncio").addFilter(
    lambda record: not _ORBAX.search(Formatter().format(record))
  )
  warnings.filterwarnings("ignore", "coroutine .* was never awaited")
  threading.excepthook = functools.partial(_thread, threading.excepthook)
  sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)


def _thread(tell: Any, failure: threading.ExceptHookArgs) -> None:
  """Orbax's threads hand their errors on; nobody needs the traceback too."""
  if not type(failure.thread).__module__.startswith("orbax."):
    tell(failure)


def _unraisable(tell: Any, failure: Any) -> None:
  if not _ORBAX.search(str(failure.exc_value)):
    tell(failure)
