"""Checks of a machine before a long run: devices, results and speed."""

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
from jax.sharding import Mesh

from alexnet_jax.analysis import programs, timing
from alexnet_jax.data import pipeline, sources
from alexnet_jax.model import network, sharding
from alexnet_jax.runtime import config
from alexnet_jax.training import metrics
from alexnet_jax.training.job import Recipe

TIMINGS = ("seconds", "images_per_second", "data_wait_fraction")
TINY_RUN = (
  "--config.dataset=patterns/10",
  "--config.splits.train=train[:96]",
  "--config.splits.validation=validation[:32]",
  "--config.network.width=0.0625",
  "--config.network.crop_size=64",
  "--config.image_size=72",
  "--config.batch_size=16",
  "--config.report_at_end=False",
  "--config.total_steps=8",
  "--config.log_every_steps=1",
  "--config.checkpoint_every_steps=2",
)


class Failure(Exception):
  """A check failed; the message says how."""


def check_resume() -> str:
  """Compares a run that is killed and resumed with an uninterrupted run."""
  with tempfile.TemporaryDirectory() as folder:
    whole, killed = f"{folder}/whole", f"{folder}/killed"
    environment = dict(
      os.environ,
      JAX_COMPILATION_CACHE_DIR=f"{folder}/compiled",
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    _finish(_start(whole, environment))
    process = _start(killed, environment)
    _wait_for_step(5, killed, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _finish(_start(killed, environment))
    if _record(whole) != _record(killed):
      raise Failure("the resumed run differs from an uninterrupted run")
  return "killed after step 5 and resumed: equal to an uninterrupted run"


def check_devices() -> str:
  """Names JAX's devices; a CPU is split into four."""
  jax.config.update("jax_num_cpu_devices", 4)
  devices = jax.devices()
  kinds = ", ".join(sorted({device.device_kind for device in devices}))
  platform, cores = devices[0].platform, os.cpu_count()
  return f"{len(devices)} {platform} devices ({kinds}), {cores} CPU cores"


def check_meshes() -> str:
  """Compares one update on every mesh that fits with the one-device mesh."""
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
  return f"data x model {names}: one update differs by at most {worst:.0e}"


def check_exchanges() -> str:
  """Compares the compiled programs with the exchanges of configs/paper.py."""
  model = 2 if jax.device_count() > 1 else 1
  recipe = Recipe.from_config(config.load("paper").to_dict(), batch_size=2)
  result = programs.audit(recipe, sharding.make_mesh(1, model))
  if result.findings:
    raise Failure("; ".join(result.findings))
  if model == 1:
    return "one device holds both towers: nothing to exchange"
  between = [c for c in result.collectives if sharding.MODEL in c.axes]
  return (
    f"{len(between)} collectives between towers in two compiled programs, at"
    f" {', '.join(recipe.network.exchanges)} as declared"
  )


def check_input() -> str:
  """Times reading and decoding of the embedded data."""
  source = sources.open_split("patterns/10", "train")
  batches = pipeline.train_batches(
    source, batch_size=128, seed=0, start_step=0, size=256
  )
  rate = _images_per_second(lambda: next(batches), 128, count=8)
  return f"{rate:,.0f} images/s decoded and rescaled to 256 pixels"


def check_training() -> str:
  """Times training of the full-size network."""
  on_cpu = jax.default_backend() == "cpu"
  mesh = sharding.make_mesh(1, 2) if on_cpu else sharding.make_mesh(towers=2)
  batch_size = (32 if on_cpu else 128) * mesh.shape[sharding.DATA]
  paper = config.load("paper")
  full = network.from_dict(paper.network.to_dict(), paper.num_classes)
  update = _make_update(Recipe(full, batch_size, paper.image_size), mesh)

  def train():
    _, loss = update()
    if not np.isfinite(loss):
      raise Failure(f"the loss is {loss}")

  rate = _images_per_second(train, batch_size, count=2 if on_cpu else 20)
  return (
    f"the full-size network trains {rate:,.1f} images/s, batch size"
    f" {batch_size}, mesh {sharding.describe_mesh(mesh)}"
  )


CHECKS: dict[str, Callable[[], str]] = {
  # First, before JAX starts in this process: two processes may not fit on one
  # accelerator.
  "kill and resume": check_resume,
  "devices": check_devices,
  "meshes": check_meshes,
  "exchanges": check_exchanges,
  "input": check_input,
  "throughput": check_training,
}


def _start(workdir: str, environment: dict[str, str]) -> subprocess.Popen:
  arguments = [sys.executable, "-m", "alexnet_jax.main"]
  arguments += ["--config=quickstart", f"--workdir={workdir}", *TINY_RUN]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
  return subprocess.Popen(arguments, env=environment, text=True, **pipes)


def _wait_for_step(step: int, workdir: str, process: subprocess.Popen) -> None:
  """Waits until the metrics have this step, or the process has ended."""
  while process.poll() is None:
    if any(line["step"] >= step for line in metrics.read(workdir)):
      return
    time.sleep(0.02)


def _finish(process: subprocess.Popen) -> None:
  output, _ = process.communicate()
  if status := process.returncode:
    raise Failure(f"training exited with status {status}: {output[-400:]}")


def _record(workdir: str) -> tuple[list[dict], dict]:
  """Metrics without timings, and the checksums of the last checkpoint."""
  lines = []
  for text in pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines():
    line = json.loads(text)
    lines.append({k: v for k, v in line.items() if k not in TIMINGS})
  last = pathlib.Path(workdir, "checkpoints", "8", "metadata", "metadata")
  return lines, json.loads(last.read_text())["checksums"]


def _update(data: int, model: int) -> list[np.ndarray]:
  """The parameters of a small network after one update."""
  quickstart = config.load("quickstart")
  quickstart.network.width, quickstart.network.crop_size = 1 / 16, 64
  small = network.from_dict(quickstart.network.to_dict(), 10)
  mesh = sharding.make_mesh(data, model)
  net, _ = _make_update(Recipe(small, 8, 72), mesh)()
  return [np.asarray(leaf) for leaf in jax.tree.leaves(net)]


def _make_update(recipe: Recipe, mesh: Mesh) -> Callable[[], tuple]:
  """A function that does one update on noise; returns network and loss."""
  state, batch, statistics, key, _ = recipe.random_arguments(mesh)
  train_step = recipe.train_step(mesh)

  def update():
    nonlocal state
    rate = np.float32(0.01)
    state, metrics = train_step(state, batch, statistics, key, rate)
    return state.net, float(metrics["loss"])

  return update


def _images_per_second(
  function: Callable[[], object], batch_size: int, count: int
) -> float:
  """The rate of `count` calls, after one that warms up."""
  function()
  seconds = sum(timing.seconds_of(function) for _ in range(count))
  return count * batch_size / seconds
