"""Originals: the images to prepare, as a layout finds them.

A layout is a module with a function that opens a place (a folder, a name) as
`Originals`; `preparing.LAYOUTS` lists them. Nothing is unpacked: every image is
read from where it is stored, so a name in an archive is never used as a path,
and links are not followed.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from alexnet_jax.runtime.command import UserError


class Split(Protocol):
  """The original images of a split; thread-safe."""

  def __len__(self) -> int: ...

  def label(self, index: int) -> int: ...

  def name(self, index: int) -> str:
    """The name of an image in messages and in the prepared dataset."""

  def read(self, index: int) -> tuple[bytes, int]:
    """The encoded image and its label.

    Raises:
      OSError: the image cannot be read.
      UndecodableImage: its record is damaged.
    """

  def inventory(self) -> str:
    """A digest of which images there are, without reading them."""


class ByteRanges:
  """Images that are byte ranges of files; thread-safe.

  Args:
    paths: the files.
    file_numbers: for each image, the index of its file in `paths`.
    offsets: for each image, its first byte.
    sizes: for each image, its number of bytes; -1 for up to the end.
    labels: of the images.
    names: of the images.
  """

  def __init__(
    self,
    paths: Sequence[str | os.PathLike],
    file_numbers: Sequence[int],
    offsets: Sequence[int],
    sizes: Sequence[int],
    labels: Sequence[int],
    names: Iterable[str],
  ):
    self._paths = paths
    self._file_numbers = np.array(file_numbers, np.int32)
    self._offsets = np.array(offsets, np.int64)
    self._sizes = np.array(sizes, np.int64)
    self._labels = np.array(labels, np.int32)
    # As bytes: a million Python strings would take a hundred megabytes.
    self._names = np.array([os.fsencode(name) for name in names], np.bytes_)

  @classmethod
  def of_files(
    cls,
    paths: Sequence[str | os.PathLike],
    labels: Sequence[int],
    names: Iterable[str],
  ) -> "ByteRanges":
    """Images that are whole files."""
    count = len(paths)
    return cls(paths, range(count), [0] * count, [-1] * count, labels, names)

  def __len__(self) -> int:
    return len(self._labels)

  def label(self, index: int) -> int:
    return int(self._labels[index])

  def name(self, index: int) -> str:
    return os.fsdecode(bytes(self._names[index]))

  def read(self, index: int) -> tuple[bytes, int]:
    path = self._paths[self._file_numbers[index]]
    with open(path, "rb", buffering=0) as file:
      file.seek(self._offsets[index])
      encoded = file.read(self._sizes[index])
    return encoded, self.label(index)

  def inventory(self) -> str:
    digest = hashlib.sha256()
    for array in (self._offsets, self._sizes, self._labels, self._names):
      digest.update(array.tobytes())
    return digest.hexdigest()


@dataclasses.dataclass
class Originals:
  """The images of a dataset before it is prepared.

  Attributes:
    name: of the dataset.
    splits: by name; "train" is one of them.
    class_names: in the order of the labels.
    files: size in bytes of each source file that holds many images, by name.
    left_out: files that are not images, with the reason. The manifest stores
      these texts and a repeated command compares them, so do not reword them.
    upright: whether to turn images as their EXIF orientation says. A camera's
      own files need it; for ImageNet every published pipeline ignores it.
  """

  name: str
  splits: dict[str, Split]
  class_names: Sequence[str]
  files: dict[str, int] = dataclasses.field(default_factory=dict)
  left_out: Sequence[str] = ()
  upright: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
  """Flags of `prepare` that only some layouts read.

  Attributes:
    source_dir: folder of the tfds dataset; "" for tfds' own default.
    holdout: share of each class to use for validation if there is no
      validation split.
  """

  source_dir: str = ""
  holdout: float = 0.0


def find_folder(place: str) -> pathlib.Path:
  """The folder of that name.

  Raises:
    UserError: it does not exist.
  """
  folder = pathlib.Path(place).expanduser()
  if not folder.is_dir():
    raise UserError(f"The source folder {folder} does not exist.")
  return folder
