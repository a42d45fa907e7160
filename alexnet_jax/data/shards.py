"""Shards: the files of a prepared dataset, each written completely or not.

A preparation that is killed continues with the first shard that is missing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import images, parallel
from alexnet_jax.data.originals import Originals
from alexnet_jax.data.pixel_statistics import PixelSums
from alexnet_jax.data.sources import permutation
from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError

SUMS = ("num_images", "total", "products")  # of PixelSums


class Encoding(NamedTuple):
  """How each image is stored."""

  size: int = 256  # side of the image, in pixels
  quality: int = 95  # of the JPEG, 1 to 100
  subsampling: str = "444"  # of the JPEG's chroma: "444", "422" or "420"
  rescale: str = "crop"  # a key of `images.RESCALE`


class Converted:
  """Some images of one split, ready to write."""

  def __init__(self):
    self.records: list[bytes] = []  # serialised tf.train.Example of each image
    self.labels: list[int] = []
    self.skipped: list[tuple[str, str]] = []  # (name, reason) if undecodable
    self.digest = b""  # of the original bytes, skipped or not, in their order

  def add(self, other: "Converted") -> None:
    self.records += other.records
    self.labels += other.labels
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
  def facts_path(self) -> pathlib.Path:
    return self.folder / "facts" / f"{self.file}.npz"

  def write(self, converted: Converted, finish: Callable[[], None]) -> None:
    """Writes the records in a shuffled order, then renames the file.

    `finish` is called between the two.
    """
    records = converted.records
    # Compressing JPEGs again takes time and saves nothing.
    options = "group_size:1,uncompressed"
    path = str(self.folder / "facts" / self.file)
    writer = array_record_module.ArrayRecordWriter(path, options)
    for place in permutation(len(records), self.number, len(records)):
      writer.write(records[place])
    writer.close()
    with open(path, "rb+") as file:
      os.fsync(file.fileno())
    _save(
      self.facts_path,
      num_bytes=sum(map(len, records)),
      labels=np.array(converted.labels, np.int32),
      skipped=json.dumps(converted.skipped),
      digest=converted.digest.hex(),
    )
    finish()
    os.replace(path, self.path)

  def facts(self) -> tuple[int, np.ndarray, list[tuple[str, str]], str]:
    """Bytes and labels of the records, (name, reason) of skipped, digest."""
    with np.load(self.facts_path, allow_pickle=False) as stored:
      num_bytes, digest = int(stored["num_bytes"]), str(stored["digest"])
      skipped = json.loads(str(stored["skipped"]))
      return num_bytes, stored["labels"], skipped, digest


class TrainingSums:
  """The sums over the pixels of the finished training shards, in one file.

  A shard is counted before it gets its name. If it is killed in between, the
  shard is converted again, to the same pixels, and not counted again.
  """

  def __init__(self, shards: Sequence[Shard], size: int):
    """Reads the sums of an earlier preparation of the training `shards`."""
    self._path = shards[0].folder / "facts" / "training_sums.npz"
    self.sums = PixelSums(size)
    self._counted = np.zeros(len(shards), bool)
    if self._path.exists():
      with np.load(self._path, allow_pickle=False) as stored:
        self._counted[:] = stored["counted"]
        self.sums.merge(*(stored[name] for name in SUMS))
    # Earlier versions stored the sums of each shard with its other facts.
    for shard in shards:
      if shard.path.exists() and not self._counted[shard.number]:
        with np.load(shard.facts_path, allow_pickle=False) as stored:
          self.sums.merge(*(stored[name] for name in ("count", *SUMS[1:])))
        self._counted[shard.number] = True

  def add(self, shard: Shard, sums: PixelSums) -> None:
    """Adds the sums of a training shard, unless it is counted already."""
    if self._counted[shard.number]:
      return
    self._counted[shard.number] = True
    self.sums.merge(*(getattr(sums, name) for name in SUMS))
    values = {name: getattr(self.sums, name) for name in SUMS}
    _save(self._path, counted=self._counted, **values)


def _save(path: pathlib.Path, **arrays: Any) -> None:
  """Writes arrays as .npz in one step."""
  content = io.BytesIO()
  np.savez(content, **arrays)
  files.write_atomic(path, content.getvalue())


def write_shards(
  shards: Sequence[Shard], originals: Originals, encoding: Encoding
) -> None:
  """Writes the shards that are not finished, converting on all cores."""
  missing = [shard for shard in shards if not shard.path.exists()]
  total = sum(len(shard.indices) for shard in shards)
  num_missing = sum(len(shard.indices) for shard in missing)
  if num_missing < total:
    message = f"{total - num_missing:,} of {total:,} images are done already."
    print(message, file=sys.stderr)
  training = [shard for shard in shards if shard.split == "train"]
  training_sums = TrainingSums(training, encoding.size)
  sums: dict[Shard, PixelSums] = {}  # of the shards in progress

  def tasks() -> Iterator[tuple[str, np.ndarray, PixelSums]]:
    for shard in missing:
      sums[shard] = PixelSums(encoding.size)
      for chunk in parallel.chunks(shard.indices):
        yield shard.split, chunk, sums[shard]

  def finish(shard: Shard) -> None:
    shard_sums = sums.pop(shard)
    if shard.split == "train":
      training_sums.add(shard, shard_sums)

  converted = parallel.map_images(
    lambda task: convert(originals, *task, encoding),
    tasks(),
    "Preparing",
    size=lambda task: len(task[1]),
    total=num_missing,
    num_done=total - num_missing,
  )
  with contextlib.closing(converted):
    for shard in missing:
      whole = Converted()
      for _ in parallel.chunks(shard.indices):
        whole.add(next(converted))
      shard.write(whole, functools.partial(finish, shard))


def convert(
  originals: Originals,
  split: str,
  indices: np.ndarray,
  sums: PixelSums,
  encoding: Encoding,
) -> Converted:
  """Rescales and encodes images of a split; adds their pixels to `sums`.

  Raises UserError if an original cannot be read.
  """
  rescale = images.RESCALE[encoding.rescale]
  result = Converted()
  digest = hashlib.sha256()
  for index in indices.tolist():
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
    sums.add(images.decode(encoded))
  result.digest = digest.digest()
  return result
