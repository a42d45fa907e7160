"""Byte ranges: the compact index of original images that lie in files.

An image takes 20 bytes beside its name if it is a file of its own, and 36 in an
archive. As tuples of Python a million images would take 300 MB.
"""

import array
import bisect
import functools
import hashlib
import itertools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.data import parallel
from alexnet_jax.runtime.command import UserError

BLOCK = 2**16  # names that are Python objects at the same time


class Files(NamedTuple):
  """Files of one folder, sorted by name."""

  folder: str
  names: list[bytes]
  stamps: np.ndarray  # u32[N], one `stamp` per file

  def select(self, indices: np.ndarray) -> "Files":
    """The files at `indices`."""
    names = [self.names[i] for i in indices.tolist()]
    return Files(self.folder, names, self.stamps[indices])


def list_files(folder: str) -> tuple[Files, list[str]]:
  """The files directly in a folder, and the paths of everything else there."""
  names, stamps, others = [], [], []
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.is_file():
        names.append(entry.name)
        stamps.append(stamp(entry.stat()))
      else:
        others.append(entry.path)
  order = sorted(range(len(names)), key=names.__getitem__)
  files = Files(
    folder,
    [os.fsencode(names[i]) for i in order],
    np.array(stamps, np.uint32)[order],
  )
  return files, others


def stamp(status: os.stat_result) -> int:
  """32 bits that change with the size or time of modification of a file."""
  return zlib.crc32(struct.pack("<qq", status.st_size, status.st_mtime_ns))


