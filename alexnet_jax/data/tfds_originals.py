"""The layout `tfds:NAME`: a tfds dataset as ArrayRecord or TFRecord.

TFRecord, which training cannot read, is read here without TensorFlow.
"""

import hashlib
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds

from alexnet_jax.data import sources
from alexnet_jax.data.originals import Options, Originals
from alexnet_jax.runtime.command import UserError


def open_tfds(name: str, options: Options) -> Originals:
  """Opens every split of the tfds dataset `name` in `options.source_dir`.

  Raises:
    UserError: the dataset is missing, damaged, in another format, or not an
      image classification dataset.
  """
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
  splits = {}
  for split in info.splits:
    if info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
      source = sources.open_directory(directory, split)
      splits[split] = _Examples(source, source.fingerprint, split)
    elif info.file_format == tfds.core.FileFormat.TFRECORD:
      split_info = info.splits[split]
      records = _TFRecords(split_info, *sources.supervised_keys(info))
      identity = f"{split_info.num_bytes} bytes in {split_info.shard_lengths}"
      splits[split] = _Examples(records, identity, split)
    else:
      raise UserError(
        f"{directory} is stored as {info.file_format.value}; prepare reads"
        " array_record and tfrecord."
      )
  files = {
    path.name: path.stat().st_size
    for split in info.splits.values()
    for path in map(pathlib.Path, split.filepaths)
  }
  return Originals(
    info.full_name.rpartition("/")[0],
    splits,
    list(sources.class_names(info)),
    files,
  )


class _Examples:
  """The images of a tfds split; `originals.Split` says what methods do."""

  def __init__(
    self, records: Sequence[tuple[bytes, int]], identity: str, split: str
  ):
    self._records, self._identity, self._split = records, identity, split

  def __len__(self) -> int:
    return len(self._records)

  def label(self, index: int) -> int:
    return self.read(index)[1]

  def name(self, index: int) -> str:
    return f"{self._split}[{index}]"

  def read(self, index: int) -> tuple[bytes, int]:
    return self._records[index]

  def inventory(self) -> str:
    return hashlib.sha256(self._identity.encode()).hexdigest()


class _TFRecords:
  """The records of a split stored as TFRecord, with random access.

  A record is its length (8 bytes), the length's checksum (4), the data, and
  the data's checksum (4). Checksums are not verified; instead the lengths must
  lead from record to record to the end of the file.
  """

  def __init__(self, split, image_key: str, label_key: str):
    self._paths = [os.fspath(path) for path in split.filepaths]
    self._keys = image_key, label_key
    self._records = []  # (number of the file, offset, length)
    for number, (path, expected) in enumerate(
      zip(self._paths, split.shard_lengths, strict=True)
    ):
      found = list(_find_records(path))
      if len(found) != expected:
        raise UserError(
          f"{path} is damaged or cut short: it has {len(found):,} of"
          f" {expected:,} records. Copy it again."
        )
      self._records += [(number, *record) for record in found]

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    number, offset, length = self._records[index]
    with open(self._paths[number], "rb", buffering=0) as file:
      file.seek(offset)
      record = file.read(length)
    return sources.parse_example(record, *self._keys)


def _find_records(path: str) -> Iterator[tuple[int, int]]:
  """Yields the offset and length of each record of a TFRecord file."""
  try:
    end = os.path.getsize(path)
    with open(path, "rb") as file:
      place = 0
      while place + 16 <= end:
        file.seek(place)
        (length,) = struct.unpack("<Q", file.read(8))
        if place + 16 + length > end:
          return
        yield place + 12, length
        place += 16 + length
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error
