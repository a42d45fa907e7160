"""What Orbax leaves behind is silent, and the rest is told as ever."""

import subprocess
import sys

import pytest

_PROGRAM = """
import logging, sys, threading
import absl.logging
from alexnet_jax.runtime import noise

noise.silence()

class Broken:
  def __init__(self, words):
    self.words = words
  def __del__(self):
    raise ValueError(self.words)

async def read():
  pass

def fail():
  raise error

class OrbaxThread(threading.Thread):
  __module__ = "orbax.checkpoint"

words = sys.argv[2]
error = ValueError(words)
match sys.argv[1]:
  case "destructor":
    Broken(words)
  case "absl":
    cause = (ValueError, error, None)
    record = logging.LogRecord("absl", logging.ERROR, words, 1, "", (), cause)
    absl.logging.get_absl_logger().handle(record)
  case "asyncio":
    logging.getLogger("asyncio").error("never retrieved", exc_info=error)
  case "thread":
    threading.Thread(target=fail).start()
  case "thread of Orbax":
    OrbaxThread(target=fail).start()
  case "warning":
    read()
"""


@pytest.mark.parametrize(
  ("kind", "words", "told"),
  [
    ("destructor", "no details of a TensorStore", False),
    ("destructor", "Event loop is closed", False),
    ("destructor", "coroutine 'Store.read' was never awaited", False),
    ("destructor", "a file of ours", True),
    ("absl", "lib/orbax/checkpoint.py", False),
    ("absl", "lib/ours.py", True),
    ("asyncio", "DATA_LOSS [tensorstore_spec={}]", False),
    ("asyncio", "a file of ours", True),
    ("thread of Orbax", "a file of ours", False),
    ("thread", "a file of ours", True),
    ("warning", "", False),
  ],
)
def test_only_orbax_is_silenced(kind, words, told):
  run = subprocess.run(
    [sys.executable, "-c", _PROGRAM, kind, words],
    capture_output=True,
    text=True,
    check=True,
  )
  assert (
    run.stderr.endswith(f"ValueError: {words}\n") if told else not run.stderr
  )
