"""Environment variables, set to nonsense or for other work, before a run.

A run is the same under each of them, or is refused in a sentence before it
writes anything.
"""

import functools
import json
import pathlib
import shutil
from collections.abc import Iterator

from .sandbox import TIMINGS, Process
from .trial import EXPECTED, Case, Row, Suite, Trial

STEPS = 3  # of the 24 of the sandbox's run; starting takes most of the time

# Under these a run is the same.
SAME = {
  "ignored by commands": {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_DTYPE_BITS": "64",
    "JAX_EXPLICIT_X64_DTYPES": "banana",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_LEGACY_PRNG_KEY": "error",
    "JAX_DEFAULT_DEVICE": "banana",
    "JAX_NUM_CPU_DEVICES": "abc",
    "JAX_DISABLE_JIT": "1",
    "JAX_NO_EXECUTION": "1",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_CHECK_TRACER_LEAKS": "1",
  },
  "followed by JAX": {
    "JAX_LOG_COMPILES": "1",
    "JAX_EXPLAIN_CACHE_MISSES": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
    "JAX_COMPILATION_CACHE_DIR": "/proc/nowhere",
    "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0",
    "JAX_USE_SHARDY_PARTITIONER": "0",
    "JAX_TRACEBACK_FILTERING": "off",
    "JAX_PLATFORMS": "",
    "JAX_DEBUG_LOG_MODULES": "banana",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "TF_CPP_MIN_LOG_LEVEL": "banana",
  },
  "that make JAX check": {
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_INFS": "1",
    "JAX_DEBUG_KEY_REUSE": "1",
    "JAX_ENABLE_CHECKS": "1",
  },
  "of Python and the system": {
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONIOENCODING": "ascii",
    "LC_ALL": "banana",
    "TERM": "banana",
    "COLUMNS": "abc",
    "TZ": "banana",
    "OMP_NUM_THREADS": "abc",
    "OPENCV_FOR_THREADS_NUM": "abc",
    "MPLBACKEND": "banana",
    "TFDS_DATA_DIR": "/proc/nowhere",
    "CUDA_VISIBLE_DEVICES": "banana",
    "TMPDIR": "/proc/nowhere",
    "XDG_CACHE_HOME": "/proc/nowhere",
  },
}

# These are refused.
REFUSED = {
  "JAX_PLATFORMS": "cuda",
  "JAX_PLATFORM_NAME": "banana",
  "JAX_DEBUG_NANS": "banana",
  "JAX_LOGGING_LEVEL": "banana",
  "JAX_DEBUG_INFS": "banana",
  "JAX_COMPILATION_CACHE_MAX_SIZE": "abc",
  "JAX_OPTIMIZATION_LEVEL": "banana",
  "XLA_FLAGS": "--xla_banana=1",
}


def environment(suite: Suite, long: bool) -> Iterator[Case]:
  """The settings of a kind in one run, and each wrong one in its own."""
  for group in SAME if long else ("ignored by commands",):
    yield f"settings {group}", functools.partial(_same, group=group)
  for name in REFUSED if long else ("JAX_PLATFORMS",):
    yield f"{name}={REFUSED[name]}", functools.partial(_refused, name=name)


def _start(trial: Trial, workdir: str, settings: dict[str, str]) -> Process:
  steps = f"--config.total_steps={STEPS}"
  process = trial.sandbox.start(workdir, steps, settings=settings)
  process.end()
  return process


def _same(trial: Trial, group: str) -> Row:
  workdir, settings = trial.new_workdir(), SAME[group]
  process = _start(trial, workdir, settings)
  output, result = process.output(), EXPECTED
  if process.status or "Traceback" in output:
    result = f"status {process.status}: {output[-600:]}"
  elif _losses(workdir) != _losses(trial.whole):
    result = f"{_losses(workdir)} for {_losses(trial.whole)}"
  shutil.rmtree(workdir, ignore_errors=True)
  return {
    "fault": f"environment variables {group}",
    "at": ", ".join(f"{name}={value}" for name, value in settings.items()),
    "status": process.status,
    "result": result,
    "count": len(settings),
  }


def _refused(trial: Trial, name: str) -> Row:
  workdir = trial.new_workdir()
  process = _start(trial, workdir, {name: REFUSED[name]})
  output, result = process.output(), EXPECTED
  if process.status != 2 or "Traceback" in output or name not in output:
    result = f"status {process.status}: {output[-600:]}"
  elif pathlib.Path(workdir).exists():
    result = "it wrote to the workdir"
  return {
    "fault": "environment variables that are wrong",
    "at": f"{name}={REFUSED[name]}",
    "status": process.status,
    "result": result,
  }


def _losses(workdir: str) -> list[dict]:
  """The training lines of the first steps without timings."""
  lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
  return [
    {key: value for key, value in line.items() if key not in TIMINGS}
    for line in map(json.loads, lines)
    if line["split"] == "train" and line["step"] <= STEPS
  ]
