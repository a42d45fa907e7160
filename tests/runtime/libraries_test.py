"""What commands set in their process, and that importing sets nothing."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Each case prints its number first, so that one process serves them all.
_PROGRAM = """
import json, logging, sys, threading
import absl.logging
from alexnet_jax.runtime import libraries
libraries.configure()

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


# Compares the process after the imports of other libraries alone with the
# process after those of the package.
_IMPORTS = """
import ast, gc, importlib, json, logging, os, pathlib, signal, sys, threading
import warnings

def state():
  import cv2, jax
  loggers = {"": logging.root, **logging.Logger.manager.loggerDict}
  return {
    "hooks": [sys.excepthook, sys.unraisablehook, threading.excepthook],
    "breakpoint": [sys.displayhook, sys.gettrace(), sys.getprofile()],
    "garbage": [*gc.callbacks, gc.get_threshold(), gc.isenabled()],
    "warnings": list(warnings.filters),
    "OpenCV": cv2.getNumThreads(),
    "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
    "environment": dict(os.environ),
    "JAX": dict(jax.config.values),
    "loggers": {
      name: (logger.level, logger.filters[:], logger.handlers[:])
      for name, logger in loggers.items() if hasattr(logger, "level")
    },
    "threads": threading.active_count(),
  }

package = pathlib.Path(sys.argv[1])
ours, others = [], set()
for path in sorted(package.rglob("*.py")):
  parts = path.relative_to(package.parent).with_suffix("").parts
  ours.append(".".join(parts).removesuffix(".__init__"))
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      others.add(node.module)
      others |= {f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.Import):
      others |= {alias.name for alias in node.names}
for name in sorted(n for n in others if not n.startswith("alexnet_jax")):
  try:
    importlib.import_module(name)
  except ImportError:
    pass  # an optional one
before = state()
for name in ours:
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as error:
    assert error.name in ("gradio", "onnx"), error  # the optional ones
after = state()
assert len(ours) > 40
print([
  f"{key}: {before[key]} -> {after[key]}"
  for key in before if before[key] != after[key]
])
"""


def test_importing_every_module_changes_nothing_in_the_process():
  run = subprocess.run(
    [sys.executable, "-c", _IMPORTS, str(ROOT / "alexnet_jax")],
    capture_output=True, text=True, check=True, cwd=ROOT,
  )  # fmt: skip
  assert run.stdout == "[]\n"


def test_importing_the_package_alone_imports_no_library():
  program = (
    "import sys; before = set(sys.modules); import alexnet_jax;"
    "print(sorted({n.split('.')[0] for n in set(sys.modules) - before}"
    " - sys.stdlib_module_names), 'load' in dir(alexnet_jax));"
    "print(all(callable(getattr(alexnet_jax, n)) for n in alexnet_jax.__all__))"
  )
  run = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True, text=True, check=True, cwd=ROOT,
  )  # fmt: skip
  assert run.stdout == "['alexnet_jax'] True\nTrue\n"
