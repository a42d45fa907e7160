"""Input pipeline: the batches of a run, from (seed, step) alone.

The position of a run in its data is its step. Example p = step * batch_size +
i of a run is number p % n of permutation p // n of the n examples. So every
example comes once per epoch, a batch may span two epochs, and the batches are
the same on any number of processes. Threads read, decode, rescale and crop the
images of each batch into one array.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from alexnet_jax.data.images import UndecodableImage, decode_into
from alexnet_jax.data.loading import (
  BatchMemory,
  Failures,
  Loading,
  load_batches,
)
from alexnet_jax.data.sources import Source, permutation
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.progress import Progress

ENDLESS = 2**40  # steps, more than any run has

Batch = dict[str, np.ndarray]


class Crops(NamedTuple):
  """The part of each stored image that a program reads.

  The rest need not be transferred to the devices.
  """

  size: int  # side c of the parts
  # (epoch i32[B], index i32[B]) -> i32[B,2], the top and left of the parts.
  offsets: Callable[[np.ndarray, np.ndarray], np.ndarray]

  @classmethod
  def centred(cls, image_size: int, size: int) -> "Crops":
    """The central parts of images of side `image_size`."""
    margin = (image_size - size) // 2
    return cls(size, lambda epoch, index: np.full((len(index), 2), margin))


def train_batches(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  start_step: int,
  size: int,
  rescale: str = "crop",
  crops: Crops | None = None,
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
    crops: the part of each image that is kept, of side c; None: all of it.
    max_undecodable: how many images may be left out of training.
    left_out: indices of the images left out before the run was resumed, in
      whichever process.
    threads: as of `Loading`.
    process_index: which contiguous part of each batch this process loads.
    process_count: number of processes that share a batch.

  Yields:
    image uint8[B,S,S,3] or uint8[B,c,c,3], label int32[B], index int32[B] (of
    the example in the source), epoch int32[B] and weight float32[B]: 1, or 0
    where the image could not be decoded and is black. B is batch_size /
    process_count.

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
  loader = _Loader(source, size, rescale, crops, *share)

  def begin(step: int) -> _Begun:
    epochs, ranks = np.divmod(step * batch_size + loader.places, n)
    indices = [order(int(e))[r] for e, r in zip(epochs, ranks, strict=True)]
    return loader.begin(np.array(indices), epochs)

  steps = range(start_step, start_step + ENDLESS)
  loaded = loader.load(begin, steps, threads)
  return _without_failures(source, loaded, max_undecodable, set(left_out))


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  size: int,
  rescale: str = "crop",
  crops: Crops | None = None,
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
  loader = _Loader(source, size, rescale, crops, *share)

  def begin(step: int) -> _Begun:
    indices = step * batch_size + loader.places
    real = indices < len(source)
    begun = loader.begin(np.where(real, indices, 0), np.zeros_like(indices))
    begun.batch["weight"] *= real
    return begun

  steps = range(-(-(num_examples or len(source)) // batch_size))
  loaded = loader.load(begin, steps, threads)
  batches = _without_failures(source, loaded, max_undecodable, set())
  total = min(len(source), len(steps) * batch_size)
  return _with_progress(batches, title, total, batch_size)


def _with_progress(
  batches: Iterator[Batch], title: str, total: int, batch_size: int
) -> Iterator[Batch]:
  with Progress(title, total) as progress:
    for done in range(0, total, batch_size):
      yield next(batches)
      progress.advance(min(batch_size, total - done))


def to_device(
  batches: Iterable[Batch], sharding: jax.sharding.Sharding
) -> Iterator[dict[str, jax.Array]]:
  """Yields batches as device arrays; the transfer begins when one is asked for.

  Training asks for the next batch while the devices work on the last one.
  Pixels are transferred as bytes; the training step converts them to floats.
  With several processes, `batches` are the parts of this process.
  """
  put = functools.partial(jax.make_array_from_process_local_data, sharding)

  def to_device(batch: Batch) -> dict[str, jax.Array]:
    if jax.process_count() == 1:
      return jax.device_put(batch, sharding)
    return jax.tree.map(put, batch)

  return map(to_device, batches)


def _without_failures(
  source: Source,
  loaded: Iterable[tuple["_Begun", Failures]],
  limit: int,
  left_out: set[int],
) -> Iterator[Batch]:
  """The batches; names the images that cannot be decoded and counts them."""

  # Counted here, where batches are in order, so that a run stops at the same
  # step every time, however far ahead each thread is.
  def check(begun: _Begun, failures: Failures) -> Batch:
    for index in [i for i in failures if i not in left_out]:
      left_out.add(index)
      name, count = source.example_name(index), len(left_out)
      message = f"{name} cannot be decoded: {failures[index]}"
      if count > limit:
        raise UserError(f"{message}. {too_many_undecodable(count, limit)}")
      logging.error("%s; the image is left out.", message)
    return begun.batch

  return itertools.starmap(check, loaded)


def too_many_undecodable(count: int, limit: int) -> str:
  """The error message of a run that leaves out more images than it may."""
  return (
    f"{count} image{'s' * (count > 1)} cannot be decoded so far, and"
    f" max_undecodable allows {limit}: raise it to leave such images out, or"
    " prepare the dataset again (python -m alexnet_jax.prepare skips and counts"
    " them)."
  )


class _Begun(NamedTuple):
  """A batch whose images are being loaded, and the parts of them to keep."""

  batch: Batch
  offsets: np.ndarray | None  # i32[B,2], as of `Crops`


class _Loader:
  """Loads a process's part of each batch, and reports undecodable images."""

  def __init__(
    self,
    source: Source,
    size: int,
    rescale: str,
    crops: Crops | None,
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
    self._source, self._size, self._rescale = source, size, rescale
    usable = source.pixels is not None and source.pixels.size == size
    self._pixels = source.pixels if usable else None
    self._crops = crops
    side = crops.size if crops else size
    self._memory = BatchMemory((share, side, side, 3))
    self._thread = threading.local()

  def load(
    self, begin: Callable[[int], _Begun], steps: range, threads: int
  ) -> Iterator[tuple[_Begun, Failures]]:
    """Loads the batches of `steps`, which `begin` begins."""
    threads = Loading.plan(threads, 0).threads
    return load_batches(begin, self._fill, steps, len(self.places), threads)

  def begin(self, indices: np.ndarray, epochs: np.ndarray) -> _Begun:
    count = len(indices)
    batch = {
      "image": self._memory.take(),
      "label": np.zeros(count, np.int32),
      "index": indices.astype(np.int32),
      "epoch": epochs.astype(np.int32),
      "weight": np.ones(count, np.float32),
    }
    crops = self._crops
    offsets = crops and crops.offsets(batch["epoch"], batch["index"])
    return _Begun(batch, offsets)

  def _fill(self, begun: _Begun, part: slice) -> Failures:
    batch, failures = begun.batch, {}
    for i in range(*part.indices(len(self.places))):
      index = int(batch["index"][i])
      offset = None if begun.offsets is None else begun.offsets[i]
      try:
        batch["label"][i] = self._read(index, batch["image"][i], offset)
      except UndecodableImage as error:
        failures[index] = error
        batch["image"][i] = batch["label"][i] = batch["weight"][i] = 0
    return failures

  def _read(
    self, index: int, out: np.ndarray, offset: np.ndarray | None
  ) -> int:
    """Reads an image, or the part of it at `offset`; returns its label."""
    if self._pixels is not None:
      image, label = self._pixels[index]
    else:
      encoded, label = self._source[index]
      if offset is None:
        decode_into(out, encoded, self._rescale)
        return label
      if not hasattr(self._thread, "image"):  # memory of this thread
        self._thread.image = np.empty((self._size, self._size, 3), np.uint8)
      image = self._thread.image
      decode_into(image, encoded, self._rescale)
    top, left = (0, 0) if offset is None else offset
    out[:] = image[top : top + len(out), left : left + len(out)]
    return label
