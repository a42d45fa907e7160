"""Loading: threads fill batches together, of which at most two are ahead.

Several threads fill one batch, so that the memory of the batches does not
depend on how many threads there are. Grain runs the threads.
"""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import grain
import numpy as np

from alexnet_jax.data import parallel
from alexnet_jax.data.images import UndecodableImage

AHEAD = 2  # batches in memory that nobody has asked for yet, at most
# Parts of a batch for each thread, so that all of them end at about the same
# time.
PARTS_PER_THREAD = 2

Work = TypeVar("Work")
# Why images could not be decoded, by the index of the example.
Failures = dict[int, UndecodableImage]


class Loading(NamedTuple):
  """How many threads load batches, and what these take in memory."""

  threads: int
  batch_bytes: int  # of the images in this process's part of a batch

  @classmethod
  def plan(cls, threads: int, batch_bytes: int) -> "Loading":
    """With `threads` threads; 0: one per core that the process may use."""
    return cls(threads or parallel.num_cores(), batch_bytes)

  def __str__(self) -> str:
    size, total = self.batch_bytes, AHEAD * self.batch_bytes
    return (
      f"{self.threads} thread{'s' * (self.threads > 1)} load images; at most"
      f" {AHEAD} batches of {size / 1e6:,.1f} MB are ahead of the devices"
      f" ({total / 1e9:.2g} GB)"
    )


def load_batches(
  begin: Callable[[int], Work],
  fill: Callable[[Work, slice], Failures],
  steps: range,
  batch_size: int,
  threads: int,
) -> Iterator[tuple[Work, Failures]]:
  """Yields the batches of `steps`, in order, each filled by all threads.

  While the consumer waits for a batch, the next one is begun; while it does
  not, one batch is ready. So at most AHEAD batches are in memory beside those
  that the consumer has.

  Args:
    begin: makes the batch of a step, without its images; called in one thread
      at a time.
    fill: loads a slice of the images of a batch.
    batch_size: images in a batch.
    threads: number of threads.
  """
  size = -(-batch_size // (PARTS_PER_THREAD * threads))
  size = min(size, parallel.CHUNK)
  parts = [slice(start, start + size) for start in range(0, batch_size, size)]
  begun: dict[int, Work] = {}
  lock = threading.Lock()

  def load_part(number: int) -> Failures:
    parallel.lower_thread_priority()
    place, part = divmod(number, len(parts))
    with lock:
      if place not in begun:
        begun[place] = begin(steps[place])
      batch = begun[place]
    return fill(batch, parts[part])

  # As many parts as a batch has are loaded ahead of the one that is awaited:
  # they belong to the same batch and to the next one.
  options = grain.ReadOptions(
    num_threads=threads, prefetch_buffer_size=len(parts)
  )
  numbers = grain.MapDataset.range(len(steps) * len(parts))
  loaded = iter(numbers.map(load_part).to_iter_dataset(options))
  with contextlib.closing(loaded):
    for place in range(len(steps)):
      failures: Failures = {}
      for _ in parts:
        failures |= next(loaded)
      # Nothing here holds the batch while the consumer has it.
      yield begun.pop(place), failures


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
