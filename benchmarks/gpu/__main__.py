"""Measures this project on a GPU: one command, about nine minutes.

  python -m benchmarks.gpu [--minutes=9] [--output=DIR] [--stages=right,forms]
      [--dataset=NAME --data_dir=DIR]
  JAX_PLATFORMS=cpu python -m benchmarks.gpu --tiny

The stages run in order of value. Each is a process of its own with a time
limit, so a crash, a hang or the end of the time costs one stage at most, and
DIR/record.json is whole after every figure. DIR/log.txt has what the stages
print. docs/gpu.md explains the figures. Without --dataset, images are drawn.
--tiny tries all stages with a narrow network, on a CPU too.
"""

import contextlib
import functools
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from absl import flags

from alexnet_jax.runtime import command, paths, provenance
from benchmarks.gpu.record import Record, read
from benchmarks.gpu.sizes import DRAWN, Sizes

# The stages in order of value: module, function, and limit in seconds. What a
# stage leaves of its limit, the next ones have.
STAGES = {
  "machine": ("__main__", "machine", 40),
  "right": ("right", "right", 95),
  "program": ("program", "program", 75),
  "throughput": ("throughput", "throughput", 130),
  "torch_eager": ("torch_throughput", "eager", 45),
  "torch_compile": ("torch_throughput", "compiled", 85),
  "forms": ("forms", "forms", 95),
  "end_to_end": ("program", "end_to_end", 70),
  "repetition": ("repetition", "repetition", 80),
  "resume": ("program", "resume", 90),
}
# Parts of stages that run in processes of their own.
PARTS = {
  "draw": ("program", "draw", 0),
  "digest": ("repetition", "digest", 0),
}
FROM_FILES = ("program", "end_to_end")  # the stages that read a dataset
LEAST = 8.0  # seconds with which no stage begins
TRIAL = 20  # times the limits in a trial, on a CPU that may do other things


def main() -> None:
  sizes = Sizes.of_a_trial() if _TINY.value else Sizes()
  if _STAGE.value:
    run_stage(_STAGE.value, sizes)
    return
  stages = _STAGES.value or list(STAGES)
  for name in stages:
    if name not in STAGES:
      raise command.UserError(
        f"--stages={name} is unknown; choose from {', '.join(STAGES)}."
      )
  if not _DATA_DIR.value and _DATASET.value != DRAWN:
    raise command.UserError(
      f"--dataset={_DATASET.value} needs --data_dir=DIR, the folder that holds"
      " it."
    )
  os.makedirs(_OUTPUT.value, exist_ok=True)
  with tempfile.TemporaryDirectory() as scratch:
    run_session(stages, scratch)
  print(summary(_OUTPUT.value))


