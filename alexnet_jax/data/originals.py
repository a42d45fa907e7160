"""Originals: the images to prepare, as a layout finds them.

A layout is a module with a function that opens a place (a folder, a name) as
`Originals`, or raises UserError if data are missing, damaged or unsuitable;
`preparing.LAYOUTS` lists them. Nothing is unpacked: every image is read from
where it is stored, so a name in an archive is never used as a path.
"""

import collections
import dataclasses
import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from alexnet_jax.data.byte_ranges import ByteRanges, stamp
from alexnet_jax.data.class_words import is_imagenet
from alexnet_jax.data.sources import NO_LABEL, permutation, problem_of_label
from alexnet_jax.runtime.command import UserError

UNREADABLE = -2  # the label of an image whose record is damaged

# Unicode's categories of control characters, of bytes that are not UTF-8 (as
# Python reads file names) and of line breaks.
UNUSABLE = ("Cc", "Cs", "Zl", "Zp")

# How the images of a split are called where `Originals.found` is silent.
FOUND = {
  "train": "training images",
  "validation": "validation images",
  "test": "test images",
}


class Split(Protocol):
  """The images of a split; thread-safe."""

  fingerprint: str  # of the names and labels of the images

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    """The encoded image and its label; UndecodableImage if it is damaged."""

  def labels(self) -> np.ndarray:
    """i32[N]: labels from 0, or NO_LABEL, or UNREADABLE."""

  def example_name(self, index: int) -> str:
    """The name of an image for messages and for the prepared dataset."""

  def select(self, indices: np.ndarray) -> "Split":
    """The images at `indices`, i64[M] in ascending order."""

  def chunks(self, indices: np.ndarray) -> list[np.ndarray]:
    """Cuts `indices` where reading may go on at another place at no cost."""


@dataclasses.dataclass
class Originals:
  """The images of a dataset before it is prepared."""

  name: str
  splits: dict[str, Split]  # one of them is "train"
  class_names: Sequence[str]  # in the order of the labels
  files: Sequence[pathlib.Path] = ()  # those that hold many images
  # What is there and not used, with the reason.
  left_out: list[str] = dataclasses.field(default_factory=list)
  # Whether to turn images as their EXIF orientation says. The files of a camera
  # need it; images of archives and datasets are used as they are stored.
  upright: bool = False
  layout: str = ""  # its name in a sentence, such as "Kaggle's ILSVRC layout"
  # What the images of a split are, such as "of val/ labelled by list.csv".
  found: dict[str, str] = dataclasses.field(default_factory=dict)

  def state(self) -> str:
    """A digest of the sizes and times of modification of all source files."""
    states = [
      images.state
      for images in self.splits.values()
      if isinstance(images, ByteRanges)
    ]
    states += [f"{path.name} {stamp(path.stat())}" for path in self.files]
    return hashlib.sha256("\n".join(states).encode()).hexdigest()

  def description(self) -> str:
    """One line: the layout, the images of each split and the classes."""
    counts = [
      f"{len(images):,} {self.found.get(split) or FOUND.get(split, split)}"
      for split, images in self.splits.items()
    ]
    classes = f"{len(self.class_names):,} classes"
    orientation = f"EXIF orientation {'applied' if self.upright else 'ignored'}"
    return (
      f"{self.layout or self.name}: {', '.join(counts)}; {classes};"
      f" {orientation}{' (ImageNet)' if is_imagenet(self.class_names) else ''}"
    )

  def orient(self, choice: str) -> None:
    """Decides whether images are turned as their EXIF orientation says.

    Args:
      choice: "apply", "ignore", or "auto": as the layout says, but never for
        ImageNet, for which every published pipeline ignores it. ImageNet's
        classes are called by their WordNet ids, such as n01440764.
    """
    if choice != "auto":
      self.upright = choice == "apply"
    elif is_imagenet(self.class_names):
      self.upright = False

  def check(self) -> None:
    """Checks names and labels before any work, and leaves out what has none.

    A split without any label is removed from `splits` and named in `left_out`.

    Raises:
      UserError: a class name cannot be stored, an image has a label of no
        class, or there are no training images.
    """
    check_class_names(self.class_names)
    for split, images in list(self.splits.items()):
      labels = images.labels()
      if len(labels) and (labels == NO_LABEL).all():
        self.left_out.append(f"{split}: {len(images):,} images without labels")
        del self.splits[split]
        continue
      wrong = (labels < 0) | (labels >= len(self.class_names))
      wrong &= labels != UNREADABLE
      if wrong.any():
        index = int(np.argmax(wrong))
        raise UserError(
          f"{images.example_name(index)} of the {split} split of {self.name}"
          f" {problem_of_label(int(labels[index]), len(self.class_names))} ("
          f"{np.count_nonzero(wrong):,} of {len(labels):,} images of that split"
          " have such labels). Correct the labels, or remove these images."
        )
    if "train" not in self.splits:
      raise UserError(
        f"{self.name} has no training images with labels"
        f" ({'; '.join(self.left_out) or ', '.join(self.splits)})."
      )

  def hold_out(self, share: float) -> None:
    """Moves a random share of each class from train to a validation split.

    Raises:
      UserError: there is a validation split already, or it would be empty.
    """
    if "validation" in self.splits:
      raise UserError(
        f"--holdout={share:g} has no effect: {self.name} has"
        f" {len(self.splits['validation']):,} validation images. Leave"
        " --holdout out, or move these images away."
      )
    train = self.splits["train"]
    labels = train.labels()
    order = np.argsort(labels, kind="stable")
    firsts = np.flatnonzero(
      np.diff(labels[order], prepend=labels[order[:1]] - 1)
    )
    held_out = np.zeros(len(labels), bool)
    for of_class in np.split(order, firsts[1:]):
      count = round(len(of_class) * share)
      number = abs(int(labels[of_class[0]]))  # may be UNREADABLE
      held_out[of_class[permutation(len(of_class), number)[:count]]] = True
    if not held_out.any() or held_out.all():
      raise UserError(
        f"--holdout={share:g} of each class leaves no"
        f" {'training' if held_out.any() else 'validation'} images of"
        f" {self.name} ({len(labels):,} images, {len(firsts):,} classes)."
        " Choose another share."
      )
    self.splits["train"] = train.select(np.flatnonzero(~held_out))
    self.splits["validation"] = train.select(np.flatnonzero(held_out))
    self.found["validation"] = "held out from them for validation"


