"""Shards: the files of a prepared dataset, each made whole or not at all."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import rich.console
import rich.progress
import simplejpeg
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import images, parallel, pixel_statistics, sources
from alexnet_jax.runtime.command import UserError

RUN = 16  # neighbours read together, so that a disk seeks once for them
AHEAD = 64  # runs converted while a shard is written


class Split(Protocol):
  """The original images of a split; thread-safe."""

  def __len__(self) -> int: ...

  def label(self, index: int) -> int: ...

  def name(self, index: int) -> str: ...

  def read(self, index: int) -> tuple[bytes, int]:
    """The image as it was encoded, and its label."""


@dataclasses.dataclass(frozen=True)
class Encoding:
  """What is made of each image.

  Attributes:
    size: side of the result, in pixels.
    quality, subsampling: of the JPEG.
    rescale: `crop`, as the paper, or `warp`, see `images`.
  """

  size: int = 256
  quality: int = 95
  subsampling: str = "444"
  rescale: str = "crop"


@dataclasses.dataclass
class Converted:
  """Some images of one split, ready to write.

  Attributes:
    records: serialised tf.train.Example of each.
    labels: of each.
    moments: of the pixels, as anyone who decodes the records finds them.
    skipped: (name, reason) of each image that cannot be decoded.
    digest: of the original bytes, skipped or not, in their order.
  """

  records: list[bytes]
  labels: list[int]
  moments: pixel_statistics.PixelSums
  skipped: list[tuple[str, str]]
  digest: bytes

  @classmethod
  def nothing(cls, encoding: Encoding) -> "Converted":
    return cls([], [], pixel_statistics.PixelSums(encoding.size), [], b"")

  def add(self, other: "Converted") -> None:
    self.records += other.records
    self.labels += other.labels
    self.moments.merge(other.moments)
    self.skipped += other.skipped
    self.digest = hashlib.sha256(self.digest + other.digest).digest()


def runs(indices: np.ndarray) -> list[np.ndarray]:
  """Cuts indices into runs of RUN."""
  return np.array_split(indices, range(RUN, len(indices), RUN))


class Shard:
  """One file of the result, and what is to be known of it.

  Args:
    folder: of the unfinished dataset.
    name: of the dataset.
    split: the shard's.
    number: of the shard among the `count` of its split.
    indices: i64[N], the originals that go into it.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    name: str,
    split: str,
    number: int,
    count: int,
    indices: np.ndarray,
  ):
    file = f"{name}-{split}.array_record-{number:05}-of-{count:05}"
    self.split, self.number, self.indices = split, number, indices
    self.path = folder / "data" / file
    self._facts = folder / "facts" / f"{file}.npz"
    self._unfinished = folder / "facts" / file

  def done(self) -> bool:
    """Whether it is there, and then it is whole."""
    return self.path.exists()

  def write(self, whole: Converted) -> None:
    """Writes the records in a shuffled order; the last act is a rename."""
    records, moments = whole.records, whole.moments
    # JPEGs do not get smaller: compressed again they would only be slower.
    options = "group_size:1,uncompressed"
    writer = array_record_module.ArrayRecordWriter(
      str(self._unfinished), options
    )
    for place in sources.permutation(len(records), self.number, len(records)):
      writer.write(records[place])
    writer.close()
    with open(self._unfinished, "rb+") as file:
      os.fsync(file.fileno())
    with open(self._facts, "wb") as file:
      np.savez(
        file,
        count=len(records),
        num_bytes=sum(map(len, records)),
        labels=np.array(whole.labels, np.int32),
        skipped=json.dumps(whole.skipped),
        digest=whole.digest.hex(),
        total=moments.total,
        products=moments.products,
      )
    os.replace(self._unfinished, self.path)

  def facts(self) -> dict[str, np.ndarray]:
    """What is known of a finished one, but for its moments."""
    with np.load(self._facts, allow_pickle=False) as stored:
      names = ("count", "num_bytes", "labels", "skipped", "digest")
      return {name: stored[name] for name in names}

  def moments(self) -> pixel_statistics.PixelSums:
    """Of its pixels; megabytes, so not to be kept for each shard."""
    with np.load(self._facts, allow_pickle=False) as stored:
      moments = pixel_statistics.PixelSums(len(stored["total"]))
      moments.num_images = int(stored["count"])
      moments.total[:] = stored["total"]
      moments.products[:] = stored["products"]
    return moments


