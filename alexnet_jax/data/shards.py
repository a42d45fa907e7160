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

import numpy as np
import simplejpeg
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import images, parallel
from alexnet_jax.data.originals import Split
from alexnet_jax.data.pixel_statistics import PixelSums
from alexnet_jax.data.sources import permutation
from alexnet_jax.runtime.command import UserError


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How each image is stored.

  Attributes:
    size: side of the stored image, in pixels.
    quality: of the JPEG, 1 to 100.
    subsampling: of the JPEG's chroma: "444", "422" or "420".
    rescale: "crop", as in the paper, or "warp"; see `images`.
  """

  size: int = 256
  quality: int = 95
  subsampling: str = "444"
  rescale: str = "crop"


@dataclasses.dataclass
class Converted:
  """Some images of one split, ready to write.

  Attributes:
    records: serialised tf.train.Example of each image.
    labels: of the images.
    sums: over the pixels as a reader of the records decodes them.
    skipped: (name, reason) of each image that cannot be decoded.
    digest: of the original bytes, skipped or not, in their order.
  """

  records: list[bytes]
  labels: list[int]
  sums: PixelSums
  skipped: list[tuple[str, str]]
  digest: bytes

  @classmethod
  def empty(cls, encoding: Encoding) -> "Converted":
    return cls([], [], PixelSums(encoding.size), [], b"")

  def add(self, other: "Converted") -> None:
    self.records += other.records
    self.labels += other.labels
    self.sums.merge(other.sums)
    self.skipped += other.skipped
    self.digest = hashlib.sha256(self.digest + other.digest).digest()


@dataclasses.dataclass
class Facts:
  """What is stored about a finished shard, apart from its pixel sums.

  Attributes:
    count: number of records.
    num_bytes: of the records.
    labels: i32[count].
    skipped: (name, reason) of each image that could not be decoded.
    digest: hexadecimal, of the original bytes.
  """

  count: int
  num_bytes: int
  labels: np.ndarray
  skipped: list[tuple[str, str]]
  digest: str


class Shard:
  """One file of the prepared dataset, and the facts about it.

  Args:
    folder: of the unfinished dataset.
    name: of the dataset.
    split: of the shard.
    number: of the shard among the `count` shards of its split.
    count: see above.
    indices: i64[N], the originals that it stores.
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

  def is_done(self) -> bool:
    return self.path.exists()

  def write(self, converted: Converted) -> None:
    """Writes the records in a shuffled order, then renames the file."""
    records, sums = converted.records, converted.sums
    # Compressing JPEGs again takes time and saves nothing.
    options = "group_size:1,uncompressed"
    writer = array_record_module.ArrayRecordWriter(
      str(self._unfinished), options
    )
    for place in permutation(len(records), self.number, len(records)):
      writer.write(records[place])
    writer.close()
    with open(self._unfinished, "rb+") as file:
      os.fsync(file.fileno())
    with open(self._facts, "wb") as file:
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
    os.replace(self._unfinished, self.path)

  def facts(self) -> Facts:
    """The facts about a finished shard."""
    with np.load(self._facts, allow_pickle=False) as stored:
      return Facts(
        count=int(stored["count"]),
        num_bytes=int(stored["num_bytes"]),
        labels=stored["labels"],
        skipped=json.loads(str(stored["skipped"])),
        digest=str(stored["digest"]),
      )

  def pixel_sums(self) -> PixelSums:
    """The pixel sums of a finished shard: megabytes, so read when needed."""
    with np.load(self._facts, allow_pickle=False) as stored:
      sums = PixelSums(len(stored["total"]))
      sums.num_images = int(stored["count"])
      sums.total[:] = stored["total"]
      sums.products[:] = stored["products"]
    return sums


def write_shards(
  shards: Sequence[Shard],
  splits: dict[str, Split],
  encoding: Encoding,
  upright: bool,
) -> None:
  """Writes the shards that are not done, converting images on all cores.

  Args:
    shards: all shards of the dataset.
    splits: the originals.
    encoding: how to store each image.
    upright: whether to turn images as their EXIF orientation says.
  """
  tasks = [
    (shard, chunk)
    for shard in shards
    if not shard.is_done()
    for chunk in parallel.chunks(shard.indices)
  ]

  def size(task: tuple[Shard, np.ndarray]) -> int:
    return len(task[1])

  def work(task: tuple[Shard, np.ndarray]) -> Converted:
    shard, chunk = task
    return convert(splits[shard.split], chunk.tolist(), encoding, upright)

  total = sum(len(shard.indices) for shard in shards)
  num_done = total - sum(map(size, tasks))
  if num_done:
    print(
      f"{num_done:,} of {total:,} images are done already.", file=sys.stderr
    )
  converted = parallel.map_images(
    work, tasks, "Preparing", size=size, num_done=num_done
  )
  with contextlib.closing(converted):
    for shard, group in itertools.groupby(tasks, lambda task: task[0]):
      whole = Converted.empty(encoding)
      for _ in group:
        whole.add(next(converted))
      shard.write(whole)


def convert(
  split: Split,
  indices: list[int],
  encoding: Encoding,
  upright: bool = False,
) -> Converted:
  """Decodes, rescales and encodes images.

  Args:
    split: the originals.
    indices: of the originals to convert.
    encoding: how to store each image.
    upright: whether to turn images as their EXIF orientation says.

  Raises:
    UserError: an original cannot be read.
  """
  rescale = {"crop": images.rescale, "warp": images.warp}[encoding.rescale]
  result = Converted.empty(encoding)
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
    result.sums.add(images.decode(encoded))
    result.records.append(_serialize(encoded, label, name))
    result.labels.append(label)
  result.digest = digest.digest()
  return result


def _serialize(encoded: bytes, label: int, name: str) -> bytes:
  """The tf.train.Example of an image."""
  example = tf_example_pb2.Example()
  feature = example.features.feature
  feature["image"].bytes_list.value.append(encoded)
  feature["label"].int64_list.value.append(label)
  feature["file_name"].bytes_list.value.append(name.encode(errors="replace"))
  return example.SerializeToString(deterministic=True)
