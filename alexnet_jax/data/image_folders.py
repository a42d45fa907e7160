"""The layout `folder:DIR`: image files in a folder per class.

DIR/train/CLASS/*, DIR/validation/CLASS/* (or val) and perhaps DIR/test/CLASS/*;
or DIR/CLASS/*, whose validation split is held out from the training images.
"""

import os
import pathlib
import re

from alexnet_jax.data.originals import ByteRanges, Options, Originals
from alexnet_jax.data.sources import permutation
from alexnet_jax.runtime.command import UserError

Classes = dict[str, list[str]]  # the paths of the images of each class


def open_folders(place: str, options: Options) -> Originals:
  """Opens the folder; holds `options.holdout` out if validation is missing."""
  directory = pathlib.Path(place)
  left_out: list[str] = []
  images = {}
  for split, folder in _find_splits(directory).items():
    images[split] = _find_images(folder, left_out)
  class_names = sorted(images["train"])
  if not class_names:
    raise UserError(
      f"{directory} has no class folders with images: looked for"
      " DIR/train/CLASS/* and DIR/CLASS/*. Put the images of each class in a"
      " folder of its name."
    )
  for split, classes in images.items():
    if unknown := sorted(set(classes) - set(class_names)):
      raise UserError(
        f"The {split} split of {directory} has {len(unknown)} classes without"
        f" training images, for example {unknown[0]}. Add training images, or"
        " move these classes away."
      )
  if "validation" not in images:
    if not 0 < options.holdout < 1:
      raise UserError(
        f"{directory} has no validation images (DIR/validation/CLASS/*). Add"
        " some, or hold out a share of each class, e.g. --holdout=0.1."
      )
    _hold_out(images, options.holdout)
  splits = {}
  for split, classes in images.items():
    paths = [path for name in class_names for path in classes.get(name, ())]
    labels = [class_names.index(pathlib.Path(p).parent.name) for p in paths]
    names = (os.path.relpath(path, directory) for path in paths)
    splits[split] = ByteRanges(paths, labels, names)
  name = re.sub(r"\W", "_", directory.resolve().name.lower())
  return Originals(name, splits, class_names, left_out=left_out, upright=True)


def _find_splits(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  folders = {"train": directory / "train"}
  if not folders["train"].is_dir():
    return {"train": directory}
  for name in ("validation", "val", "test"):
    folder = directory / name
    if folder.is_dir() and _subfolders(folder):
      folders.setdefault("validation" if name == "val" else name, folder)
  return folders


def _subfolders(directory: pathlib.Path) -> list[pathlib.Path]:
  folders = (entry for entry in directory.iterdir() if entry.is_dir())
  return sorted(f for f in folders if not f.name.startswith("."))


def _find_images(directory: pathlib.Path, left_out: list[str]) -> Classes:
  """The sorted paths of the files of each class folder that has any."""
  classes = {}
  for folder in _subfolders(directory):
    entries = list(os.scandir(folder))
    left_out += [f"{e.path} is no file" for e in entries if not e.is_file()]
    if paths := sorted(entry.path for entry in entries if entry.is_file()):
      classes[folder.name] = paths
    else:
      left_out.append(f"{folder} holds no image: not a class")
  return classes


def _hold_out(images: dict[str, Classes], share: float) -> None:
  """Moves a random share of each class from train to validation."""
  images["validation"] = {}
  for number, (name, paths) in enumerate(sorted(images["train"].items())):
    order = permutation(len(paths), number).tolist()
    count = round(len(paths) * share)
    images["validation"][name] = [paths[i] for i in sorted(order[:count])]
    images["train"][name] = [paths[i] for i in sorted(order[count:])]
