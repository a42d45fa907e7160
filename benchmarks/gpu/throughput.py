"""Throughput: the training step at several sizes, its peaks, a profile."""

import concurrent.futures
import gzip

import jax
import jax.numpy as jnp

from alexnet_jax.analysis import chips, timing, traffic
from alexnet_jax.model import layers, sharding
from benchmarks.gpu import profile
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import PRECISIONS, Sizes

IN_FLIGHT = 10  # steps that are sent before the last one is waited for


def throughput(record: Record, sizes: Sizes) -> None:
  """Times the step, first at the middle batch size, beside the peaks."""
  mesh = sharding.make_mesh(1, 1)
  peaks = {name: None for name in PRECISIONS}
  for name in PRECISIONS:
    with record.trying(f"peak {name}"):
      peaks[name] = _peak(record, name, sizes.matrix)
      record[f"peak {name}, FLOP/s"] = peaks[name]
  with record.trying("copy"):
    record["copy, bytes/s"] = _copy(record, sizes.copied)
  chip = published(jax.devices()[0])
  if chip:
    record["published peaks, FLOP/s"] = chip.rates
    record["published memory bandwidth, bytes/s"] = chip.memory_bandwidth
  # The compiler tries kernels on the device, so one program at a time is
  # compiled ahead of the one that is timed.
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    found = {
      program: pool.submit(_compile, sizes, mesh, *program)
      for program in sizes.programs
    }
    for name, batch in sizes.programs:
      with record.trying(f"{name} {batch}"):
        peak = chip.rates[name] if chip else None
        run = found.pop((name, batch)).result()
        record[f"{name} {batch}"] = _time_step(
          record, sizes, mesh, name, batch, run, (peaks[name], peak)
        )


def published(device: jax.Device) -> chips.Chip | None:
  """The published figures of a GPU, if the project's table has it."""
  return next(
    (
      chip
      for chip in chips.CHIPS.values()
      if getattr(chip, "name", None) == device.device_kind
    ),
    None,
  )


def _compile(sizes, mesh, name, batch):
  recipe = sizes.recipe(name, batch)
  arguments = recipe.abstract_arguments(mesh)
  return recipe.train_step(mesh).lower(*arguments).compile()


def _time_step(record, sizes, mesh, name, batch, run, peaks):
  """Times a compiled step; a profile of it at the middle batch size."""
  recipe = sizes.recipe(name, batch)
  state, *inputs = recipe.random_arguments(mesh)

  def train():
    nonlocal state
    state, metrics = run(state, *inputs)
    return metrics

  waited = record.time(train, sharding.fetch)
  sent = record.time(train, jax.block_until_ready, IN_FLIGHT)
  rate = 1e3 * batch / sent["median"]
  flops = rate * timing.training_flops(recipe.network)
  measured, chip = (peak and flops / peak for peak in peaks)
  memory, text = run.memory_analysis(), run.as_text()
  moved = traffic.measure(text)
  row = {
    "images_per_second": rate,
    "ms": sent,
    "ms, metrics fetched after each step": waited,
    "share of the measured peak": measured,
    "share of the published peak": chip,
    "temporary bytes": memory.temp_size_in_bytes if memory else None,
    "traffic, bytes": moved.bytes,
    "kernels": moved.kernels,
  }
  if batch == sizes.middle:
    with gzip.open(record.folder / f"step_{name}.txt.gz", "wt") as file:
      file.write(text)
    with record.trying(f"profile {name} {batch}"):
      record[f"profile {name} {batch}"] = profile.by_layer(train, text)
  return row


def _peak(record, name: str, side: int) -> float:
  """FLOP/s of products of square matrices, several in flight."""
  dtype = jnp.bfloat16 if name == "bfloat16" else jnp.float32
  precision = layers.PRECISION.get(name)
  a = jax.random.normal(jax.random.key(0), (side, side), dtype)
  square = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
  ms = record.time(lambda: square(a), jax.block_until_ready, IN_FLIGHT)
  return 2 * side**3 / ms["min"] * 1e3


def _copy(record, size: int) -> float:
  """Bytes/s that are read and written by a copy."""
  x = jnp.ones(size // 4, jnp.float32)
  copy = jax.jit(jnp.negative)
  ms = record.time(lambda: copy(x), jax.block_until_ready, IN_FLIGHT)
  return 2 * size / ms["min"] * 1e3
