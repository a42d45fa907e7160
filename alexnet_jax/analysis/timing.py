"""Times the training step and inference, alone and fed by the input pipeline.

The yardsticks of the step are a large float32 matrix product and a large memory
copy. The rows of a benchmark take turns, so other load on the machine affects
all of them alike.
"""

import collections
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import loading
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import layer_counts
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.step import Batch

MATRIX = 4096
COPIED = 2**28  # bytes, more than any cache holds

Row = dict[str, Any]  # of a benchmark's table, as `--json` has it


def forward_flops(network: Network) -> dict[str, int]:
  """FLOPs (a multiply-add is two) of one image's forward pass by layer."""
  layers = layer_counts(network)["layers"]
  return {layer["name"]: 2 * layer["macs"] for layer in layers}


def training_flops(network: Network) -> int:
  """FLOPs of one image in training: three times the forward pass.

  The gradient of the first layer's input is never computed.
  """
  flops = forward_flops(network)
  return 3 * sum(flops.values()) - next(iter(flops.values()))


class StepSummary(NamedTuple):
  """What a benchmark of the training step found, beside its rows."""

  batch_size: int  # global
  # FLOP/s of "train" and "inference" over those of the matrix product.
  share_of_peak: dict[str, float]
  # The time that the yardsticks need for the step's FLOPs or for its bytes,
  # whichever is longer, over the measured time.
  share_of_roofline: float
  bytes_accessed: float  # on one device, as the compiler counts
  memory_bytes: dict[str, int]  # on one device: "arguments" and "temporaries"
  training_flops_per_image: int  # as `training_flops`
  seconds_to_first_step: float  # initialisation, compilation and one step


def benchmark_step(
  recipe: Recipe, mesh: Mesh, *, rounds: int = 7, matrix: int = MATRIX
) -> tuple[list[Row], StepSummary]:
  """Times the training step and inference on one batch that is on the devices.

  Args:
    rounds: timed rounds, after one that warms up.
    matrix: side of the yardstick's matrices.

  Returns:
    The rows "train", "inference", "matmul_peak" (these with `flops_per_second`)
    and "memory_copy" (with `bytes_per_second`), as `row` makes them.
  """
  batch_size, network = recipe.batch_size, recipe.network
  yardsticks = _yardstick_mesh(mesh)
  start = time.perf_counter()
  train, inference, compiled = make_programs(recipe, mesh)
  train()
  seconds_to_first_step = time.perf_counter() - start
  product, copy = _matmul(yardsticks, matrix), _copy(yardsticks)
  timed = {"train": train, "inference": inference}
  timed |= {"matmul_peak": product, "memory_copy": copy}
  seconds = alternate(timed, rounds)
  flops = {
    "train": batch_size * training_flops(network),
    "inference": batch_size * sum(forward_flops(network).values()),
    "matmul_peak": yardsticks.size * 2 * matrix**3,
  }
  median = {name: float(np.median(times)) for name, times in seconds.items()}
  rates = {name: flops[name] / median[name] for name in flops}
  peak = rates["matmul_peak"]
  bandwidth = yardsticks.size * 2 * COPIED / median["memory_copy"]
  rows = [
    row(name, seconds[name], batch_size, flops_per_second=rates[name])
    for name in ("train", "inference")
  ] + [
    row("matmul_peak", seconds["matmul_peak"], 0, flops_per_second=peak),
    row("memory_copy", seconds["memory_copy"], 0, bytes_per_second=bandwidth),
  ]
  bytes_accessed = compiled.cost_analysis()["bytes accessed"]
  shortest = max(flops["train"] / peak, bytes_accessed * mesh.size / bandwidth)
  memory = compiled.memory_analysis()
  return rows, StepSummary(
    batch_size=batch_size,
    share_of_peak={key: rates[key] / peak for key in ("train", "inference")},
    share_of_roofline=shortest / median["train"],
    bytes_accessed=bytes_accessed,
    memory_bytes={
      "arguments": memory.argument_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
    },
    training_flops_per_image=training_flops(network),
    seconds_to_first_step=seconds_to_first_step,
  )


def make_programs(
  recipe: Recipe, mesh: Mesh
) -> tuple[Callable[[], None], Callable[[], None], jax.stages.Compiled]:
  """Functions that train one step and evaluate one batch; the compiled step."""
  state, *inputs = recipe.random_arguments(mesh)
  batch, statistics, *_ = inputs
  predict = recipe.predict(mesh)
  train_step = recipe.train_step(mesh).lower(state, *inputs).compile()

  def train():
    nonlocal state
    state, metrics = train_step(state, *inputs)
    sharding.fetch(metrics)

  def inference():
    predict(state.net, batch["image"], statistics).block_until_ready()

  return train, inference, train_step


class EndToEndSummary(NamedTuple):
  """What a benchmark of training from files found, beside its rows."""

  batch_size: int  # global
  share_of_step: float  # images/s end to end over images/s of the step alone
  waited: float  # fraction of the time that the step waited for images
  limited_by: str  # "input" or "step", whichever is slower by itself


