"""Originals: the images to prepare, as a layout finds them.

A layout is a module with a function that opens a place (a folder, a name) as
`Originals`, or raises UserError if data are missing, damaged or unsuitable;
`preparing.LAYOUTS` lists them. Nothing is unpacked: every image is read from
where it is stored, so a name in an archive is never used as a path, and links
are not followed.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from alexnet_jax.data.byte_ranges import ByteRanges, stamp
from alexnet_jax.data.sources import Source

Split = Source | ByteRanges


@dataclasses.dataclass
class Originals:
  """The images of a dataset before it is prepared."""

  name: str
  splits: dict[str, Split]  # one of them is "train"
  class_names: Sequence[str]  # in the order of the labels
  files: Sequence[pathlib.Path] = ()  # those that hold many images
  # Files that are not images, with the reason. The manifest stores these texts
  # and a repeated command compares them, so do not reword them.
  left_out: Sequence[str] = ()
  # Whether to turn images as their EXIF orientation says. A camera's own files
  # need it; for ImageNet every published pipeline ignores it.
  upright: bool = False

  def state(self) -> str:
    """A digest of the sizes and times of modification of all source files."""
    states = [
      images.state
      for images in self.splits.values()
      if isinstance(images, ByteRanges)
    ]
    states += [f"{path.name} {stamp(path.stat())}" for path in self.files]
    return hashlib.sha256("\n".join(states).encode()).hexdigest()


class Options(NamedTuple):
  """Flags of `prepare` that only some layouts read."""

  source_dir: str = ""  # folder of the tfds dataset; "" for the default of tfds
  holdout: float = 0.0  # share of each class for a missing validation split
