"""The layout `parquet:DIR`: the image sets of Hugging Face.

An image is a row with the columns `image` (its encoded bytes, or a struct with
the field `bytes`) and `label`. Memory holds the labels, the number of rows of
each row group, and the images that are read at the moment.
"""

import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from alexnet_jax.data import split_names
from alexnet_jax.data.byte_ranges import stamp
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.data.originals import (
  Options,
  Originals,
  dataset_name,
  unique_names,
)
from alexnet_jax.data.sources import NO_LABEL
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.progress import Progress

BATCH = 16  # rows that are decompressed together
OPEN_GROUPS = 4  # row groups that are read at the same time
WAITING_BYTES = 2**27  # of images that were passed, but not asked for yet
INT32 = np.iinfo(np.int32).min, np.iinfo(np.int32).max


class Columns(NamedTuple):
  """Where a file has images and labels, and its class names."""

  image: str  # a column, or with a dot the field of a struct
  label: str
  class_names: tuple[str, ...]  # () if the file does not tell

  def __str__(self) -> str:
    names = (
      f", {len(self.class_names):,} class names" if self.class_names else ""
    )
    return f"columns {self.image} and {self.label}{names}"


class Group(NamedTuple):
  """A row group: rows of a file that are compressed together."""

  path: str
  stamp: int  # of the file; see `byte_ranges.stamp`
  number: int  # in the file
  row: int  # the first one, counted in the file
  count: int  # of rows


def open_parquet(place: str, options: Options) -> Originals:
  """Opens the Parquet files of a folder.

  Names of files or folders tell the splits, and the metadata that Hugging
  Face's `datasets` writes the class names. Without them, labels that are texts
  are the class names, and labels that are numbers have their number as a name.

  Raises:
    UserError: there are no such files, or one is damaged or has no images.
  """
  del options
  left_out: list[str] = []
  directory, shards = split_names.find_shards(place, ".parquet", left_out)
  texts: dict[str, int] = {}  # provisional labels of labels that are texts
  columns: dict[Columns, pathlib.Path] = {}  # and a file that has them
  groups: dict[str, list[Group]] = {split: [] for split in shards}
  labels: dict[str, np.ndarray] = {}
  count = sum(map(len, shards.values()))
  with Progress("Listing", count, unit="files") as progress:
    for split, paths in shards.items():
      parts = []
      for path in paths:
        with _open(path) as file:
          found = _find_columns(path, file.schema_arrow)
          columns.setdefault(found, path)
          _check_images(path, file.metadata, found.image)
          groups[split] += _list_groups(path, file.metadata)
          parts.append(_read_labels(path, file, found.label, texts))
        progress.advance()
      labels[split] = np.concatenate(parts)
      if note := split_names.missing_shards(paths):
        left_out.append(f"{split}: {note}")
  if len(columns) > 1:
    (one, here), (other, there) = list(columns.items())[:2]
    raise UserError(
      f"{here} ({one}) and {there} ({other}) do not belong to one dataset. Give"
      " the folder of one."
    )
  (found,) = columns
  class_names = list(found.class_names)
  if texts:
    class_names = sorted(texts)
    numbers = {name: number for number, name in enumerate(class_names)}
    order = np.array([numbers[name] for name in texts], np.int32)
    labels = {
      split: np.where(old == NO_LABEL, old, order[old])
      for split, old in labels.items()
    }
  elif not class_names:
    highest = max(int(found.max(initial=0)) for found in labels.values())
    class_names = [str(number) for number in range(highest + 1)]
  return Originals(
    dataset_name(directory),
    {
      split: Rows(Table(groups[split], found.image), labels[split])
      for split in shards
    },
    class_names,
    [path for paths in shards.values() for path in paths],
    left_out,
    layout=f"Parquet files ({found})",
  )


class Rows:
  """The images of a split, one a row; see `originals.Split`."""

  def __init__(
    self, table: "Table", labels: np.ndarray, rows: np.ndarray | None = None
  ):
    """`rows` are those of the images in the table, in ascending order."""
    self._table, self._labels = table, labels
    self._rows = np.arange(len(labels)) if rows is None else rows
    digest = hashlib.sha256(labels.tobytes() + self._rows.tobytes())
    digest.update(table.identity.encode())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    encoded = self._table.read(int(self._rows[index]))
    if not encoded:
      raise UndecodableImage("its row has no bytes")
    return encoded, int(self._labels[index])

  def labels(self) -> np.ndarray:
    return self._labels

  def example_name(self, index: int) -> str:
    return self._table.name(int(self._rows[index]))

  def select(self, indices: np.ndarray) -> "Rows":
    return Rows(self._table, self._labels[indices], self._rows[indices])

  def chunks(self, indices: np.ndarray) -> list[np.ndarray]:
    """The images of each row group, which is read from its start to its end."""
    places = np.searchsorted(self._rows[indices], self._table.starts[1:-1])
    return [chunk for chunk in np.split(indices, places) if len(chunk)]


