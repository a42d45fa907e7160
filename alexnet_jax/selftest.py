"""What to run on a new machine before a long run: a verdict a line.

  python -m alexnet_jax.selftest

Checks the devices, that every mesh trains the same network, that the towers
exchange what the paper says, that a killed run goes on as if nothing had
happened, and how fast it all is. Exit status 1 if anything failed.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
from rich.console import Console

from alexnet_jax.analysis import programs
from alexnet_jax.data import pipeline, sources
from alexnet_jax.model import network, sharding
from alexnet_jax.runtime import command, config
from alexnet_jax.training import recipe as recipes
from alexnet_jax.training.recipe import Recipe

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMINGS = ("seconds", "images_per_second", "data_wait_fraction")
TINY = (
  "--config.dataset=patterns/10",
  "--config.splits.train=train[:96]",
  "--config.splits.validation=validation[:32]",
  "--config.network.width=0.0625",
  "--config.network.crop_size=64",
  "--config.image_size=72",
  "--config.batch_size=16",
  "--config.total_steps=8",
  "--config.log_every_steps=1",
  "--config.checkpoint_every_steps=2",
)


class Failure(Exception):
  """A check that did not hold, and why."""


def check_resume() -> str:
  """Kills a training run and compares what it becomes with a whole one."""
  with tempfile.TemporaryDirectory() as folder:
    whole, killed = f"{folder}/whole", f"{folder}/killed"
    environment = dict(
      os.environ,
      JAX_COMPILATION_CACHE_DIR=f"{folder}/compiled",
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    _finish(_start(whole, environment))
    process = _start(killed, environment)
    for line in process.stdout:
      if line.startswith("step 5/"):
        break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _finish(_start(killed, environment))
    if _record(whole) != _record(killed):
      raise Failure("the resumed run is another one than the whole run")
  return "killed after step 5 and resumed: bit for bit the whole run"


def check_devices() -> str:
  """Names what JAX sees; of a CPU it makes four."""
  jax.config.update("jax_num_cpu_devices", 4)
  devices = jax.devices()
  kinds = sorted({device.device_kind for device in devices})
  return (
    f"{len(devices)} {devices[0].platform} devices ({', '.join(kinds)}),"
    f" {os.cpu_count()} CPU cores"
  )


def check_meshes() -> str:
  """One update on every mesh that fits, against the one-device mesh."""
  sizes = [(1, 1), (1, 2), (2, 1), (2, 2)]
  sizes = [size for size in sizes if np.prod(size) <= jax.device_count()]
  first, worst = _update(*sizes[0]), 0.0
  for size in sizes[1:]:
    for expected, got in zip(first, _update(*size), strict=True):
      scale = max(float(np.abs(expected).max()), 1e-6)
      worst = max(worst, float(np.abs(expected - got).max()) / scale)
  if not worst < 1e-3:
    raise Failure(f"one update differs by {worst:.1e} of the largest element")
  names = ", ".join(f"{data}x{model}" for data, model in sizes)
  return f"data x model {names}: one update is the same to {worst:.0e}"


def check_exchanges() -> str:
  """Compares the compiled program with what the configuration declares."""
  model = 2 if jax.device_count() > 1 else 1
  paper = config.load(str(ROOT / "configs" / "paper.py"))
  recipe = recipes.from_config(paper.to_dict(), batch_size=2)
  found = programs.audit(recipe, sharding.make_mesh(1, model))
  if found.findings:
    raise Failure("; ".join(found.findings))
  if model == 1:
    return "one device: the towers exchange nothing"
  between = [c for c in found.collectives if sharding.MODEL in c.axes]
  return (
    f"{len(between)} collectives between the towers in the two compiled"
    f" programs, at {', '.join(paper.network.exchanges)} as declared"
  )


def check_input() -> str:
  """Reads and decodes the embedded data."""
  source = sources.open_split("patterns/10", "train")
  batches = pipeline.train_batches(
    source, batch_size=128, seed=0, start_step=0, size=256
  )
  next(batches)
  began, count = time.monotonic(), 8
  for _ in range(count):
    next(batches)
  rate = count * 128 / (time.monotonic() - began)
  return f"{rate:,.0f} images/s decoded and rescaled to 256 pixels"


def check_throughput() -> str:
  """Trains the full-size network a few steps."""
  paper = config.load(str(ROOT / "configs" / "paper.py"))
  full = network.from_dict(paper.network.to_dict(), paper.num_classes)
  on_cpu = jax.default_backend() == "cpu"
  mesh = sharding.make_mesh(1, 2) if on_cpu else sharding.make_mesh(towers=2)
  batch_size = (32 if on_cpu else 128) * mesh.shape[sharding.DATA]
  run = _trainer(full, mesh, batch_size, paper.image_size)
  run()
  began, count = time.monotonic(), 2 if on_cpu else 20
  for _ in range(count):
    loss = run()
  rate = count * batch_size / (time.monotonic() - began)
  if not np.isfinite(loss):
    raise Failure(f"the loss is {loss}")
  return (
    f"{rate:,.1f} images/s trained by the full-size network, batch"
    f" {batch_size} on mesh {sharding.describe_mesh(mesh)}"
  )


CHECKS: dict[str, Callable[[], str]] = {
  # Before JAX starts here: two processes may not fit on one accelerator.
  "kill and resume": check_resume,
  "devices": check_devices,
  "meshes": check_meshes,
  "exchanges": check_exchanges,
  "input": check_input,
  "throughput": check_throughput,
}


def main() -> int:
  console = Console(highlight=False, soft_wrap=True)
  failures = 0
  for name, check in CHECKS.items():
    began = time.monotonic()
    try:
      with console.status(f"{name} ..."):
        verdict, told = "ok    ", check()
    except Exception as error:  # any failure is a verdict, not the end
      verdict, told = "FAILED", " ".join(f"{error!r}".split())[:500]
      failures += 1
    seconds = time.monotonic() - began
    line = f"{verdict} {name}: {told} ({seconds:.0f} s)"
    console.print(line, markup=False)
  print("all is well" if not failures else f"{failures} checks failed")
  return 1 if failures else 0


def _start(workdir: str, environment: dict[str, str]) -> subprocess.Popen:
  command_line = [sys.executable, "-m", "alexnet_jax.main"]
  command_line += [f"--config={ROOT / 'configs' / 'quickstart.py'}"]
  return subprocess.Popen(
    [*command_line, f"--workdir={workdir}", *TINY],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _finish(process: subprocess.Popen) -> None:
  said, _ = process.communicate()
  if process.returncode:
    raise Failure(f"training ends with {process.returncode}: {said[-400:]}")


def _record(workdir: str) -> tuple[list[dict], dict]:
  """Metrics lines without timings; checksums of the last arrays."""
  lines = []
  for text in pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines():
    line = json.loads(text)
    lines.append({k: v for k, v in line.items() if k not in TIMINGS})
  last = pathlib.Path(workdir, "checkpoints", "8", "metadata", "metadata")
  return lines, json.loads(last.read_text())["checksums"]


def _update(data: int, model: int) -> list[np.ndarray]:
  """The parameters of a small network after one update."""
  quickstart = config.load(str(ROOT / "configs" / "quickstart.py"))
  quickstart.network.width, quickstart.network.crop_size = 1 / 16, 64
  small = network.from_dict(quickstart.network.to_dict(), 10)
  run = _trainer(small, sharding.make_mesh(data, model), 8, 72)
  return run(parameters=True)


def _trainer(net, mesh, batch_size: int, image_size: int) -> Callable:
  """A function that makes one update on fixed noise and returns the loss."""
  recipe = Recipe(net, batch_size, image_size)
  state, batch, statistics, key, _ = recipe.noise(mesh)
  train_step = recipe.train_step(mesh)

  def run(parameters: bool = False):
    nonlocal state
    rate = np.float32(0.01)
    state, metrics = train_step(state, batch, statistics, key, rate)
    if parameters:
      return [np.asarray(leaf) for leaf in jax.tree.leaves(state.net)]
    return float(metrics["loss"])

  return run


if __name__ == "__main__":
  command.run(main)
