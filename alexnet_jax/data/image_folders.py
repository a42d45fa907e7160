"""The layout `folder:DIR`: image files in a folder per class.

DIR/train/CLASS/*, DIR/validation/CLASS/* (or val) and perhaps DIR/test/CLASS/*;
or DIR/CLASS/*, whose validation split is held out from the training images.
"""

import os
import pathlib
import re
from collections.abc import Iterator

from alexnet_jax.data import parallel
from alexnet_jax.data.byte_ranges import ByteRanges, Files, list_files
from alexnet_jax.data.originals import Options, Originals
from alexnet_jax.runtime.command import UserError


def open_folders(place: str, options: Options) -> Originals:
  """Opens the folder; holds `options.holdout` out if validation is missing."""
  directory = pathlib.Path(place)
  folders = _find_splits(directory)
  left_out: list[str] = []
  labels: dict[str, int] = {}  # of the classes, which are in alphabetical order
  splits = {split: ByteRanges(place) for split in folders}
  for files in _list_classes(folders.pop("train"), "train", left_out):
    label = labels.setdefault(os.path.basename(files.folder), len(labels))
    splits["train"].add_files(files, label)
  if not labels:
    raise UserError(
      f"{directory} has no class folders with images: looked for"
      " DIR/train/CLASS/* and DIR/CLASS/*. Put the images of each class in a"
      " folder of its name."
    )
  if "validation" not in folders and not 0 < options.holdout < 1:
    raise UserError(
      f"{directory} has no validation images (DIR/validation/CLASS/*). Add"
      " some, or hold out a share of each class, e.g. --holdout=0.1."
    )
  for split, folder in folders.items():
    unknown = []
    for files in _list_classes(folder, split, left_out):
      name = os.path.basename(files.folder)
      if name in labels:
        splits[split].add_files(files, labels[name])
      else:
        unknown.append(name)
    if unknown:
      raise UserError(
        f"The {split} split of {directory} has {len(unknown)} classes without"
        f" training images, for example {unknown[0]}. Add training images, or"
        " move these classes away."
      )
  name = re.sub(r"\W", "_", directory.resolve().name.lower())
  return Originals(
    name,
    splits,
    list(labels),
    left_out=left_out,
    upright=True,
    layout="image folders",
  )


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


def _list_classes(
  directory: pathlib.Path, split: str, left_out: list[str]
) -> Iterator[Files]:
  """Yields the files of each class folder that has any, in order."""
  folders = [str(folder) for folder in _subfolders(directory)]
  listed = parallel.map_images(
    list_files,
    folders,
    f"Listing {split}",
    size=lambda folder: 1,
    unit="folders",
  )
  for files, others in listed:
    left_out += [f"{path} is no file" for path in others]
    if files.names:
      yield files
    else:
      left_out.append(f"{files.folder} holds no image: not a class")