def benchmark_end_to_end(
  recipe: Recipe,
  mesh: Mesh,
  batches: Callable[[], Iterator[Batch]],
  *,
  steps: int = 8,
  rounds: int = 5,
) -> tuple[list[Row], EndToEndSummary]:
  """Times training from files, the step alone and the input alone.

  Args:
    batches: starts the input: an endless iterator of batches on the devices.
    steps: number of steps in a round.
    rounds: timed rounds, after one that warms up.

  Returns:
    The rows "step", "end_to_end" and "input", as `row` makes them.
  """
  state, batch, *rest = recipe.random_arguments(mesh)
  train_step = recipe.train_step(mesh)
  waited = []

  def train(next_batch):
    """Sends each step before waiting for the last one, as training does."""
    nonlocal state
    results, wait = None, 0.0
    for _ in range(steps):
      start = time.perf_counter()
      images = next_batch()
      wait += time.perf_counter() - start
      before = results
      state, results = train_step(state, images, *rest)
      sharding.fetch(before)
    sharding.fetch(results)
    return wait

  input_seconds = [time_stream(batches(), steps) for _ in range(rounds)]
  stream, size = batches(), recipe.batch_size
  timed = {
    "step": lambda: train(lambda: batch),
    # While the step alone is timed, the input fills its buffers.
    "end_to_end": lambda: waited.append(train(lambda: next(stream))),
  }
  seconds = alternate(timed, rounds) | {"input": np.array(input_seconds)}
  rows = [row(name, times / steps, size) for name, times in seconds.items()]
  rates = {row["name"]: row["images_per_second"] for row in rows}
  return rows, EndToEndSummary(
    batch_size=size,
    share_of_step=rates["end_to_end"] / rates["step"],
    waited=float(np.median(waited[1:]) / np.median(seconds["end_to_end"])),
    limited_by="input" if rates["input"] < rates["step"] else "step",
  )


def time_stream(batches: Iterator[Any], steps: int) -> float:
  """Seconds for `steps` batches, after those that were made in advance."""

  def take(count):
    collections.deque(itertools.islice(batches, count), maxlen=0)

  take(loading.AHEAD + 1)
  return seconds_of(lambda: take(steps))


def seconds_of(function: Callable[[], object]) -> float:
  """Seconds of one call."""
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def alternate(
  functions: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, np.ndarray]:
  """Seconds of each function in each round, after a round that warms up."""
  work = functions.values()
  turns = range(rounds + 1)
  seconds = [[seconds_of(function) for function in work] for _ in turns]
  return dict(zip(functions, np.array(seconds[1:]).T, strict=True))


def row(
  name: str,
  seconds: np.ndarray,
  batch_size: int,
  cores: int = 0,
  **rates: float,
) -> Row:
  """A row of a benchmark's table.

  Args:
    name: of the row.
    seconds: for one batch, f64[rounds].
    batch_size: images in a batch; 0 for a yardstick without images.
    cores: if not 0, how many cores the work used.
    **rates: further figures.

  Returns:
    `name`; `images_per_second` by the median; `ms` of a batch: min, median and
    max; `cores_per_1000_images_per_second` if `cores` is given; the rates.
  """
  rate = batch_size / float(np.median(seconds))
  if cores:
    rates["cores_per_1000_images_per_second"] = 1000 * cores / rate
  functions = {"min": np.min, "median": np.median, "max": np.max}
  ms = {key: 1e3 * float(of(seconds)) for key, of in functions.items()}
  return {"name": name, "images_per_second": rate, "ms": ms, **rates}


def print_rows(rows: list[Row]) -> None:
  """Prints the rows of a benchmark as a table."""
  table = rich.table.Table("")
  for title in ("images/s", "ms/batch: min", "median", "max"):
    table.add_column(title, justify="right")
  for row in rows:
    times = (f"{row['ms'][key]:,.1f}" for key in ("min", "median", "max"))
    table.add_row(row["name"], f"{row['images_per_second']:,.0f}", *times)
  rich.console.Console().print(table)


def _matmul(mesh: Mesh, side: int) -> Callable[[], Any]:
  """One product of side x side matrices on each device, all at once."""
  spec = P(mesh.axis_names)
  matrices = np.ones((mesh.size, side, side), np.float32) / side
  array = sharding.place(matrices, spec, mesh)

  def square(a):
    return jnp.matmul(a[0], a[0])[None]

  product = jax.jit(sharding.on_each_device(square, mesh, spec, spec))
  return lambda: product(array).block_until_ready()


def _copy(mesh: Mesh) -> Callable[[], Any]:
  """Reads COPIED bytes on each device and writes as many, all at once."""
  zeros = np.zeros((mesh.size, COPIED // 4), np.float32)
  array = sharding.place(zeros, P(mesh.axis_names), mesh)
  return lambda: jax.block_until_ready(jnp.negative(array))


def _yardstick_mesh(mesh: Mesh) -> Mesh:
  """All devices; of a CPU only one, because they share all cores."""
  if mesh.devices.flat[0].platform != "cpu":
    return mesh
  return sharding.make_mesh(1, 1, devices=list(mesh.devices.flat))
