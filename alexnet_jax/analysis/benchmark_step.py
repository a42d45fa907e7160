"""Times the training step and inference, alone and behind the real input.

The yardsticks are a large product of float32 matrices, and a large copy, on all
cores or on each accelerator at the same time: nothing on the machine computes
or moves much faster.
Rounds alternate, so that what else the machine does troubles all rows alike.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.analysis.benchmark_input import time_stream
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.training.recipe import Recipe
from alexnet_jax.training.step import Batch

MATRIX = 4096
COPIED = 2**28  # bytes, more than any cache holds


def forward_flops(network: Network) -> dict[str, int]:
  """Operations of an image's forward pass by layer, all towers; 2 a product."""
  layers = networks.counts(network)["layers"]
  return {layer["name"]: 2 * layer["macs"] for layer in layers}


def training_flops(network: Network) -> int:
  """Operations of an image in training: three times the forward pass.

  The first layer's gradient with respect to the image is never computed.
  """
  flops = forward_flops(network)
  return 3 * sum(flops.values()) - next(iter(flops.values()))


def benchmark_step(
  recipe: Recipe,
  mesh: Mesh,
  *,
  rounds: int = 7,
  matrix: int = MATRIX,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Times the step as training compiles it, on one batch that stays there.

  Args:
    recipe: what to train.
    mesh: where.
    rounds: how often each row is timed; once more to warm up.
    matrix: side of the yardstick's matrices.

  Returns:
    rows "train", "inference", "matmul_peak" and "memory_copy", each with
    `images_per_second`, `ms` of a batch (min, median, max) and
    `flops_per_second`, or of the last `bytes_per_second`; details:
    `share_of_peak` of the first two; of the training step, by the compiler's
    own account for one device, `bytes_accessed` and `memory_bytes`
    (arguments, temporaries); `share_of_roofline`, which is the time that the
    two yardsticks would need for its operations or its bytes, whichever is
    longer, over the time it takes; `training_flops_per_image`;
    `seconds_to_first_step` (weights, compilation and all, but not imports).
  """
  yardstick = _yardstick_mesh(mesh)
  start = time.perf_counter()
  train, inference, compiled = make_programs(recipe, mesh)
  train()
  seconds_to_first_step = time.perf_counter() - start
  seconds = alternate(
    {
      "train": train,
      "inference": inference,
      "matmul_peak": _matmul(yardstick, matrix),
      "memory_copy": _copy(yardstick),
    },
    rounds,
  )
  batch_size = recipe.batch_size
  flops = {
    "train": batch_size * training_flops(recipe.network),
    "inference": batch_size * sum(forward_flops(recipe.network).values()),
    "matmul_peak": yardstick.size * 2 * matrix**3,
  }
  rates = {
    name: count / float(np.median(seconds[name]))
    for name, count in flops.items()
  }
  rows = [
    row(name, times, batch_size if name in ("train", "inference") else 0)
    for name, times in seconds.items()
  ]
  for each in rows[:-1]:
    each["flops_per_second"] = rates[each["name"]]
  bandwidth = yardstick.size * 2 * COPIED / np.median(seconds["memory_copy"])
  rows[-1]["bytes_per_second"] = float(bandwidth)
  accessed = compiled.cost_analysis()["bytes accessed"]
  memory = compiled.memory_analysis()
  least = max(
    flops["train"] / rates["matmul_peak"],
    accessed * mesh.size / float(bandwidth),
  )
  details = {
    "batch_size": batch_size,
    "share_of_peak": {
      name: rates[name] / rates["matmul_peak"]
      for name in ("train", "inference")
    },
    "share_of_roofline": least / float(np.median(seconds["train"])),
    "bytes_accessed": accessed,
    "memory_bytes": {
      "arguments": memory.argument_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
    },
    "training_flops_per_image": training_flops(recipe.network),
    "seconds_to_first_step": seconds_to_first_step,
  }
  return rows, details


def make_programs(
  recipe: Recipe, mesh: Mesh
) -> tuple[Callable[[], None], Callable[[], None], jax.stages.Compiled]:
  """What does one training step, and what evaluates one batch, when called;
  and the compiled training step."""
  state, *inputs = recipe.noise(mesh)
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


def benchmark_end_to_end(
  recipe: Recipe,
  mesh: Mesh,
  batches: Callable[[], Iterator[Batch]],
  *,
  steps: int = 8,
  rounds: int = 5,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Times training from the files, beside the step alone and the input alone.

  Args:
    recipe, mesh: as above.
    batches: begins the input anew: an endless iterator of batches on devices.
    steps: of a round.
    rounds: how many.

  Returns:
    rows "step", "end_to_end" and "input"; details: `share_of_step`, the rate
    end to end over that of the step alone; `waited`, the fraction of the time
    that the step waited for images; `limited_by`, "input" or "step".
  """
  state, batch, *rest = recipe.noise(mesh)
  train_step = recipe.train_step(mesh)
  waited = []

  def train(next_batch):
    """Some steps, each sent before the last is waited for, as in training."""
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

  feeding = [time_stream(batches(), steps) for _ in range(rounds)]
  stream = batches()
  seconds = alternate(
    {
      "step": lambda: train(lambda: batch),
      # While the step alone was timed the input ran ahead, as far as it may.
      "end_to_end": lambda: waited.append(train(lambda: next(stream))),
    },
    rounds,
  ) | {"input": np.array(feeding)}
  rows = [
    row(name, times / steps, recipe.batch_size)
    for name, times in seconds.items()
  ]
  rates = {each["name"]: each["images_per_second"] for each in rows}
  whole = float(np.median(seconds["end_to_end"]))
  details = {
    "batch_size": recipe.batch_size,
    "share_of_step": rates["end_to_end"] / rates["step"],
    "waited": float(np.median(waited[1:])) / whole,
    "limited_by": "input" if rates["input"] < rates["step"] else "step",
  }
  return rows, details


def alternate(
  functions: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, np.ndarray]:
  """Seconds of each function in each round, after a round that warms up."""
  seconds = {name: [] for name in functions}
  for round_ in range(rounds + 1):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      if round_:
        seconds[name].append(time.perf_counter() - start)
  return {name: np.array(times) for name, times in seconds.items()}


def row(name: str, seconds: np.ndarray, batch_size: int) -> dict[str, Any]:
  """A row of the table: `images_per_second` of the median, `ms` of a batch."""
  ms = seconds * 1e3
  return {
    "name": name,
    "images_per_second": batch_size / float(np.median(seconds)),
    "ms": {
      "min": float(ms.min()),
      "median": float(np.median(ms)),
      "max": float(ms.max()),
    },
  }


def _matmul(mesh, side):
  """One product of side x side matrices on each device, all at once."""
  spec = P(mesh.axis_names)
  array = sharding.place(
    np.ones((mesh.size, side, side), np.float32) / side, spec, mesh
  )
  product = jax.jit(
    sharding.on_each_device(
      lambda a: jnp.matmul(a[0], a[0])[None], mesh, spec, spec
    )
  )
  return lambda: product(array).block_until_ready()


def _copy(mesh):
  """Reads COPIED bytes on each device and writes as many, all at once."""
  spec = P(mesh.axis_names)
  zeros = np.zeros((mesh.size, COPIED // 4), np.float32)
  array = sharding.place(zeros, spec, mesh)
  return lambda: jax.block_until_ready(jnp.negative(array))


def _yardstick_mesh(mesh):
  """Where the product is the fastest: CPU devices share all cores, and two
  products at once are slower together than one after the other."""
  if mesh.devices.flat[0].platform != "cpu":
    return mesh
  return sharding.make_mesh(1, 1, devices=list(mesh.devices.flat))
