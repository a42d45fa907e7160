"""The layout `folder:DIR`: image files in a folder per class.

DIR/train/CLASS/*, DIR/validation/CLASS/* (or val) and perhaps DIR/test/CLASS/*;
or DIR/CLASS/*, whose validation split is held out from the training images.
"""

import os
import pathlib
import re

from alexnet_jax.data.originals import (
  ByteRanges,
  Options,
  Originals,
  find_folder,
)
from alexnet_jax.data.sources import permutation
from alexnet_jax.runtime.command import UserError

Classes = dict[str, list[str]]  # the paths of the images of each class

# The folders in which each further split may be.
FOLDER_NAMES = {"validation": ("validation", "val"), "test": ("test",)}


def open_folders(place: str, options: Options) -> Originals:
  """Opens the folder `place`; the layout is described above.

  Raises:
    UserError: the folder is missing or has no classes, a split has classes
      that training lacks, or there is no validation split and no share of
      `options.holdout`.
  """
  directory = find_folder(place)
  left_out: list[str] = []
  images = {
    split: _find_images(folder, left_out)
    for split, folder in _find_splits(directory).items()
  }
  _check_classes(directory, images)
  if "validation" not in images:
    if not 0 < options.holdout < 1:
      raise UserError(
        f"{directory} has no validation images (DIR/validation/CLASS/*). Add"
        " some, or hold out a share of each class, e.g. --holdout=0.1."
      )
    images["train"], images["validation"] = _hold_out(
      images["train"], options.holdout
    )
  class_names = sorted(images["train"])
  splits = {}
  for split, classes in images.items():
    paths = [path for name in class_names for path in classes.get(name, ())]
    splits[split] = ByteRanges.of_files(
      paths,
      [class_names.index(pathlib.Path(path).parent.name) for path in paths],
      (os.path.relpath(path, directory) for path in paths),
    )
  name = re.sub(r"\W", "_", directory.resolve().name.lower())
  return Originals(name, splits, class_names, left_out=left_out, upright=True)


def _find_splits(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  if not (directory / "train").is_dir():
    return {"train": directory}
  folders = {"train": directory / "train"}
  for split, names in FOLDER_NAMES.items():
    for name in names:
      if (directory / name).is_dir() and _subfolders(directory / name):
        folders.setdefault(split, directory / name)
  return folders


def _subfolders(directory: pathlib.Path) -> list[str]:
  return sorted(
    entry.name
    for entry in os.scandir(directory)
    if entry.is_dir() and not entry.name.startswith(".")
  )


def _find_images(directory: pathlib.Path, left_out: list[str]) -> Classes:
  """The sorted paths of the files of each class folder that has any."""
  classes = {}
  for name in _subfolders(directory):
    paths = []
    for entry in os.scandir(directory / name):
      if entry.is_file():
        paths.append(entry.path)
      else:
        left_out.append(f"{entry.path} is no file")
    if paths:
      classes[name] = sorted(paths)
    else:
      left_out.append(f"{directory / name} holds no image: not a class")
  return classes


def _check_classes(directory: pathlib.Path, images: dict[str, Classes]) -> None:
  if not images["train"]:
    raise UserError(
      f"{directory} has no class folders with images: looked for"
      " DIR/train/CLASS/* and DIR/CLASS/*. Put the images of each class in a"
      " folder of its name."
    )
  for split, classes in images.items():
    if unknown := sorted(set(classes) - set(images["train"])):
      raise UserError(
        f"The {split} split of {directory} has {len(unknown)} classes without"
        f" training images, for example {unknown[0]}. Add training images, or"
        " move these classes away."
      )


def _hold_out(images: Classes, share: float) -> tuple[Classes, Classes]:
  """Splits each class at random into (the rest, a share)."""
  rest, held_out = {}, {}
  for number, name in enumerate(sorted(images)):
    paths = images[name]
    order = permutation(len(paths), number).tolist()
    count = round(len(paths) * share)
    held_out[name] = [paths[i] for i in sorted(order[:count])]
    rest[name] = [paths[i] for i in sorted(order[count:])]
  return rest, held_out
