"""Times the training step and inference, alone and behind the real input.

The yardstick is a large product of float32 matrices on all cores, or on each
accelerator at the same time: nothing on the machine computes much faster.
Rounds alternate, so that what else the machine does troubles all rows alike.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax import network as networks
from alexnet_jax import sharding
from alexnet_jax.network import Network
from alexnet_jax.recipe import Recipe
from alexnet_jax.step import Batch

MATRIX = 4096


def forward_flops(network: Network) -> dict[str, int]:
  """Operations of an image's forward pass by layer, all towers; 2 a product."""
  flops = {}
  for name, layer, inputs, convolved, _ in networks.shapes(network):
    reads = inputs[-1]
    if layer.size:
      reads = layer.size**2 * inputs[-1] // layer.groups
    flops[name] = 2 * int(np.prod(convolved)) * reads * network.towers
  return flops


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
    rows "train" (augmentation, dropout and update included), "inference" and
    "matmul_peak", with `images_per_second`, `ms` (min, median, max) and
    `flops_per_second`; and details: `share_of_peak` of the first two,
    `training_flops_per_image`, `seconds_to_first_step` (weights, compilation
    and all, but not imports).
  """
  yardstick = _yardstick_mesh(mesh)
  start = time.perf_counter()
  train, inference = make_programs(recipe, mesh)
  train()
  seconds_to_first_step = time.perf_counter() - start
  seconds = alternate(
    {
      "train": train,
      "inference": inference,
      "matmul_peak": _matmul(yardstick, matrix),
    },
    rounds,
  )
  batch_size = recipe.batch_size
  flops = {
    "train": batch_size * training_flops(recipe.network),
    "inference": batch_size * sum(forward_flops(recipe.network).values()),
    "matmul_peak": yardstick.size * 2 * matrix**3,
  }
  rows = [
    row(name, times, 0 if name == "matmul_peak" else batch_size)
    | {"flops_per_second": flops[name] / float(np.median(times))}
    for name, times in seconds.items()
  ]
  *networks_rows, peak = rows
  details = {
    "batch_size": batch_size,
    "share_of_peak": {
      r["name"]: r["flops_per_second"] / peak["flops_per_second"]
      for r in networks_rows
    },
    "training_flops_per_image": training_flops(recipe.network),
    "seconds_to_first_step": seconds_to_first_step,
  }
  return rows, details


def make_programs(
  recipe: Recipe, mesh: Mesh
) -> tuple[Callable[[], None], Callable[[], None]]:
  """What does one training step, and what evaluates one batch, when called."""
  state, batch, statistics, key, rate = recipe.noise(mesh)
  train_step, predict = recipe.train_step(mesh), recipe.predict(mesh)

  def train():
    nonlocal state
    state, metrics = train_step(state, batch, statistics, key, rate)
    jax.device_get(metrics)  # as the training loop does

  def inference():
    predict(state.net, batch["image"], statistics).block_until_ready()

  return train, inference


def benchmark_end_to_end(
  recipe: Recipe,
  mesh: Mesh,
  batches: Callable[[], Iterator[Batch]],
  *,
  steps: int = 4,
  rounds: int = 5,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Times training from the files, beside the step alone and the input alone.

  Args:
    recipe, mesh: as above.
    batches: begins the input anew: an endless iterator of batches on devices.
    steps: of a round.
    rounds: how many.

  Returns:
    rows "step", "input" and "end_to_end"; details: `share_of_step`, the rate
    end to end over that of the step alone; `waited`, the fraction of the time
    that the step waited for images; `limited_by`, "input" or "step".
  """
  state, batch, statistics, key, rate = recipe.noise(mesh)
  train = recipe.train_step(mesh)
  stream = batches()
  waited = []

  def train_on(batch):
    nonlocal state
    state, metrics = train(state, batch, statistics, key, rate)
    jax.device_get(metrics)

  def alone():
    for _ in range(steps):
      train_on(batch)

  def end_to_end():
    wait = 0.0
    for _ in range(steps):
      start = time.perf_counter()
      images = next(stream)
      wait += time.perf_counter() - start
      train_on(images)
    waited.append(wait)

  def input_alone():
    jax.block_until_ready(list(itertools.islice(stream, steps)))

  # The input runs ahead while the step alone is timed, so "end_to_end" begins
  # with what it finds ready; "input" uses that up first.
  seconds = alternate(
    {"step": alone, "input": input_alone, "end_to_end": end_to_end}, rounds
  )
  rows = [
    row(name, times / steps, recipe.batch_size)
    for name, times in seconds.items()
  ]
  rates_ = {r["name"]: r["images_per_second"] for r in rows}
  whole = float(np.median(seconds["end_to_end"]))
  details = {
    "batch_size": recipe.batch_size,
    "share_of_step": rates_["end_to_end"] / rates_["step"],
    "waited": float(np.median(waited)) / whole,
    "limited_by": "input" if rates_["input"] < rates_["step"] else "step",
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


def _yardstick_mesh(mesh):
  """Where the product is the fastest: CPU devices share all cores, and two
  products at once are slower together than one after the other."""
  if mesh.devices.flat[0].platform != "cpu":
    return mesh
  return sharding.make_mesh(1, 1, devices=list(mesh.devices.flat))