def write_shards(
  shards: Sequence[Shard],
  splits: dict[str, Split],
  encoding: Encoding,
  upright: bool,
) -> None:
  """Writes those that are not done; converts on all cores.

  The main thread writes, a shard at a time; what waits for it is bounded.

  Args:
    shards: all there are to be.
    splits: the originals.
    encoding: what to make of each image.
    upright: whether EXIF orientation counts.
  """
  tasks = [
    (shard, run)
    for shard in shards
    if not shard.done()
    for run in runs(shard.indices)
  ]
  total = sum(len(shard.indices) for shard in shards)
  done = total - sum(len(run) for _, run in tasks)
  with (
    progress_bar() as progress,
    concurrent.futures.ThreadPoolExecutor(parallel.num_cores()) as pool,
  ):
    bar = progress.add_task("Preparing", total=total, completed=done, rate="")
    start = time.monotonic()
    if done:
      progress.console.print(f"{done:,} of {total:,} images are done already.")

    def work(task):
      shard, run = task
      return convert(splits[shard.split], run.tolist(), encoding, upright)

    results = _map_ahead(pool, work, tasks)
    for shard, group in itertools.groupby(tasks, lambda task: task[0]):
      whole = Converted.nothing(encoding)
      for _, run in group:
        whole.add(next(results))
        progress.advance(bar, len(run))
        finished = progress.tasks[0].completed - done
        rate = finished / (time.monotonic() - start)
        progress.update(bar, rate=f"{rate:,.0f} images/s")
      shard.write(whole)


def _map_ahead(pool, function, tasks) -> Iterator:
  """As `pool.map`, but with a bounded number of results that wait."""
  waiting = collections.deque()
  for task in tasks:
    waiting.append(pool.submit(function, task))
    if len(waiting) > AHEAD:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def convert(
  split: Split,
  indices: list[int],
  encoding: Encoding,
  upright: bool = False,
) -> Converted:
  """Decodes, rescales and encodes images.

  Args:
    split: the originals.
    indices: which of them.
    encoding: what to make of each.
    upright: whether EXIF orientation counts.
  """
  result = Converted.nothing(encoding)
  digest = hashlib.sha256()
  for index in indices:
    name = split.name(index)
    try:
      original, label = split.read(index)
      digest.update(hashlib.sha256(original).digest())
      image = images.decode(original, upright)
    except OSError as error:
      raise UserError(
        f"The original {name} cannot be read: {error}. Make it readable, or"
        " move it away; what is prepared already is kept."
      ) from error
    except images.UndecodableImage as error:
      result.skipped.append((name, str(error)))
      continue
    rescale = {"crop": images.rescale, "warp": images.warp}[encoding.rescale]
    encoded = simplejpeg.encode_jpeg(
      np.ascontiguousarray(rescale(image, encoding.size)),
      encoding.quality,
      colorsubsampling=encoding.subsampling,
    )
    result.moments.add(images.decode(encoded))
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(encoded)
    feature["label"].int64_list.value.append(label)
    feature["file_name"].bytes_list.value.append(name.encode(errors="replace"))
    result.records.append(example.SerializeToString(deterministic=True))
    result.labels.append(label)
  result.digest = digest.digest()
  return result


def progress_bar() -> rich.progress.Progress:
  return rich.progress.Progress(
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(bar_width=None),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn("{task.fields[rate]}"),
    rich.progress.TimeRemainingColumn(),
    console=rich.console.Console(stderr=True),
  )
