"""Times the stages of the input pipeline.

The yardstick is decoding the same bytes from memory, one thread per core: no
pipeline on this machine can be faster. The stages take turns, so other load on
the machine affects all of them alike.
"""

import math
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import simplejpeg

from alexnet_jax.analysis import timing
from alexnet_jax.data import images, parallel, pipeline
from alexnet_jax.data.parallel import num_cores
from alexnet_jax.data.sources import Source


class InputTiming(NamedTuple):
  """What `benchmark_input` finds."""

  rows: list[timing.Row]
  # Of the bytes that the timed stages read, the share that came from storage,
  # not from the page cache; None if the system does not count them.
  from_storage: float | None


def benchmark_input(
  source: Source, batch_size: int, size: int, num_images=2048, rounds=5
) -> InputTiming:
  """Times the stages of the input pipeline, each alone and all together.

  Args:
    source: each stage reads its first `num_images` images in each round, again
      and again if it has fewer.
    batch_size: B.
    size: side S of the rescaled images.
    num_images: at least; raised to eight batches for each core.

  Returns:
    The rows "read" (from the files, in random order), "decode_all_cores" (the
    yardstick), "batch" (decode and rescale into uint8[B,S,S,3], from memory),
    "pipeline" (`train_batches`: read, decode, batch), "transfer" (batches to
    the first device) and "pipeline_to_device", as `row` makes them, with
    `cores_per_1000_images_per_second`.
  """
  # Of few batches, the one that is ready when the clock starts would count for
  # much.
  cores = num_cores()
  steps = cores * max(8, math.ceil(num_images / batch_size / cores))
  count = steps * batch_size
  records = _records(source, count)
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

  def read(i):
    source[i * 7919 % len(source)]  # a prime: close to random for a disk

  batch_memory = pipeline.BatchMemory((batch_size, size, size, 3))

  def batch(step):
    out = batch_memory.take()
    for i in range(batch_size):
      record = records[(step * batch_size + i) % len(records)]
      images.decode_into(out[i], record)

  def stream():
    return pipeline.train_batches(
      source, batch_size=batch_size, seed=0, start_step=0, size=size
    )

  def stream_to_device():
    return map(jax.block_until_ready, pipeline.to_device(stream(), device))

  host_batch = next(stream())

  def transfer():
    for _ in range(steps):
      jax.block_until_ready(jax.device_put(host_batch, device))

  stages = {
    "read": lambda: _time_on_all_cores(read, count),
    "decode_all_cores": bare_decoding(source, count),
    "batch": lambda: _time_on_all_cores(batch, steps),
    "pipeline": lambda: timing.time_stream(stream(), steps),
    "transfer": lambda: timing.seconds_of(transfer),
    "pipeline_to_device": lambda: timing.time_stream(stream_to_device(), steps),
  }
  before = _bytes_from_storage()
  seconds = [[stage() for stage in stages.values()] for _ in range(rounds)]
  from_storage = None
  if before is not None:
    mean_size = sum(map(len, records)) / len(records)
    # Three stages read files: read, pipeline, pipeline_to_device.
    asked_for = 3 * rounds * count * mean_size
    from_storage = min(1.0, (_bytes_from_storage() - before) / asked_for)
  # One thread transfers, however many cores there are.
  threads = dict.fromkeys(stages, cores) | {"transfer": 1}
  rows = [
    timing.row(name, times / steps, batch_size, threads[name])
    for name, times in zip(stages, np.array(seconds).T, strict=True)
  ]
  return InputTiming(rows, from_storage)


def _bytes_from_storage() -> int | None:
  """Bytes that this process has read from storage (Linux), else None."""
  try:
    counters = pathlib.Path("/proc/self/io").read_text()
  except OSError:
    return None
  return int(re.search(r"^read_bytes: (\d+)", counters, re.MULTILINE)[1])


def bare_decoding(source: Source, count: int) -> Callable[[], float]:
  """A function that decodes `count` images on all cores; returns seconds."""
  records = _records(source, count)
  decoders = [_bare_decoder(record) for record in records]

  def decode(i):
    i %= len(records)
    decoders[i](records[i])

  return lambda: _time_on_all_cores(decode, count)


def _records(source: Source, count: int) -> list[bytes]:
  """The first `count` images, or all if there are fewer."""
  return [source[i][0] for i in range(min(count, len(source)))]


def _bare_decoder(record: bytes) -> Callable[[bytes], np.ndarray]:
  """simplejpeg, or the package's own decoder if simplejpeg cannot."""
  try:
    simplejpeg.decode_jpeg(record)
    return simplejpeg.decode_jpeg
  except ValueError:
    return images.decode


def _time_on_all_cores(function: Callable[[int], Any], count: int) -> float:
  """Seconds for function(0), ..., function(count - 1) on a thread per core."""
  chunk = max(1, count // (8 * num_cores()))  # small, so all cores end together

  def work(start):
    for i in range(start, min(start + chunk, count)):
      function(i)

  results = parallel.map_images(
    work, range(0, count, chunk), "", size=lambda start: 1
  )
  return timing.seconds_of(lambda: list(results))
