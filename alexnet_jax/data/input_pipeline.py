"""Input: the batches of a run, each a function of the seed and the step.

The position of a run is its step alone. Example p = step * batch_size + i of
a run is number p % n of the p // n-th permutation of the n examples, so each
comes once an epoch, a batch may end one epoch and begin the next, and it is
the same batch on any number of processes. Indices are batched first; then a
Grain worker thread reads, decodes and rescales into one array.
"""

import collections
import functools
import os
import sys
import threading
from collections.abc import Iterable, Iterator

import grain
import jax
import numpy as np
from absl import logging

from alexnet_jax.data import memory
from alexnet_jax.data.datasets import Source, num_cores, permutation
from alexnet_jax.data.images import UndecodableImage, decode_into
from alexnet_jax.runtime.command import UserError

Batch = dict[str, np.ndarray]

NICE = 10  # priority of the threads that read; 0 is that of the arithmetic


def train_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  size: int,
  max_undecodable: int = 0,
  left_out: set[int] | None = None,
  num_threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields the batch of `start_step` and every one after it, without end.

  Args:
    source: the training images, n of them.
    batch_size: global, over all processes.
    seed: of the permutations.
    start_step: number of the first batch.
    size: side S of the rescaled images.
    max_undecodable: how many images may be left out of training.
    left_out: indices of those that were in earlier lives of the run; the new
      ones are added to it.
    num_threads: which decode; 0 is one a core.
    process_index: which contiguous part of each batch this process loads,
    process_count: of how many.

  Yields:
    image uint8[B,S,S,3], label int32[B], index int32[B] (of the example in
    the source), epoch int32[B] and weight float32[B]: 1, or 0 where the image
    could not be decoded (it is then black). B is this process's share.

  Raises:
    UserError: more than `max_undecodable` images cannot be decoded; or the
      source is empty, or the batch not divisible by the processes.
  """
  if not len(source):
    raise UserError(f"{source.name} holds no image to train on.")
  share = _share(batch_size, process_index, process_count)
  n = len(source)
  # Two, for the batches that straddle epochs.
  order = functools.lru_cache(2)(lambda epoch: permutation(n, seed, epoch))

  def indices(step: int) -> tuple[np.ndarray, np.ndarray]:
    epochs, places = np.divmod(step * batch_size + share, n)
    which = [order(int(e))[p] for e, p in zip(epochs, places, strict=True)]
    return np.array(which), epochs

  load = _Loader(source, len(share), size)
  steps = grain.MapDataset.range(start_step, sys.maxsize)
  batches = steps.map(lambda step: load(*indices(step)))
  left_out = set() if left_out is None else left_out
  return _load_ahead(load, batches, num_threads, max_undecodable, left_out)


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  size: int,
  max_undecodable: int = 0,
  num_threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields every example exactly once, in order; arguments as for training.

  The last batch is filled up with copies of example 0, whose weight is 0, so
  that every batch has one shape; so every process yields as many batches.

  Yields:
    as `train_batches`; epoch is 0.

  Raises:
    UserError: as `train_batches`.
  """
  share = _share(batch_size, process_index, process_count)
  load = _Loader(source, len(share), size)

  def batch(step: int) -> tuple[Batch, dict[int, UndecodableImage]]:
    indices = step * batch_size + share
    real = indices < len(source)
    loaded, failures = load(np.where(real, indices, 0), np.zeros_like(indices))
    loaded["weight"] *= real
    return loaded, failures

  steps = grain.MapDataset.range(-(-len(source) // batch_size))
  batches = steps.map(batch)
  return _load_ahead(load, batches, num_threads, max_undecodable, set())


def to_device(
  batches: Iterable[Batch], sharding: jax.sharding.Sharding, depth: int = 2
) -> Iterator[dict[str, jax.Array]]:
  """Yields the batches as device arrays, keeping `depth` ahead on the device.

  Pixels cross the bus as bytes; the step makes floats of them.

  Args:
    batches: host batches; with many processes, each process's own share.
    sharding: of every array.
    depth: how many batches wait on the device while one is used.
  """
  ahead = collections.deque()
  for batch in batches:
    ahead.append(_place(batch, sharding))
    if len(ahead) > depth:
      yield ahead.popleft()
  yield from ahead


def _place(batch: Batch, sharding) -> dict[str, jax.Array]:
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return {
    key: jax.make_array_from_process_local_data(sharding, array)
    for key, array in batch.items()
  }


def _share(batch_size: int, process_index: int, process_count: int):
  """The places i64[B] in a global batch that this process fills."""
  if batch_size % process_count:
    raise UserError(
      f"A batch of {batch_size} cannot be divided among {process_count}"
      " processes: choose a multiple of that."
    )
  count = batch_size // process_count
  return np.arange(process_index * count, (process_index + 1) * count)


def _load_ahead(
  load: "_Loader",
  batches: grain.MapDataset,
  num_threads: int,
  max_undecodable: int,
  left_out: set[int],
) -> Iterator[Batch]:
  threads = num_threads or num_cores()
  # A batch in the making for each thread, and two that are ready.
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=threads + 2
  )
  # Counted here, where batches are in order, a run ends at the same step
  # every time, however far ahead which thread was.
  for batch, failures in batches.to_iter_dataset(options):
    for index, reason in failures.items():
      if index not in left_out:
        left_out.add(index)
        _report_undecodable(
          f"{load.source.example_name(index)} cannot be decoded: {reason}",
          len(left_out),
          max_undecodable,
        )
    yield batch


def _give_way() -> None:
  """Lets the arithmetic go first, where both share the processor's cores.

  A step waits for its slowest thread, and batches are made ahead anyway. Only
  Linux has priorities of threads.
  """
  if sys.platform == "linux":
    thread = threading.get_native_id()
    nice = max(NICE, os.getpriority(os.PRIO_PROCESS, thread))
    os.setpriority(os.PRIO_PROCESS, thread, nice)


def _report_undecodable(what: str, count: int, max_undecodable: int) -> None:
  if count > max_undecodable:
    raise UserError(
      f"{what}. That is {count} such image{'s' * (count > 1)}, and"
      f" max_undecodable allows {max_undecodable}; raise it to leave"
      " them out, or prepare the dataset anew (python -m"
      " alexnet_jax.prepare skips and counts them)."
    )
  logging.error("%s; it is left out.", what)


class _Loader:
  """Makes a batch of indices, and says which examples cannot be decoded."""

  def __init__(self, source: Source, batch_size: int, size: int):
    self.source = source
    self._pool = memory.Pool((batch_size, size, size, 3))

  def __call__(
    self, indices: np.ndarray, epochs: np.ndarray
  ) -> tuple[Batch, dict[int, UndecodableImage]]:
    _give_way()
    count = len(indices)
    batch = {
      "image": self._pool.take(),
      "label": np.empty(count, np.int32),
      "index": indices.astype(np.int32),
      "epoch": epochs.astype(np.int32),
      "weight": np.ones(count, np.float32),
    }
    failures = {}
    for i, index in enumerate(indices.tolist()):
      try:
        encoded, batch["label"][i] = self.source[index]
        decode_into(batch["image"][i], encoded)
      except UndecodableImage as error:
        failures[index] = error
        batch["image"][i] = batch["label"][i] = batch["weight"][i] = 0
    return batch, failures
