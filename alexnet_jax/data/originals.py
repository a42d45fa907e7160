"""Originals: the images to prepare, as a layout finds them.

A layout is a module with a function that opens a place (a folder, a name) as
`Originals`, or raises UserError if data are missing, damaged or unsuitable;
`preparing.LAYOUTS` lists them. Nothing is unpacked: every image is read from
where it is stored, so a name in an archive is never used as a path, and links
are not followed.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.sources import Source


class ByteRanges:
  """Images that are byte ranges of files; read as a `Source`, thread-safe.

  Each image has a path, a label, a name for messages and for the prepared
  dataset, and the offset and size of its bytes; size -1 is up to the end of the
  file. The fingerprint is a digest of these, without reading the images.
  """

  def __init__(
    self,
    paths: Sequence[str | os.PathLike],
    labels: Sequence[int],
    names: Iterable[str],
    offsets: int | Sequence[int] = 0,
    sizes: int | Sequence[int] = -1,
  ):
    self._paths = paths
    self._offsets = np.full(len(paths), offsets, np.int64)
    self._sizes = np.full(len(paths), sizes, np.int64)
    self._labels = np.array(labels, np.int32)
    # As bytes: a million Python strings would take a hundred megabytes.
    self._names = np.array([os.fsencode(name) for name in names], np.bytes_)
    digest = hashlib.sha256()
    for array in (self._offsets, self._sizes, self._labels, self._names):
      digest.update(array.tobytes())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    with open(self._paths[index], "rb", buffering=0) as file:
      file.seek(self._offsets[index])
      encoded = file.read(self._sizes[index])
    return encoded, self.label(index)

  def label(self, index: int) -> int:
    return int(self._labels[index])

  def example_name(self, index: int) -> str:
    return os.fsdecode(bytes(self._names[index]))


Split = Source | ByteRanges


@dataclasses.dataclass
class Originals:
  """The images of a dataset before it is prepared."""

  name: str
  splits: dict[str, Split]  # one of them is "train"
  class_names: Sequence[str]  # in the order of the labels
  # Size in bytes of each source file that holds many images, by name.
  files: dict[str, int] = dataclasses.field(default_factory=dict)
  # Files that are not images, with the reason. The manifest stores these texts
  # and a repeated command compares them, so do not reword them.
  left_out: Sequence[str] = ()
  # Whether to turn images as their EXIF orientation says. A camera's own files
  # need it; for ImageNet every published pipeline ignores it.
  upright: bool = False


class Options(NamedTuple):
  """Flags of `prepare` that only some layouts read."""

  source_dir: str = ""  # folder of the tfds dataset; "" for the default of tfds
  holdout: float = 0.0  # share of each class for a missing validation split
