"""Raw pixels: the decoded images of a prepared dataset, read memory-mapped.

They take five to six times the disk of its JPEGs and need no decoding. Each
file of the dataset has one of pixels, in `raw/` beside it, which
`numpy.load(path, mmap_mode="r")` reads as (label, image) pairs.
"""

import bisect
import contextlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_jax.data import parallel
from alexnet_jax.data.images import UndecodableImage, decode_into
from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError

FOLDER = "raw"
INDEX = "raw.json"
# Libraries that decide the value of a pixel of a JPEG.
LIBRARIES = ("numpy", "simplejpeg")

Examples = Sequence[tuple[bytes, int]]


class RawPixels:
  """(image uint8[S,S,3], label) of a split, by index; thread-safe.

  The image is a view of the file, which the operating system reads when its
  pixels are used.
  """

  def __init__(
    self,
    parts: Sequence[np.ndarray],
    size: int,
    indices: np.ndarray | None = None,
  ):
    """The examples of files, in their order, or those at `indices`.

    Args:
      parts: arrays with the fields of `_dtype(size)`, one for each file.
      size: side S of the images.
      indices: i64[N]; None: all.
    """
    self.size = size
    self._parts, self._indices = parts, indices
    self._ends = list(itertools.accumulate(map(len, parts)))

  def select(self, indices: np.ndarray) -> "RawPixels":
    """The examples at `indices` i64[N], in that order."""
    if self._indices is not None:
      indices = self._indices[indices]
    return RawPixels(self._parts, self.size, indices)

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    if self._indices is not None:
      index = int(self._indices[index])
    part = bisect.bisect_right(self._ends, index)
    place = index - self._ends[part]  # from the end of the part
    label, image = self._parts[part][place]
    return image, int(label)


