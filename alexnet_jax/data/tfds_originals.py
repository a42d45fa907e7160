"""The layout `tfds:NAME`: a tfds dataset as ArrayRecord or TFRecord.

TFRecord, which training cannot read, is read here without TensorFlow.
"""

import array
import hashlib
import os
import pathlib
import struct
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import parallel, sources
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.data.originals import UNREADABLE, Options, Originals
from alexnet_jax.runtime.command import UserError

INT32 = np.iinfo(np.int32).min, np.iinfo(np.int32).max


def open_tfds(name: str, options: Options) -> Originals:
  """Opens every split of the tfds dataset `name` in `options.source_dir`."""
  try:
    directory = sources.find_dataset(name, options.source_dir)
  except UserError as error:
    base = sources.base_directory(options.source_dir)
    raise UserError(
      f"tfds dataset {name} is not in {base} (--source_dir). Build it with"
      f" tfds itself: pip install tensorflow, then tfds build {name}"
      f" --data_dir={base}; after that this command works, without TensorFlow."
      " For images in folders use --source=folder:DIR instead."
    ) from error
  info = sources.open_builder(directory).info
  _, class_names = sources.read_features(info)
  splits, files = {}, []
  for split, split_info in info.splits.items():
    source = open_stored_split(directory, split)
    digest = hashlib.sha256(source.fingerprint.encode()).hexdigest()
    labels = _read_labels(source.records, split)
    splits[split] = Records(source.records, labels, digest, split)
    files += map(pathlib.Path, split_info.filepaths)
  name = info.full_name.rpartition("/")[0]
  layout = f"tfds dataset {info.full_name}"
  return Originals(name, splits, list(class_names), files, layout=layout)


def open_stored_split(directory: str, split: str) -> sources.Source:
  """Opens a split of the tfds dataset in a folder, whatever its format.

  Raises UserError if it is neither ArrayRecord nor TFRecord, or is damaged.
  """
  info = sources.open_builder(directory).info
  if info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
    return sources.open_directory(directory, split)
  if info.file_format != tfds.core.FileFormat.TFRECORD:
    raise UserError(
      f"{directory} is stored as {info.file_format.value}; only array_record"
      " and tfrecord can be read."
    )
  keys, class_names = sources.read_features(info)
  stored = info.splits[split]
  return sources.Source(
    sources.Examples(_TFRecords(stored), *keys),
    class_names,
    fingerprint=f"{stored.num_bytes} bytes in {stored.shard_lengths}",
    name=f"{info.full_name} {split}",
    directory=directory,
  )


class Records:
  """The images of a split whose labels have been read; see `Split`."""

  def __init__(
    self,
    examples: Sequence[tuple[bytes, int]],
    labels: np.ndarray,
    fingerprint: str,
    name: str,
    indices: np.ndarray | None = None,
  ):
    self._examples, self._labels, self._name = examples, labels, name
    self._indices = np.arange(len(labels)) if indices is None else indices
    self.fingerprint = fingerprint

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    return self._examples[int(self._indices[index])]

  def labels(self) -> np.ndarray:
    return self._labels[self._indices]

  def example_name(self, index: int) -> str:
    return f"{self._name}[{self._indices[index]}]"

  def chunks(self, indices: np.ndarray) -> list[np.ndarray]:
    return parallel.chunks(indices)

  def select(self, indices: np.ndarray) -> "Records":
    indices = self._indices[indices]
    digest = hashlib.sha256(self.fingerprint.encode() + indices.tobytes())
    return Records(
      self._examples, self._labels, digest.hexdigest(), self._name, indices
    )


def _read_labels(
  examples: Sequence[tuple[bytes, int]], split: str
) -> np.ndarray:
  """i32[N], the labels of a split: they are stored beside the images.

  Raises:
    UserError: no record can be read.
  """

  def read(indices: np.ndarray) -> tuple[list[int], str]:
    labels, reason = [], ""
    for index in indices.tolist():
      try:
        labels.append(examples[index][1])
      except UndecodableImage as error:
        labels.append(UNREADABLE)
        reason = str(error)
    return labels, reason

  tasks = parallel.chunks(np.arange(len(examples)))
  labels, reasons = [], []
  for part, reason in parallel.map_images(read, tasks, f"Labels of {split}"):
    labels += part
    reasons += [reason] if reason else []
  labels = np.array(labels, np.int64)
  if len(labels) and (labels == UNREADABLE).all():
    raise UserError(
      f"No record of the {split} split can be read: {reasons[0]}. The files are"
      " damaged, or are not in the format that dataset_info.json states; copy"
      " or build the dataset again."
    )
  return np.clip(labels, *INT32).astype(np.int32)


class _TFRecords:
  """The records of a split stored as TFRecord, with random access."""

  def __init__(self, split: tfds.core.SplitInfo):
    self._paths = [os.fspath(path) for path in split.filepaths]
    self._firsts = np.cumsum([0, *split.shard_lengths])
    found = map(_find_records, self._paths, split.shard_lengths)
    # Two rows: the place of each record in its file, and its length.
    self._places = np.concatenate(list(found), axis=1)

  def __len__(self) -> int:
    return self._places.shape[1]

  def __getitem__(self, index: int) -> bytes:
    place, length = self._places[:, index].tolist()
    file = int(np.searchsorted(self._firsts, index, "right")) - 1
    with open(self._paths[file], "rb", buffering=0) as file:
      file.seek(place)
      return file.read(length)


def _find_records(path: str, count: int) -> np.ndarray:
  """i64[2,count]: the place and length of each of the records of a file.

  A record is its length (8 bytes), the length's checksum (4), the data, and
  the data's checksum (4). Checksums are not verified; instead the lengths must
  lead from record to record to the end of the file.
  """
  places, lengths, place = array.array("q"), array.array("q"), 0
  try:
    end = os.path.getsize(path)
    with open(path, "rb") as file:
      while place + 16 <= end:
        file.seek(place)
        (length,) = struct.unpack("<Q", file.read(8))
        if place + 16 + length > end:
          break
        places.append(place + 12)
        lengths.append(length)
        place += 16 + length
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error
  if len(places) != count:
    raise UserError(
      f"{path} is damaged or cut short: it has {len(places):,} of {count:,}"
      " records. Copy it again."
    )
  return np.array([places, lengths], np.int64)
