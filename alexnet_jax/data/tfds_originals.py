"""The layout `tfds:NAME`: a tfds dataset as ArrayRecord or TFRecord.

TFRecord, which training cannot read, is read here without TensorFlow.
"""

import hashlib
import os
import pathlib
import struct

import tensorflow_datasets as tfds

from alexnet_jax.data import sources
from alexnet_jax.data.originals import Options, Originals
from alexnet_jax.runtime.command import UserError


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
  info = tfds.builder_from_directory(directory).info
  keys, class_names = sources.read_features(info)
  splits, files = {}, []
  for split, split_info in info.splits.items():
    if info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
      records = sources.open_directory(directory, split)
      identity = records.fingerprint
    elif info.file_format == tfds.core.FileFormat.TFRECORD:
      records = sources.Examples(_TFRecords(split_info), *keys)
      identity = f"{split_info.num_bytes} bytes in {split_info.shard_lengths}"
    else:
      raise UserError(
        f"{directory} is stored as {info.file_format.value}; prepare reads"
        " array_record and tfrecord."
      )
    digest = hashlib.sha256(identity.encode()).hexdigest()
    splits[split] = sources.Source(records, class_names, digest, name=split)
    files += map(pathlib.Path, split_info.filepaths)
  name = info.full_name.rpartition("/")[0]
  return Originals(name, splits, list(class_names), files)


class _TFRecords:
  """The records of a split stored as TFRecord, with random access."""

  def __init__(self, split: tfds.core.SplitInfo):
    self._records = []  # (path, offset, length)
    for path, count in zip(split.filepaths, split.shard_lengths, strict=True):
      self._records += _find_records(os.fspath(path), count)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> bytes:
    path, offset, length = self._records[index]
    with open(path, "rb", buffering=0) as file:
      file.seek(offset)
      return file.read(length)


def _find_records(path: str, count: int) -> list[tuple[str, int, int]]:
  """The path, offset and length of each of the `count` records of a file.

  A record is its length (8 bytes), the length's checksum (4), the data, and
  the data's checksum (4). Checksums are not verified; instead the lengths must
  lead from record to record to the end of the file.
  """
  found, place = [], 0
  try:
    end = os.path.getsize(path)
    with open(path, "rb") as file:
      while place + 16 <= end:
        file.seek(place)
        (length,) = struct.unpack("<Q", file.read(8))
        if place + 16 + length > end:
          break
        found.append((path, place + 12, length))
        place += 16 + length
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error
  if len(found) != count:
    raise UserError(
      f"{path} is damaged or cut short: it has {len(found):,} of {count:,}"
      " records. Copy it again."
    )
  return found