class Options(NamedTuple):
  """Flags of `prepare` that only some layouts read."""

  source_dir: str = ""  # folder of the tfds dataset; "" for the default of tfds
  holdout: float = 0.0  # share of each class for a missing validation split
  layout: str = "auto"  # of `folder:DIR`, one of image_folders.LAYOUTS
  exif_orientation: str = "auto"  # or "apply" or "ignore"; see Originals.orient


def check_class_names(names: Sequence[str]) -> None:
  """Raises UserError if tfds would not read these names back as they are.

  tfds stores a name a line and removes white space at its ends.
  """
  seen: dict[str, int] = {}
  for number, name in enumerate(names):
    reason = ""
    if not name.strip():
      reason = "is empty"
    elif name != name.strip():
      reason = "begins or ends with white space"
    elif any(unicodedata.category(c) in UNUSABLE for c in name):
      reason = "has a line break, a tab or bytes that are not UTF-8"
    elif name in seen:
      reason = f"is also that of class {seen[name]}"
    if reason:
      raise UserError(
        f"The name of class {number}, {name!a}, {reason}. Rename the class."
      )
    seen[name] = number


def unique_names(names: Iterable[str]) -> list[str]:
  """Class names from a dataset's metadata or a list, as tfds can store them.

  White space is normalised; a name that several classes have gets the number
  of the class.
  """
  trimmed = [" ".join(str(name).split()) for name in names]
  counts = collections.Counter(trimmed)
  return [
    name if name and counts[name] == 1 else f"{name} ({number})".strip()
    for number, name in enumerate(trimmed)
  ]


def dataset_name(directory: pathlib.Path) -> str:
  """The name of the dataset in a folder: a-z, 0-9 and _."""
  name = re.sub("[^a-z0-9_]", "_", directory.resolve().name.lower())
  return name if name[:1].isalpha() else f"images_{name}"
