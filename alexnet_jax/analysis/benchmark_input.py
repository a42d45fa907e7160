"""Times the input: each stage by itself, and all of them at work together.

The yardstick is the bare decoding of the very same bytes, from memory, by one
thread a core: what any pipeline on this machine is bounded by. Rounds of all
stages alternate, so that what else the machine does troubles them alike.
"""

import collections
import concurrent.futures
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import simplejpeg

from alexnet_jax.analysis import throughput
from alexnet_jax.data import images, pipeline
from alexnet_jax.data.parallel import num_cores
from alexnet_jax.data.sources import Source


def benchmark_input(
  source: Source,
  *,
  batch_size: int,
  size: int,
  num_images: int = 2048,
  rounds: int = 5,
) -> list[dict[str, Any]]:
  """Measures the stages of feeding `source`.

  Args:
    source: the images; the first `num_images` are used.
    batch_size: images in a batch.
    size: side S of the rescaled images.
    num_images: how many images a round measures of each stage.
    rounds: how many rounds.

  Returns:
    rows "read" (from the files, in random order), "decode_all_cores" (the
    yardstick), "batch" (decode and rescale into uint8[B,S,S,3], from memory),
    "pipeline" (`train_batches`: read, decode, batch), "transfer" (batches
    to the first device) and "pipeline_to_device"; each with
    `images_per_second` (the median round's), `ms` for a batch (min, median,
    max over the rounds) and `cores_per_1000_images_per_second`.
  """
  steps = max(1, min(num_images, len(source)) // batch_size)
  count = steps * batch_size
  records = [source[i % len(source)][0] for i in range(count)]
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

  def read(i):
    source[i * 7919 % len(source)]  # a prime: random enough for a disk

  batch_memory = pipeline.BatchMemory((batch_size, size, size, 3))

  def batch(step):
    out = batch_memory.take()
    for i in range(batch_size):
      images.decode_into(out[i], records[step * batch_size + i])

  def stream():
    return pipeline.train_batches(
      source, batch_size=batch_size, seed=0, start_step=0, size=size
    )

  host_batch = next(stream())

  def transfer(step):
    del step
    jax.block_until_ready(jax.device_put(host_batch, device))

  with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
    stages = {
      "read": lambda: _time(_spread(pool, read, count)),
      "decode_all_cores": bare_decoding(source, count),
      "batch": lambda: _time(_spread(pool, batch, steps)),
      "pipeline": lambda: time_stream(stream(), steps),
      "transfer": lambda: _time(lambda: list(map(transfer, range(steps)))),
      "pipeline_to_device": lambda: time_stream(
        map(jax.block_until_ready, pipeline.to_device(stream(), device)),
        steps,
      ),
    }
    seconds = collections.defaultdict(list)
    for _ in range(rounds):
      for name, stage in stages.items():
        seconds[name].append(stage())
  return [
    throughput.row(name, np.array(seconds[name]), steps, batch_size)
    for name in stages
  ]


def bare_decoding(source: Source, count: int) -> Callable[[], float]:
  """The yardstick: what decodes `count` images from memory on all cores.

  Returns:
    a function that does it, and returns the seconds it took.
  """
  records = [source[i % len(source)][0] for i in range(count)]
  decoders = [_bare_decoder(record) for record in records]

  def decode(i):
    decoders[i](records[i])

  def run():
    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
      return _time(_spread(pool, decode, count))

  return run


def _bare_decoder(record: bytes) -> Callable[[bytes], np.ndarray]:
  """simplejpeg, or what decodes this image if it does not."""
  try:
    simplejpeg.decode_jpeg(record)
    return simplejpeg.decode_jpeg
  except ValueError:
    return images.decode


def _spread(pool, function, count: int) -> Callable[[], object]:
  """What calls a function for 0 .. count - 1 on all threads of a pool."""
  chunk = max(1, count // (8 * num_cores()))  # an even share, to the end

  def work(start):
    for i in range(start, min(start + chunk, count)):
      function(i)

  return lambda: collections.deque(
    pool.map(work, range(0, count, chunk)), maxlen=0
  )


def _time(function: Callable[[], object]) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


def time_stream(batches: Iterator[Any], steps: int) -> float:
  """Seconds for so many batches, once what was made ahead is used up."""
  ahead = 2 * num_cores() + 4
  collections.deque(itertools.islice(batches, ahead), maxlen=0)
  return _time(
    lambda: collections.deque(itertools.islice(batches, steps), maxlen=0)
  )