def open_raw(
  folder: str, digest: str, instructions: Sequence[Any]
) -> RawPixels | None:
  """The raw pixels of a part of the dataset in a folder; None if it has none.

  Args:
    folder: of the dataset.
    digest: of its metadata, `sources.metadata_digest`.
    instructions: the parts of its files that are read, tfds'
      `SplitInfo.file_instructions`.

  Raises:
    UserError: they are damaged, or belong to other images.
  """
  place = pathlib.Path(folder, FOLDER)
  if not place.is_dir():
    return None
  try:
    index = json.loads((place / INDEX).read_text())
    if index["dataset"] != digest:
      raise ValueError("they belong to another version of the dataset")
    dtype = _dtype(index["size"])
    parts = []
    for part in instructions:
      path = place / f"{os.path.basename(part.filename)}.npy"
      stored = np.load(path, mmap_mode="r", allow_pickle=False)
      if stored.shape != (part.examples_in_shard,) or stored.dtype != dtype:
        raise ValueError(f"{path.name} has other images")
      end = None if part.take == -1 else part.skip + part.take
      parts.append(stored[part.skip : end])
    return RawPixels(parts, index["size"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    name = pathlib.Path(folder).parent.name
    raise UserError(
      f"The raw pixels in {place} cannot be used: {error}. Remove that folder"
      " to read the JPEGs again, or to make them anew with python -m"
      f" alexnet_jax.prepare --raw --data_dir=DIR --name={name}."
    ) from error


def write_raw(
  folder: str,
  digest: str,
  size: int,
  shards: dict[str, Examples],
  name: str,
) -> str:
  """Decodes all images of a dataset into `raw/`; returns that folder.

  If it is killed, it continues with the first file that is missing.

  Args:
    folder: of the prepared dataset.
    digest: of its metadata, `sources.metadata_digest`.
    size: side S of its images.
    shards: the examples of each of its files, by the file's name.
    name: of the dataset, for messages.

  Raises:
    UserError: the disk has too little room, an image cannot be decoded, or
      another process is writing them.
  """
  target = pathlib.Path(folder, FOLDER)
  if target.exists():
    return str(target)
  count, dtype = sum(map(len, shards.values())), _dtype(size)
  unfinished = pathlib.Path(folder, f".{FOLDER}.incomplete")

  def find_missing():
    paths = {unfinished / f"{file}.npy": shards[file] for file in shards}
    return {path: of for path, of in paths.items() if not path.exists()}

  left = sum(map(len, find_missing().values()))
  _check_room(folder, name, left * dtype.itemsize, count)
  with files.WorkdirLock(str(unfinished), "--data_dir"):
    try:
      missing = find_missing()  # again, now that no other process writes
      left = sum(map(len, missing.values()))
      if left < count:
        done = f"{count - left:,} of {count:,} images are done already."
        print(done, file=sys.stderr)
      _write_files(missing, dtype, left, count)
      index = {
        "dataset": digest,
        "size": size,
        "versions": {lib: importlib.metadata.version(lib) for lib in LIBRARIES},
      }
      files.write_atomic(unfinished / INDEX, json.dumps(index, indent=1))
      os.rename(unfinished, target)
    except OSError as error:
      free = shutil.disk_usage(folder).free
      raise UserError(
        f"Writing into {unfinished} failed: {error} ({free / 1e9:.1f} GB free)."
        " Finished files are kept: free some space, and run the same command"
        " again."
      ) from error
  (target / "lock").unlink(missing_ok=True)
  return str(target)


def memory_note(folder: str) -> str:
  """A sentence that compares the raw pixels with the machine's memory."""
  place = pathlib.Path(folder, FOLDER)
  size = sum(path.stat().st_size for path in place.glob("*.npy"))
  memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  if size < memory:
    fit, effect = "fit", "after the first epoch they are read from it"
  else:
    fit, effect = "do not fit", "they are read as fast as the disk is"
  return (
    f"raw pixels: {_in_words(size)} in {place}; they {fit} in the"
    f" {memory / 1e9:,.0f} GB of this machine's memory, so {effect}"
  )


def _write_files(
  paths: dict[pathlib.Path, Examples], dtype: np.dtype, left: int, count: int
) -> None:
  def decode(task: tuple[Examples, np.ndarray]) -> np.ndarray:
    examples, indices = task
    decoded = np.zeros(len(indices), dtype)
    for place, index in enumerate(indices.tolist()):
      try:
        encoded, decoded["label"][place] = examples[index]
        image = np.empty(dtype["image"].shape, np.uint8)
        decode_into(image, encoded)
        decoded["image"][place] = image
      except UndecodableImage as error:
        raise UserError(
          f"An image of the dataset cannot be decoded ({error}). Check it with"
          " python -m alexnet_jax.prepare --check, and prepare it again."
        ) from error
    return decoded

  tasks = [
    (examples, chunk)
    for examples in paths.values()
    for chunk in parallel.chunks(np.arange(len(examples)))
  ]
  chunks = parallel.map_images(
    decode,
    tasks,
    "Decoding",
    size=lambda task: len(task[1]),
    total=left,
    num_done=count - left,
  )
  header = {
    "descr": np.lib.format.dtype_to_descr(dtype),
    "fortran_order": False,
  }
  with contextlib.closing(chunks):
    for path, examples in paths.items():
      shape = {"shape": (len(examples),)}
      with files.replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header | shape)
        for _ in parallel.chunks(np.arange(len(examples))):
          file.write(next(chunks).tobytes())


def _check_room(folder: str, name: str, need: int, count: int) -> None:
  """Raises UserError unless the disk has `need` bytes free."""
  free = shutil.disk_usage(folder).free
  if need > free:
    raise UserError(
      f"The raw pixels of {name} ({count:,} images) need {_in_words(need)},"
      f" but the disk of {folder} has {_in_words(free)} free. Free some space,"
      " or train from the JPEGs, which needs no raw pixels."
    )


def _in_words(size: int) -> str:
  return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"


def _dtype(size: int) -> np.dtype:
  return np.dtype([("label", "<i4"), ("image", "u1", (size, size, 3))])