class Table:
  """The images in the row groups of several files; thread-safe.

  A row group is decompressed from its start. So reading is fast where several
  threads together ask for the rows in their order: rows that one of them passes
  wait for the others.
  """

  def __init__(self, groups: list[Group], column: str):
    self._groups, self._column = groups, column
    # i64[G+1]: the first row of each group, counted in the table.
    self.starts = np.cumsum([0, *(group.count for group in groups)])
    self._lock = threading.Lock()
    # Of each group that is being read: its next row, and the rows from there.
    self._open: dict[int, tuple[int, Iterator[bytes | None]]] = {}
    self._waiting: dict[int, bytes | None] = {}  # by row, the oldest first
    self._waiting_bytes = 0

  @property
  def identity(self) -> str:
    """A text on names of files and numbers of rows."""
    names = [pathlib.PurePath(group.path).name for group in self._groups]
    counts = [group.count for group in self._groups]
    return str(list(zip(names, counts, strict=True)))

  def name(self, row: int) -> str:
    """The name of a row for messages and for the prepared dataset."""
    number = self._group_of(row)
    group = self._groups[number]
    place = group.row + row - int(self.starts[number])
    return f"{pathlib.PurePath(group.path).name}[{place}]"

  def read(self, row: int) -> bytes | None:
    """The encoded image of a row, None if it is null.

    Raises:
      UserError: the file is damaged or was modified.
    """
    with self._lock:
      if row not in self._waiting:
        self._read_up_to(row)
      encoded = self._waiting.pop(row)
      self._waiting_bytes -= len(encoded or b"")
    return encoded

  def _read_up_to(self, row: int) -> None:
    number = self._group_of(row)
    place, images = self._open.pop(number, (0, None))
    if images is None or place > row:  # it waited too long, or is read again
      place, images = int(self.starts[number]), self._images(number)
    while place <= row:
      encoded = next(images)
      self._waiting_bytes += len(encoded or b"")
      self._waiting_bytes -= len(self._waiting.pop(place, None) or b"")
      self._waiting[place] = encoded
      place += 1
    if place < self.starts[number + 1]:
      self._open[number] = place, images
    if len(self._open) > OPEN_GROUPS:
      del self._open[next(iter(self._open))]
    while self._waiting_bytes > WAITING_BYTES and len(self._waiting) > 1:
      oldest = next(iter(self._waiting))
      self._waiting_bytes -= len(self._waiting.pop(oldest) or b"")

  def _images(self, number: int) -> Iterator[bytes | None]:
    """Yields the images of a row group."""
    group = self._groups[number]
    path = pathlib.Path(group.path)
    if stamp(os.stat(path)) != group.stamp:
      raise UserError(
        f"{path} was modified after this command listed it. Run the command"
        " again with files that do not change meanwhile."
      )
    count = 0
    with _open(path) as file:
      try:
        for batch in file.iter_batches(
          BATCH,
          row_groups=[group.number],
          columns=[self._column],
          use_threads=False,
        ):
          column = batch.column(0)
          if pa.types.is_struct(column.type):
            (column,) = column.flatten()
          count += len(column)
          yield from column.to_pylist()
      except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    if count < group.count:
      raise _damaged(path, f"row group {group.number} has {count:,} rows")

  def _group_of(self, row: int) -> int:
    return int(np.searchsorted(self.starts, row, "right")) - 1


def _open(path: pathlib.Path) -> parquet.ParquetFile:
  try:
    # A buffer bounds memory: else a column of a row group is read as a whole.
    return parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
  except (pa.ArrowException, OSError) as error:
    raise _damaged(path, error) from error


def _damaged(path: pathlib.Path, reason: Any) -> UserError:
  reason = " ".join(str(reason).split())
  return UserError(
    f"{path} cannot be read as Parquet: {reason}. Download it again."
  )