class ByteRanges:
  """The images of a split, each a file or a byte range of one.

  A layout fills it in the order of the images, which decides the order of the
  prepared dataset, with `add_files` or with `add_ranges`. Reading it, as a
  `Source` is read, is thread-safe.

    images = ByteRanges("DIR")
    for label, folder in enumerate(sorted_class_folders):
      files, others = list_files(folder)
      images.add_files(files, label)

  Labels that are only known at the end are given as provisional numbers and
  replaced by `relabel`.
  """

  def __init__(self, root: str = ""):
    """An image that is a file gets its path relative to `root` as its name."""
    self._root = root
    # Of each image; `_ends` are places in `_names`.
    self._names = bytearray()
    self._ends = array.array("Q")
    self._labels = array.array("i")
    self._stamps = array.array("I")
    self._offsets = array.array("q")  # only of images in archives
    self._sizes = array.array("q")
    # Of each call that added images: the index of the first, the path of the
    # folder or archive, and what the names of its images begin with.
    self._firsts: list[int] = []
    self._places: list[str] = []
    self._prefixes: list[str] = []

  def add_files(self, files: Files, labels: int | Sequence[int]) -> None:
    """Adds the files of a folder, with one label or a label for each."""
    if self._offsets:
      raise ValueError("these images are ranges of files")
    prefix = os.path.relpath(files.folder, self._root)
    self._add_place(files.folder, "" if prefix == "." else f"{prefix}/")
    count = len(files.names)
    self._names += b"".join(files.names)
    start = self._ends[-1] if self._ends else 0
    lengths = np.fromiter(map(len, files.names), np.uint64, count)
    self._ends.frombytes((start + np.cumsum(lengths, dtype="u8")).tobytes())
    labels = np.broadcast_to(np.asarray(labels, np.int32), count)
    self._labels.frombytes(labels.tobytes())
    self._stamps.frombytes(files.stamps.tobytes())

  def add_file(self, path: str, label: int) -> None:
    """Adds one file; for files that are not listed by folder."""
    folder, name = os.path.split(path)
    stamps = np.array([stamp(os.stat(path))], np.uint32)
    self.add_files(Files(folder, [os.fsencode(name)], stamps), label)

  def add_ranges(
    self,
    path: str,
    ranges: Iterable[tuple[str, int, int, int]],
    prefix: str = "",
  ) -> None:
    """Adds images that are byte ranges of the file `path`.

    Args:
      ranges: name, label, first byte and number of bytes of each image.
      prefix: what the names of these images begin with.
    """
    if len(self._offsets) < len(self):
      raise ValueError("these images are files")
    self._add_place(path, prefix)
    mark = stamp(os.stat(path))
    for name, label, offset, size in ranges:
      self._names += os.fsencode(name)
      self._ends.append(len(self._names))
      self._labels.append(label)
      self._stamps.append(mark)
      self._offsets.append(offset)
      self._sizes.append(size)

  def relabel(self, labels: Sequence[int]) -> None:
    """Replaces each label k by `labels[k]`."""
    new = np.asarray(labels, np.int32)[self.labels()]
    self._labels = array.array("i", new.tobytes())

  def select(self, indices: np.ndarray) -> "ByteRanges":
    """The images at `indices`, which are in ascending order."""
    chosen = ByteRanges(self._root)
    chosen._places, chosen._prefixes = self._places, self._prefixes
    chosen._firsts = np.searchsorted(indices, self._firsts).tolist()
    for index in map(int, indices):
      chosen._names += self._name(index)
      chosen._ends.append(len(chosen._names))
    for mine, theirs in (
      (self._labels, chosen._labels),
      (self._stamps, chosen._stamps),
      (self._offsets, chosen._offsets),
      (self._sizes, chosen._sizes),
    ):
      if mine:
        values = np.frombuffer(mine, mine.typecode)[indices]
        theirs.frombytes(values.tobytes())
    return chosen

  def chunks(self, indices: np.ndarray) -> list[np.ndarray]:
    """Neighbours, so that a disk seeks once for several images."""
    return parallel.chunks(indices)

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    """The encoded image and its label; UserError if its file has changed."""
    place = self._places[self._place_of(index)]
    if self._offsets:
      path, offset = place, self._offsets[index]
      size = self._sizes[index]
    else:
      path = os.path.join(place, os.fsdecode(self._name(index)))
      offset, size = 0, -1
    with open(path, "rb") as file:
      if stamp(os.fstat(file.fileno())) != self._stamps[index]:
        raise UserError(
          f"{path} was modified after this command listed it. Run the command"
          " again with files that do not change meanwhile."
        )
      file.seek(offset)
      encoded = file.read(size)
    return encoded, self._labels[index]

  def labels(self) -> np.ndarray:
    """i32[N], the labels of all images."""
    return np.frombuffer(self._labels, np.int32).copy()

  def example_name(self, index: int) -> str:
    """The name of an image for messages and for the prepared dataset."""
    prefix = self._prefixes[self._place_of(index)]
    return prefix + os.fsdecode(self._name(index))

  @functools.cached_property
  def fingerprint(self) -> str:
    """A digest of names, labels and ranges; the images are not read."""
    count, digest = len(self), hashlib.sha256()
    for values, default in ((self._offsets, 0), (self._sizes, -1)):
      for start in range(0, count, BLOCK):
        block = values[start : start + BLOCK]
        if not values:  # what an image that is a file has
          block = array.array("q", [default]) * min(BLOCK, count - start)
        digest.update(block.tobytes())
    digest.update(self._labels.tobytes())
    names, width = self._all_names(), self._longest_name()
    # Each name is padded to the longest one.
    while block := list(itertools.islice(names, BLOCK)):
      digest.update(np.array(block, f"S{width}").tobytes())
    return digest.hexdigest()

  @functools.cached_property
  def state(self) -> str:
    """A digest of the sizes and times of modification of all files."""
    return hashlib.sha256(self._stamps.tobytes()).hexdigest()

  def _add_place(self, path: str, prefix: str) -> None:
    if self._places[-1:] == [path] and self._prefixes[-1:] == [prefix]:
      return
    self._firsts.append(len(self))
    self._places.append(path)
    self._prefixes.append(prefix)

  def _place_of(self, index: int) -> int:
    return bisect.bisect_right(self._firsts, index) - 1

  def _name(self, index: int) -> bytes:
    start = self._ends[index - 1] if index else 0
    return bytes(self._names[start : self._ends[index]])

  def _all_names(self) -> Iterator[bytes]:
    """The names of all images, with their prefixes."""
    lasts = [*self._firsts[1:], len(self)]
    for prefix, *span in zip(self._prefixes, self._firsts, lasts, strict=True):
      prefix = os.fsencode(prefix)
      yield from (prefix + self._name(index) for index in range(*span))

  def _longest_name(self) -> int:
    ends = np.frombuffer(self._ends, np.uint64)
    lengths = np.diff(ends, prepend=np.uint64(0))
    lasts = [*self._firsts[1:], len(self)]
    longest = [
      len(os.fsencode(prefix)) + int(lengths[slice(*span)].max(initial=0))
      for prefix, *span in zip(self._prefixes, self._firsts, lasts, strict=True)
      if span[0] < span[1]
    ]
    return max(longest, default=1)
