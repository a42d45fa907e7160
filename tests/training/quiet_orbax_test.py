"""Orbax's late reports of an error are silent; all others are printed."""

import json
import subprocess
import sys

# Each case prints its number first, so that one process serves them all.
_PROGRAM = """
import json, logging, sys, threading
import absl.logging
import alexnet_jax.training.checkpoint  # silences Orbax

class Broken:
  def __init__(self, words):
    self.words = words
  def __del__(self):
    raise ValueError(self.words)

async def read():
  pass

class OrbaxThread(threading.Thread):
  __module__ = "orbax.checkpoint"

for number, (channel, words) in enumerate(json.loads(sys.argv[1])):
  print(f"case {number}", file=sys.stderr)
  error = ValueError(words)
  def fail():
    raise error
  match channel:
    case "destructor":
      Broken(words)
    case "absl":
      cause = (ValueError, error, None)
      record = logging.LogRecord("absl", logging.ERROR, words, 1, "", (), cause)
      absl.logging.get_absl_logger().handle(record)
    case "asyncio":
      logging.getLogger("asyncio").error("never retrieved", exc_info=error)
    case "thread":
      thread = threading.Thread(target=fail)
      thread.start()
      thread.join()
    case "thread of Orbax":
      thread = OrbaxThread(target=fail)
      thread.start()
      thread.join()
    case "warning":
      read()
"""

# Channel, words of the error, and whether they are printed.
_CASES = [
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
]


def test_only_orbax_is_silenced():
  cases = json.dumps([case[:2] for case in _CASES])
  run = subprocess.run(
    [sys.executable, "-c", _PROGRAM, cases],
    capture_output=True,
    text=True,
    check=True,
  )
  _, *outputs = run.stderr.split("case ")
  assert len(outputs) == len(_CASES)
  for (channel, words, printed), output in zip(_CASES, outputs, strict=True):
    _, _, text = output.partition("\n")
    if printed:
      assert text.endswith(f"ValueError: {words}\n"), (channel, words)
    else:
      assert not text, (channel, words)