def machine(record: Record, sizes: Sizes) -> None:
  """The card, its driver and the versions of the libraries."""
  line = f"python -m benchmarks.gpu --minutes={_MINUTES.value:g}"
  origin = provenance.record(
    "one GPU: right, fast, repeatable", line + " --tiny" * sizes.tiny, {}
  )
  record.describe(origin)
  import jax

  record["devices"] = [device.device_kind for device in jax.devices()]
  record["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
  fields = "name,driver_version,memory.total,clocks.max.sm,power.limit"
  with record.trying("nvidia-smi"):
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    record["nvidia-smi"] = done.stdout.strip() or done.stderr.strip()


def run_stage(name: str, sizes: Sizes) -> None:
  """Runs one stage, or a part of one, in this process."""
  module, function, _ = (STAGES | PARTS)[name]
  if module == "__main__":
    work = machine
  else:
    found = importlib.import_module(f"benchmarks.gpu.{module}")
    work = getattr(found, function)
  if name == "draw":
    return work(sizes, _DATA_DIR.value)
  record = Record(_OUTPUT.value, name, sizes.tiny)
  if name in FROM_FILES:
    from benchmarks.gpu.program import Dataset

    work = functools.partial(
      work, dataset=Dataset(_DATASET.value, _DATA_DIR.value)
    )
  with contextlib.nullcontext() if name == "digest" else record.trying(name):
    work(record, sizes)
  return None


def run_session(stages: list[str], scratch: str) -> None:
  """Runs the stages, each in a process, until the minutes are over."""
  end = time.monotonic() + 60 * _MINUTES.value
  data_dir = _DATA_DIR.value or scratch
  arguments = [
    *(sys.executable, "-m", "benchmarks.gpu", f"--output={_OUTPUT.value}"),
    *(f"--dataset={_DATASET.value}", f"--data_dir={data_dir}"),
    *(f"--minutes={_MINUTES.value:g}", *["--tiny"] * _TINY.value),
  ]
  environment = os.environ | {
    "PYTHONUNBUFFERED": "1",
    "JAX_COMPILATION_CACHE_DIR": f"{scratch}/compiled",
  }
  if _TINY.value:  # nothing is fast there, but it compiles in half of the time
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  with open(pathlib.Path(_OUTPUT.value, "log.txt"), "a") as log:
    start = functools.partial(
      subprocess.Popen, stdout=log, stderr=log, start_new_session=True
    )
    drawing = None
    if set(stages) & set(FROM_FILES) and not _DATA_DIR.value:
      drawing = start(
        [*arguments, "--stage=draw"],
        env=environment | {"JAX_PLATFORMS": "cpu"},
      )
    for name in stages:
      left = end - time.monotonic()
      if left < LEAST:
        print(f"{name}: not begun, the time is over")
        continue
      limit = STAGES[name][2] * (TRIAL if _TINY.value else 1)
      limit, began = min(left, limit), time.monotonic()
      process = start([*arguments, f"--stage={name}"], env=environment)
      how = _wait(process, limit)
      text = f"{how} after {time.monotonic() - began:.0f} s"
      Record(_OUTPUT.value, name)["ended"] = text
    if drawing:
      _wait(drawing, 0)


def _wait(process: subprocess.Popen, seconds: float) -> str:
  """Waits for a process; ends it, and what it started, when time is over."""
  try:
    return f"status {process.wait(seconds)}"
  except subprocess.TimeoutExpired:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "out of time"


def summary(folder: str) -> str:
  """A line for each stage and each of its figures that are a rate."""
  lines = []
  for stage, figures in read(folder)["result"].items():
    lines.append(f"{stage}: {figures.get('ended', 'running')}")
    for name, value in figures.items():
      text = _in_short(value)
      if text:
        lines.append(f"  {name}: {text}")
  return "\n".join(lines)


def _in_short(value) -> str:
  """A figure in a few words; "" for those to be read in the record."""
  if isinstance(value, bool | float):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
  if not isinstance(value, dict):
    return ""
  if "failed" in value:
    return f"FAILED: {value['failed'][:100]}"
  if "images_per_second" in value:
    share = value.get("share of the measured peak")
    text = f"{value['images_per_second']:,.0f} images/s"
    return text + (f", {share:.0%} of the measured peak" if share else "")
  if "median" in value:
    return f"{value['median']:.3g} ms"
  if set(map(type, value.values())) <= {bool, float, list}:
    return ", ".join(f"{name}: {value[name]}" for name in value)[:160]
  return ""


if __name__ == "__main__":
  _MINUTES = flags.DEFINE_float("minutes", 9.0, "time for all stages", 0.1)
  _OUTPUT = paths.DEFINE_output_folder(
    "output", "runs/gpu", "folder for the record"
  )
  _STAGES = flags.DEFINE_list("stages", [], "some of the stages; default: all")
  _DATASET = flags.DEFINE_string(
    "dataset", DRAWN, "prepared dataset; default: drawn images"
  )
  _DATA_DIR = paths.DEFINE_path("data_dir", "", "folder that holds --dataset")
  _TINY = flags.DEFINE_bool("tiny", False, "a trial with a narrow network")
  _STAGE = flags.DEFINE_string("stage", "", "internal: run this stage")
  command.run(main)
