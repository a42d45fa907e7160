"""Environment: the libraries and variables that a command starts with.

JAX reads about a hundred variables when it is imported. Some change the results
of every program: they serve whoever has set them in a shell for other work, and
would train another network here. A command removes these before JAX is imported
and says so. Of the others it refuses wrong values, with a sentence. A program
that uses the package as a library keeps its environment.
"""

import importlib.util
import os
import platform
import re
import subprocess
import sys
import traceback

# What requirements.txt installs, by the names that are imported.
LIBRARIES = (
  "PIL",
  "absl",
  "array_record",
  "cv2",
  "flax",
  "grain",
  "importlib_resources",
  "jax",
  "matplotlib",
  "ml_collections",
  "optax",
  "orbax",
  "pyarrow",
  "rich",
  "safetensors",
  "scipy",
  "simplejpeg",
  "submitit",
  "tensorboardX",
  "tensorflow_datasets",
)

_TYPES = "the configuration decides the types (network.compute_dtype)"
_RANDOM = "the configuration's seed decides all random numbers"
_DEVICES = "the configuration decides the devices (mesh.data, mesh.model)"
_CHECKS = "a check of JAX for other programs, under which this one cannot run"

# Variables that commands ignore, and why.
IGNORED = {
  "JAX_ENABLE_X64": _TYPES,
  "JAX_DEFAULT_DTYPE_BITS": _TYPES,
  "JAX_EXPLICIT_X64_DTYPES": _TYPES,
  "JAX_DEFAULT_MATMUL_PRECISION": (
    "the configuration decides the precision (network.precision)"
  ),
  "JAX_NUMPY_DTYPE_PROMOTION": _TYPES,
  "JAX_NUMPY_RANK_PROMOTION": _TYPES,
  "JAX_DEFAULT_PRNG_IMPL": _RANDOM,
  "JAX_ENABLE_CUSTOM_PRNG": _RANDOM,
  "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": _RANDOM,
  "JAX_LEGACY_PRNG_KEY": _RANDOM,
  "JAX_RANDOM_SEED_OFFSET": _RANDOM,
  "JAX_THREEFRY_PARTITIONABLE": _RANDOM,
  "JAX_DEFAULT_DEVICE": _DEVICES,
  "JAX_NUM_CPU_DEVICES": _DEVICES,
  "JAX_ARRAY_GARBAGE_COLLECTION_GUARD": _CHECKS,
  "JAX_CHECK_TRACER_LEAKS": _CHECKS,
  "JAX_DISABLE_JIT": _CHECKS,
  "JAX_NO_EXECUTION": _CHECKS,
  "JAX_NO_TRACING": _CHECKS,
  "JAX_THREAD_GUARD": _CHECKS,
  "JAX_TRANSFER_GUARD": _CHECKS,
  "JAX_TRANSFER_GUARD_DEVICE_TO_DEVICE": _CHECKS,
  "JAX_TRANSFER_GUARD_DEVICE_TO_HOST": _CHECKS,
  "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": _CHECKS,
}

# Variables with which JAX raises FloatingPointError at the first such number.
_NUMBERS = ("JAX_DEBUG_NANS", "JAX_DEBUG_INFS")
_PLATFORMS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES")


def check_libraries() -> None:
  """Exits with status 2 if a library is missing; nothing is imported."""
  missing = [name for name in LIBRARIES if not importlib.util.find_spec(name)]
  if missing:
    names = ", ".join(missing[:3]) + " and others" * (len(missing) > 3)
    _print(
      f"error: {names} cannot be imported by {sys.executable}"
      f" (Python {platform.python_version()}). Use the Python that has the"
      " libraries: `. .venv/bin/activate` after `make quickstart`. README.md,"
      ' "Installation", says how to install them.'
    )
    sys.exit(2)


def prepare() -> None:
  """Removes the variables of IGNORED and checks others; before JAX is imported.

  What it does about them is printed to stderr. It exits with status 2 if JAX or
  XLA would reject a value: JAX raises while it is imported, and XLA aborts the
  process.
  """
  for name, reason in IGNORED.items():
    if value := os.environ.pop(name, ""):
      _print(f"note: {name}={value} is ignored: {reason}.")
  reason = _reason_of_xla() or _reason_of_jax()
  if reason:
    _print(f"error: {reason}")
    sys.exit(2)


def reason_of(error: Exception) -> str:
  """A sentence for an error of JAX that a variable causes, else ""."""
  text = " ".join(str(error).split())
  if isinstance(error, FloatingPointError):
    names = [name for name in _NUMBERS if os.environ.get(name)]
    if not names:
      return ""
    return (
      f"{text}. With {' and '.join(names)} JAX stops there; the last checkpoint"
      " is untouched."
    )
  names = [name for name in _PLATFORMS if os.environ.get(name)]
  file = ""
  for frame, _ in traceback.walk_tb(error.__traceback__):
    file = frame.f_code.co_filename
  if not names or not file.endswith("xla_bridge.py"):
    return ""  # not raised where JAX looks for devices
  given = " ".join(f"{name}={os.environ[name]}" for name in names)
  reason = f" ({text})" if text else ""
  return (
    f"JAX finds no device for {given}{reason}. Unset {' and '.join(names)} to"
    " use the devices that this machine has."
  )


def _reason_of_xla() -> str:
  """Why XLA would abort this process; "" if it would not.

  It parses its flags when it is first used, here in a process of its own, which
  takes a second where there are any.
  """
  value = os.environ.get("XLA_FLAGS")
  if not value:
    return ""
  program = "from jaxlib import xla_client; xla_client.CompileOptions()"
  child = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  if child.returncode == 0 or "Traceback" in child.stderr:
    return ""  # accepted, or this version of JAX has no such program
  found = re.search(
    r"^F.*parse_flags\w*\.cc:\d+\] (.*)$", child.stderr, re.MULTILINE
  )
  reason = found[1].rstrip(".") if found else "XLA does not accept it"
  return f"XLA_FLAGS={value}: {reason}. Correct it, or unset XLA_FLAGS."


def _reason_of_jax() -> str:
  """Why JAX cannot be imported with this environment; "" if it can."""
  names = sorted(name for name in os.environ if name.startswith("JAX_"))
  if not names:
    return ""
  try:
    import jax  # noqa: F401
  except ValueError as error:  # no other error is about a value
    values = " ".join(f"{name}={os.environ[name]}" for name in names)
    return f"JAX rejects the environment: {error}. Set here: {values}."
  return ""


def _print(text: str) -> None:
  print(text, file=sys.stderr)
