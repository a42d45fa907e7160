"""Label lists: the classes of images that are not in a folder per class."""

import csv
import pathlib
from typing import NamedTuple

import tensorflow_datasets as tfds

from alexnet_jax.runtime.command import UserError

KAGGLE = "LOC_val_solution.csv"
OFFICIAL = "the official list"  # of ILSVRC-2012's validation images
PARENTS = 4  # folders above the images in which Kaggle's list is looked for


class LabelList(NamedTuple):
  """The classes of images."""

  name: str  # in messages
  classes: dict[str, str]  # by the name of the file without its suffix


def find(folder: pathlib.Path, split: str) -> LabelList | None:
  """The list for the images of a split in a folder; None if there is none.

  It is Tiny ImageNet's `*_annotations.txt` in the folder, or beside it if it is
  called `images`. For validation it may also be Kaggle's LOC_val_solution.csv
  in the folder or above it, or for files that are named like the validation
  images of ILSVRC-2012 the list that tfds ships.

  Raises:
    UserError: the list is damaged.
  """
  places = [folder, folder.parent] if folder.name == "images" else [folder]
  for place in places:
    for path in sorted(place.glob("*_annotations.txt")):
      return _read_annotations(path)
  if split != "validation":
    return None
  for place in [folder, *folder.resolve().parents][: PARENTS + 1]:
    if (place / KAGGLE).is_file():
      return _read_kaggle(place / KAGGLE)
  if any(folder.glob("ILSVRC2012_val_*")):
    wnids = official("validation_labels.txt")
    names = (f"ILSVRC2012_val_{n:08}" for n in range(1, len(wnids) + 1))
    classes = dict(zip(names, wnids, strict=True))
    return LabelList(OFFICIAL, classes)
  return None


def official(name: str) -> list[str]:
  """A list of WordNet ids for ILSVRC-2012 that tfds ships."""
  path = tfds.core.tfds_path(f"datasets/imagenet2012/{name}")
  return path.read_text().split()


def _read_annotations(path: pathlib.Path) -> LabelList:
  """Tiny ImageNet's list: file name, class and a box, separated by tabs."""
  classes = {}
  for number, line in enumerate(_read(path).splitlines(), 1):
    name, _, rest = line.partition("\t")
    if not line.strip():
      continue
    if not rest.strip():
      raise UserError(
        f"Line {number} of {path} is not a file name, a tab and a class:"
        f" {line[:80]!r}. Download the file again."
      )
    classes[pathlib.PurePath(name).stem] = rest.split("\t")[0].strip()
  return LabelList(path.name, classes)


def _read_kaggle(path: pathlib.Path) -> LabelList:
  """Kaggle's list: an image's name without suffix, then classes with boxes."""
  classes = {}
  for number, row in enumerate(csv.reader(_read(path).splitlines()), 1):
    if not row or (number == 1 and row[0] == "ImageId"):
      continue
    if len(row) != 2 or not row[1].split():
      raise UserError(
        f"Line {number} of {path} is not an image and its classes:"
        f" {','.join(row)[:80]!r}. Download the file again."
      )
    classes[row[0]] = row[1].split()[0]  # every box of an image has its class
  return LabelList(path.name, classes)


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f"{path} cannot be read ({error}). Download the file again."
    ) from error
