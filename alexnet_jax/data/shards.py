"""Shards: the files of a prepared dataset, each written completely or not.

A preparation that is killed continues with the first shard that is missing.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import images, parallel
from alexnet_jax.data.originals import Originals
from alexnet_jax.data.pixel_statistics import PixelSums
from alexnet_jax.data.sources import permutation
from alexnet_jax.runtime.command import UserError


class Encoding(NamedTuple):
  """How each image is stored."""

  size: int = 256  # side of the image, in pixels
  quality: int = 95  # of the JPEG, 1 to 100
  subsampling: str = "444"  # of the JPEG's chroma: "444", "422" or "420"
  rescale: str = "crop"  # as in the paper, or "warp"; see `images`


class Converted:
  """Some images of one split, ready to write."""

  def __init__(self, size: int):
    self.records: list[bytes] = []  # serialised tf.train.Example of each image
    self.labels: list[int] = []
    self.sums = PixelSums(size)  # of the pixels that readers of records decode
    self.skipped: list[tuple[str, str]] = []  # (name, reason) if undecodable
    self.digest = b""  # of the original bytes, skipped or not, in their order

  def add(self, other: "Converted") -> None:
    self.records += other.records
    self.labels += other.labels
    self.sums.merge(other.sums)
    self.skipped += other.skipped
    self.digest = hashlib.sha256(self.digest + other.digest).digest()


@dataclasses.dataclass(eq=False)
class Shard:
  """One file of the prepared dataset, and the facts about it."""

  folder: pathlib.Path  # of the unfinished dataset
  file: str  # the name of the file
  split: str
  number: int  # among the shards of the split
  indices: np.ndarray  # i64[N], the originals that it stores

  @property
  def path(self) -> pathlib.Path:
    return self.folder / "data" / self.file

  @property
  def _facts_path(self) -> pathlib.Path:
    return self.folder / "facts" / f"{self.file}.npz"

  def write(self, converted: Converted) -> None:
    """Writes the records in a shuffled order, then renames the file."""
    records, sums = converted.records, converted.sums
    # Compressing JPEGs again takes time and saves nothing.
    options = "group_size:1,uncompressed"
    path = str(self.folder / "facts" / self.file)
    writer = array_record_module.ArrayRecordWriter(path, options)
    for place in permutation(len(records), self.number, len(records)):
      writer.write(records[place])
    writer.close()
    with open(path, "rb+") as file:
      os.fsync(file.fileno())
    with open(self._facts_path, "wb") as file:
      np.savez(
        file,
        count=len(records),
        num_bytes=sum(map(len, records)),
        labels=np.array(converted.labels, np.int32),
        skipped=json.dumps(converted.skipped),
        digest=converted.digest.hex(),
        total=sums.total,
        products=sums.products,
      )
    os.replace(path, self.path)

  def facts(self) -> tuple[int, np.ndarray, list[tuple[str, str]], str]:
    """Bytes and labels of the records, (name, reason) of skipped, digest."""
    with np.load(self._facts_path, allow_pickle=False) as stored:
      num_bytes, digest = int(stored["num_bytes"]), str(stored["digest"])
      skipped = json.loads(str(stored["skipped"]))
      return num_bytes, stored["labels"], skipped, digest

  def pixel_sums(self) -> PixelSums:
    """The pixel sums of a finished shard: megabytes, so read when needed."""
    with np.load(self._facts_path, allow_pickle=False) as stored:
      sums = PixelSums(len(stored["total"]))
      sums.num_images = int(stored["count"])
      sums.total[:] = stored["total"]
      sums.products[:] = stored["products"]
    return sums


def write_shards(
  shards: Sequence[Shard], originals: Originals, encoding: Encoding
) -> None:
  """Writes the shards that are not finished, converting on all cores."""
  tasks = [
    (shard, chunk)
    for shard in shards
    if not shard.path.exists()
    for chunk in parallel.chunks(shard.indices)
  ]
  total = sum(len(shard.indices) for shard in shards)
  num_done = total - sum(len(chunk) for _, chunk in tasks)
  if num_done:
    message = f"{num_done:,} of {total:,} images are done already."
    print(message, file=sys.stderr)
  converted = parallel.map_images(
    lambda task: convert(originals, task[0].split, task[1].tolist(), encoding),
    tasks,
    "Preparing",
    size=lambda task: len(task[1]),
    num_done=num_done,
  )
  with contextlib.closing(converted):
    for shard, group in itertools.groupby(tasks, lambda task: task[0]):
      whole = Converted(encoding.size)
      for _ in group:
        whole.add(next(converted))
      shard.write(whole)


def convert(
  originals: Originals, split: str, indices: list[int], encoding: Encoding
) -> Converted:
  """Rescales and encodes images of a split; UserError if one is unreadable."""
  rescale = images.RESCALE[encoding.rescale]
  result = Converted(encoding.size)
  digest = hashlib.sha256()
  for index in indices:
    name = originals.splits[split].example_name(index)
    try:
      original, label = originals.splits[split][index]
      digest.update(hashlib.sha256(original).digest())
      image = images.decode(original, originals.upright)
    except OSError as error:
      raise UserError(
        f"The original {name} cannot be read: {error}. Make it readable, or"
        " move it away, and run the command again; finished files are kept."
      ) from error
    except images.UndecodableImage as error:
      result.skipped.append((name, str(error)))
      continue
    encoded = simplejpeg.encode_jpeg(
      np.ascontiguousarray(rescale(image, encoding.size)),
      encoding.quality,
      colorsubsampling=encoding.subsampling,
    )
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(encoded)
    feature["label"].int64_list.value.append(label)
    feature["file_name"].bytes_list.value.append(name.encode(errors="replace"))
    result.records.append(example.SerializeToString(deterministic=True))
    result.labels.append(label)
    result.sums.add(images.decode(encoded))
  result.digest = digest.digest()
  return result
