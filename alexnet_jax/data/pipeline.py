"""Input pipeline: the batches of a run, from (seed, step) alone.

The position of a run in its data is its step. Example p = step * batch_size +
i of a run is number p % n of permutation p // n of the n examples. So every
example comes once per epoch, a batch may span two epochs, and the batches are
the same on any number of processes. Worker threads of Grain read, decode and
rescale each batch into one array.
"""

import collections
import functools
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import grain
import jax
import numpy as np
from absl import logging

from alexnet_jax.data import parallel
from alexnet_jax.data.images import UndecodableImage, decode_into
from alexnet_jax.data.sources import Source, permutation
from alexnet_jax.runtime.command import UserError

READY = 2  # loaded batches that wait for the consumer
ON_DEVICE = 2  # batches that wait on the devices
MEMORY = 4 * 2**30  # bytes that loaded batches take by default, at most

Batch = dict[str, np.ndarray]
# A batch, and why examples (by index) could not be decoded.
Loaded = tuple[Batch, dict[int, UndecodableImage]]


def train_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  size: int,
  rescale: str = "crop",
  max_undecodable: int = 0,
  left_out: Collection[int] = (),
  threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields the batches of all steps from `start_step` on, without end.

  Args:
    batch_size: global, over all processes.
    size: side S of the rescaled images.
    rescale: how they are rescaled, a key of `images.RESCALE`.
    max_undecodable: how many images may be left out of training.
    left_out: indices of the images left out before the run was resumed, in
      whichever process.
    threads: as of `Loading`.
    process_index: which contiguous part of each batch this process loads.
    process_count: number of processes that share a batch.

  Yields:
    image uint8[B,S,S,3], label int32[B], index int32[B] (of the example in
    the source), epoch int32[B] and weight float32[B]: 1, or 0 where the image
    could not be decoded and is black. B is batch_size / process_count.

  Raises:
    UserError: more than `max_undecodable` images cannot be decoded in this
      process, the source is empty, or the batch size is not divisible by
      process_count.
  """
  n = len(source)
  if not n:
    raise UserError(f"{source.name} has no images to train on.")
  # Two permutations, for the batches that span two epochs.
  order = functools.lru_cache(2)(lambda epoch: permutation(n, seed, epoch))
  share = (batch_size, process_index, process_count)
  load = _Loader(source, size, rescale, *share)

  def load_batch(step: int) -> Loaded:
    epochs, ranks = np.divmod(step * batch_size + load.places, n)
    indices = [order(int(e))[r] for e, r in zip(epochs, ranks, strict=True)]
    return load(np.array(indices), epochs)

  loading = Loading.plan(threads, load.batch_bytes)
  options = grain.ReadOptions(
    num_threads=loading.threads, prefetch_buffer_size=loading.threads + READY
  )
  steps = grain.MapDataset.range(start_step, sys.maxsize)
  loaded = steps.map(load_batch).to_iter_dataset(options)
  return _without_failures(source, loaded, max_undecodable, set(left_out))


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  size: int,
  rescale: str = "crop",
  max_undecodable: int = 0,
  num_examples: int = 0,
  title: str = "",
  threads: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Yields every example exactly once, in order, like `train_batches`.

  The epoch is 0. The last batch is padded with copies of example 0 with weight
  0, so every batch has the same shape and every process yields the same number
  of batches. Arguments and errors are those of `train_batches`, and:

  Args:
    num_examples: the batches end with the one that holds this many; 0: all.
    title: shown with the progress; "": none is shown.
  """
  share = (batch_size, process_index, process_count)
  load = _Loader(source, size, rescale, *share)

  def load_batch(step: int) -> Loaded:
    indices = step * batch_size + load.places
    real = indices < len(source)
    batch, failures = load(np.where(real, indices, 0), np.zeros_like(indices))
    batch["weight"] *= real
    return batch, failures

  count = num_examples or len(source)
  loading = Loading.plan(threads, load.batch_bytes)
  loaded = parallel.map_images(
    load_batch,
    range(-(-count // batch_size)),
    title,
    size=lambda step: min(batch_size, len(source) - step * batch_size),
    ahead=READY,
    threads=loading.threads,
  )
  return _without_failures(source, loaded, max_undecodable, set())


def to_device(
  batches: Iterable[Batch], sharding: jax.sharding.Sharding
) -> Iterator[dict[str, jax.Array]]:
  """Yields batches as device arrays and keeps two more on the device.

  Pixels are transferred as bytes; the training step converts them to floats.
  With several processes, `batches` are the parts of this process.
  """
  put = functools.partial(jax.make_array_from_process_local_data, sharding)
  ahead = collections.deque()
  for batch in batches:
    if jax.process_count() == 1:
      ahead.append(jax.device_put(batch, sharding))
    else:
      ahead.append(jax.tree.map(put, batch))
    if len(ahead) > ON_DEVICE:
      yield ahead.popleft()
  yield from ahead


class Loading(NamedTuple):
  """How many threads load batches, and what these take in memory."""

  threads: int  # each loads a batch at a time
  batch_bytes: int  # of this process's part of a batch

  @classmethod
  def plan(cls, threads: int, batch_bytes: int) -> "Loading":
    """The number of threads, `threads` unless that is 0.

    For 0 there is one thread per core, unless their batches would take more
    than MEMORY.
    """
    affordable = max(1, MEMORY // batch_bytes - READY)
    return cls(threads or min(parallel.num_cores(), affordable), batch_bytes)

  @property
  def num_batches(self) -> int:
    """The largest number of batches in memory.

    Each thread loads one, READY wait, the devices use one and ON_DEVICE wait
    there. An evaluation has as many again, because those of the training stay.
    """
    return 2 * (self.threads + READY + 1 + ON_DEVICE)

  def __str__(self) -> str:
    size, total = self.batch_bytes, self.num_batches * self.batch_bytes
    return (
      f"{self.threads} thread{'s' * (self.threads > 1)} load images; at most"
      f" {self.num_batches} batches of {size / 1e6:,.1f} MB are in memory"
      f" ({total / 1e9:.2g} GB)"
    )


def _without_failures(
  source: Source, loaded: Iterable[Loaded], limit: int, left_out: set[int]
) -> Iterator[Batch]:
  """Yields the batches; names the images that cannot be decoded and counts."""
  # Counted here, where batches are in order, so that a run stops at the same
  # step every time, however far ahead each thread is.
  for batch, failures in loaded:
    for index in [i for i in failures if i not in left_out]:
      left_out.add(index)
      name, count = source.example_name(index), len(left_out)
      message = f"{name} cannot be decoded: {failures[index]}"
      if count > limit:
        raise UserError(f"{message}. {too_many_undecodable(count, limit)}")
      logging.error("%s; the image is left out.", message)
    yield batch


def too_many_undecodable(count: int, limit: int) -> str:
  """The error message of a run that leaves out more images than it may."""
  return (
    f"{count} image{'s' * (count > 1)} cannot be decoded so far, and"
    f" max_undecodable allows {limit}: raise it to leave such images out, or"
    " prepare the dataset again (python -m alexnet_jax.prepare skips and counts"
    " them)."
  )


class _Loader:
  """Loads a process's part of a batch, and reports undecodable images."""

  def __init__(
    self,
    source: Source,
    size: int,
    rescale: str,
    batch_size: int,
    process: int,
    count: int,
  ):
    if batch_size % count:
      raise UserError(
        f"batch_size={batch_size} is not divisible by the number of processes"
        f" ({count}): choose a multiple of {count}."
      )
    share = batch_size // count
    # Of the process's part in the global batch: i64[share].
    self.places = np.arange(process * share, (process + 1) * share)
    self._source, self._rescale = source, rescale
    self._memory = BatchMemory((share, size, size, 3))
    self.batch_bytes = share * size * size * 3

  def __call__(self, indices: np.ndarray, epochs: np.ndarray) -> Loaded:
    parallel.lower_thread_priority()
    count = len(indices)
    batch = {
      "image": self._memory.take(),
      "label": np.empty(count, np.int32),
      "index": indices.astype(np.int32),
      "epoch": epochs.astype(np.int32),
      "weight": np.ones(count, np.float32),
    }
    failures = {}
    for i, index in enumerate(indices.tolist()):
      try:
        encoded, batch["label"][i] = self._source[index]
        decode_into(batch["image"][i], encoded, self._rescale)
      except UndecodableImage as error:
        failures[index] = error
        batch["image"][i] = batch["label"][i] = batch["weight"][i] = 0
    return batch, failures


class BatchMemory:
  """Arrays uint8 of one shape whose memory is reused; thread-safe.

  Mapping 25 MB of fresh pages takes up to a quarter of the time that decoding
  a batch of 128 prepared images into them takes.
  """

  def __init__(self, shape: tuple[int, ...]):
    self._shape = shape
    self._free = collections.deque()

  def take(self) -> np.ndarray:
    """Returns an uninitialised array that nothing else uses.

    Its memory is reused once neither the array nor any view of it exists; a
    JAX array that shares the memory counts as a view.
    """
    try:
      memory = self._free.pop()
    except IndexError:
      memory = np.empty(self._shape, np.uint8)
    return np.asarray(_Loan(memory, self._free))


class _Loan:
  """The owner of an array's memory as NumPy sees it, for views too.

  The allocated array itself cannot be the owner: NumPy would make views of it
  that outlive this object.
  """

  def __init__(self, memory: np.ndarray, free: collections.deque):
    self._memory, self._free = memory, free
    self.__array_interface__ = memory.__array_interface__

  def __del__(self):
    self._free.append(self._memory)