def _list_groups(
  path: pathlib.Path, metadata: parquet.FileMetaData
) -> list[Group]:
  mark, row, groups = stamp(os.stat(path)), 0, []
  for number in range(metadata.num_row_groups):
    count = metadata.row_group(number).num_rows
    groups.append(Group(str(path), mark, number, row, count))
    row += count
  return groups


def _check_images(
  path: pathlib.Path, metadata: parquet.FileMetaData, column: str
) -> None:
  """Raises UserError if every image is null, as the file's statistics tell."""
  for number in range(metadata.num_row_groups):
    group = metadata.row_group(number)
    for place in range(group.num_columns):
      chunk = group.column(place)
      if chunk.path_in_schema == column:
        known = chunk.statistics is not None and chunk.statistics.has_null_count
        if not known or chunk.statistics.null_count < group.num_rows:
          return
  if metadata.num_rows:
    raise UserError(
      f"{path} has no images: its column {column} is empty. Write the dataset"
      " with its images in the files (push_to_hub(embed_external_files=True))."
    )


def _find_columns(path: pathlib.Path, schema: pa.Schema) -> Columns:
  """The columns of images and labels, from metadata or else from types."""
  features = _features(schema)
  image_fields = {f.name: _image_field(f) for f in schema if _image_field(f)}
  kinds = {name: of.get("_type") for name, of in features.items()}
  images = [n for n in image_fields if kinds.get(n, "Image") == "Image"]
  labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
  labels = labels or [
    field.name
    for field in schema
    if field.name not in image_fields and _is_label(field.type)
  ]
  # Of several kinds of labels, such as CIFAR-100's, the finest.
  labels.sort(key=lambda name: -len(features.get(name, {}).get("names", ())))
  if labels and kinds.get(labels[0]) == "ClassLabel" and "label" not in labels:
    label = labels[0]
  else:
    label = _choose(path, "label", labels, schema)
  image = _choose(path, "image", images, schema)
  names = features.get(label, {}).get("names", ())
  return Columns(image_fields[image], label, tuple(unique_names(names)))


def _choose(
  path: pathlib.Path, name: str, candidates: list[str], schema: pa.Schema
) -> str:
  """The column of that name, or the only candidate."""
  if name in candidates or len(candidates) == 1:
    return name if name in candidates else candidates[0]
  columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
  raise UserError(
    f"It is not clear which column of {path} has the {name} of an image: it has"
    f" {columns}. Columns called image (encoded bytes, or a struct with bytes)"
    " and label (whole numbers or texts) are needed."
  )


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
  """What the metadata of Hugging Face's datasets tell of each column."""
  try:
    stored = json.loads((schema.metadata or {})[b"huggingface"])
    features = stored["info"]["features"]
    return {n: of for n, of in features.items() if isinstance(of, dict)}
  except (KeyError, ValueError, TypeError, AttributeError):
    return {}


def _image_field(field: pa.Field) -> str:
  """The column, or its field, that may hold encoded images; else ""."""
  binary = (pa.types.is_binary, pa.types.is_large_binary)
  if any(is_kind(field.type) for is_kind in binary):
    return field.name
  if pa.types.is_struct(field.type):
    for part in field.type:
      if part.name == "bytes" and any(is_kind(part.type) for is_kind in binary):
        return f"{field.name}.bytes"
  return ""


def _is_label(kind: pa.DataType) -> bool:
  if pa.types.is_dictionary(kind):
    kind = kind.value_type
  texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
  return texts or pa.types.is_integer(kind)


def _read_labels(
  path: pathlib.Path,
  file: parquet.ParquetFile,
  column: str,
  texts: dict[str, int],
) -> np.ndarray:
  """i32[N], NO_LABEL for null; texts get numbers in `texts`."""
  try:
    labels = file.read([column]).column(0)
  except (pa.ArrowException, OSError) as error:
    raise _damaged(path, error) from error
  if pa.types.is_dictionary(labels.type):
    labels = labels.cast(labels.type.value_type)
  if pa.types.is_integer(labels.type):
    numbers = labels.cast(pa.int64(), safe=False).fill_null(NO_LABEL).to_numpy()
    return np.clip(numbers, *INT32).astype(np.int32)
  encoded = labels.dictionary_encode().combine_chunks()
  if isinstance(encoded, pa.ChunkedArray):  # of an empty file
    return np.zeros(0, np.int32)
  numbers = [
    texts.setdefault(name, len(texts))
    for name in encoded.dictionary.to_pylist()
  ]
  codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
  return np.array([*numbers, NO_LABEL], np.int32)[codes]
