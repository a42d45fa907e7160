"""The layout `folder:DIR`: images in folders, in any of LAYOUTS.

The layout is found by looking. Splits are folders named train, val, valid,
validation or test, in capitals or not.
"""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from alexnet_jax.data import class_folders, label_lists
from alexnet_jax.data.byte_ranges import ByteRanges
from alexnet_jax.data.class_folders import Folder, Part, class_parts, look
from alexnet_jax.data.folder_summary import nearest, summarize
from alexnet_jax.data.originals import Options, Originals, dataset_name
from alexnet_jax.data.split_names import split_of_folder
from alexnet_jax.data.tar_members import members
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.paths import printable

# The layouts by the name that --layout takes: what they are called, and what
# is where.
LAYOUTS = {
  "imagefolder": (
    "torchvision's ImageFolder layout",
    "train/CLASS/*, val/CLASS/*",
  ),
  "kaggle": (
    "Kaggle's ILSVRC layout",
    "train/WNID/*, and val/* with their classes in LOC_val_solution.csv",
  ),
  "tiny_imagenet": (
    "Tiny ImageNet's layout",
    "train/WNID/images/*, and val/images/* with their classes in"
    " val/val_annotations.txt",
  ),
  "class_tars": (
    "a tar per class",
    "train/CLASS.tar, val/CLASS.tar, or CLASS.tar",
  ),
  "class_folders": ("class folders", "CLASS/*, with --holdout"),
}

# Where the splits may be below DIR: Kaggle's archive is unpacked anywhere.
PLACES = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
MAX_DEPTH = 3  # folders that hold nothing but the next one
# Folders of these names hold the parts of a dataset, not a class each.
NO_CLASSES = frozenset(("annotations", "images", "imgs", "labels", "masks"))


class Place(NamedTuple):
  """Where the images are."""

  root: pathlib.Path
  splits: dict[str, Folder]  # with "train"
  unused: list[str]  # of the root


def open_folders(place: str, options: Options) -> Originals:
  """Opens a folder of images in the layout that is found, or asked for.

  Raises:
    UserError: the folder has none of LAYOUTS, or not `options.layout`, or no
      validation images while `options.holdout` is 0.
  """
  directory = pathlib.Path(place)
  root, folders, unused = _find_place(directory, options.layout)
  left_out = [f"{printable(name)} is not one of the splits" for name in unused]
  splits, found = {}, {}
  labels: dict[str, int] = {}  # of the classes, which are in alphabetical order
  images = splits["train"] = ByteRanges(str(root))
  for part in class_parts(folders["train"], "train", left_out):
    labels.setdefault(part.classes, len(labels))
    _add(images, part, labels, left_out)
  if not len(images):
    raise UserError(
      f"{directory} has no class folders with images. It has"
      f" {summarize(directory)}. {nearest(directory)}"
    )
  lists = set()
  for split in [name for name in ("validation", "test") if name in folders]:
    folder = folders[split]
    images = ByteRanges(str(root))
    if folder.kind == "list":
      parts, of_list = class_folders.listed_parts(
        folder, split, labels, left_out
      )
      if of_list:
        lists.add(of_list.name)
        found[split] = f"of {folder.path.name}/ labelled by {of_list.name}"
    else:
      parts = _known(class_parts(folder, split, left_out), split, labels)
    for part in parts:
      _add(images, part, labels, left_out)
    if len(images):
      splits[split] = images
    elif not folder.kind:
      left_out.append(f"{split}: {folder.path} has no images")
  layout = _layout_of(root == folders["train"].path, folders, lists)
  title, content = LAYOUTS[layout]
  if options.layout not in ("auto", layout):
    raise UserError(
      f"{directory} does not have the layout {options.layout}"
      f" ({LAYOUTS[options.layout][1]}); it is {title} ({content}). It has"
      f" {summarize(directory)}."
    )
  if "validation" not in splits and not options.holdout:
    raise UserError(_no_validation(directory, folders, left_out))
  return Originals(
    _name_of(root, layout, labels),
    splits,
    list(labels),
    left_out=left_out,
    upright=True,
    layout=title,
    found=found,
  )


def has_class_tars(directory: pathlib.Path) -> bool:
  """Whether a folder has a tar per class, or folders of splits with them."""
  place = _find_splits(directory)
  train = place.splits["train"] if place else look(directory)
  return train.kind == "tars" and _has_classes(train)


def _find_place(directory: pathlib.Path, layout: str) -> Place:
  """Where the splits or the class folders are.

  They may be in the only folder of a folder, as archives are unpacked.

  Raises:
    UserError: there are neither, or a split has two folders.
  """
  root = look(directory)
  for _ in range(MAX_DEPTH):
    if layout != "class_folders" and (place := _find_splits(root.path)):
      return place
    if len(root.folders) != 1 or root.images or root.tars:
      break
    if split_of_folder(root.folders[0]):
      break
    root = look(root.path / root.folders[0])
  if layout == "class_folders":
    root = look(directory)
  if _are_classes(root) or (layout == "class_folders" and root.folders):
    return Place(root.path, {"train": root}, [])
  what = "class folders with images"
  if any(map(split_of_folder, root.folders)):
    what = "training images in a folder per class (train/CLASS/*)"
  raise UserError(
    f"{directory} has no {what}. It has {summarize(directory)}."
    f" {nearest(directory)}"
  )


def _find_splits(directory: pathlib.Path) -> Place | None:
  """The folders of the splits; None if no training images with classes."""
  for place in PLACES:
    if not (directory / place).is_dir():
      continue
    root = look(directory / place)
    splits: dict[str, Folder] = {}
    for name in root.folders:
      if split := split_of_folder(name):
        if split in splits:
          raise UserError(
            f"{root.path} has two folders of {split} images,"
            f" {splits[split].path.name} and {name}. Move one of them away."
          )
        splits[split] = look(root.path / name)
    if "train" in splits and _has_classes(splits["train"]):
      names = {folder.path.name for folder in splits.values()}
      unused = [*root.folders, *root.images, *root.others, *root.tars]
      unused = [name for name in unused if name not in names]
      return Place(root.path, splits, unused)
  return None


def _has_classes(folder: Folder) -> bool:
  """Whether a folder has class folders, or tars with a class each."""
  if folder.kind == "tars":
    return class_folders.are_class_tars(folder)
  return folder.kind == "folders"


def _are_classes(root: Folder) -> bool:
  """Whether folders or tars without splits are probably one class each."""
  names = [name.lower() for name in root.folders]
  if NO_CLASSES & set(names) or (names and all(map(split_of_folder, names))):
    return False
  if root.kind == "tars":
    return class_folders.are_class_tars(root)
  return any(look(root.path / name).images for name in root.folders)


def _known(
  parts: Iterable[Part], split: str, labels: dict[str, int]
) -> list[Part]:
  """The parts, all of which must be of classes with training images."""
  parts = list(parts)
  unknown = sorted({part.classes for part in parts} - set(labels))
  if unknown:
    raise UserError(
      f"The {split} split has {len(unknown):,} classes without training images,"
      f" for example {unknown[0]}. Add training images, or move these classes"
      " away."
    )
  return parts


def _add(
  images: ByteRanges, part: Part, labels: dict[str, int], left_out: list[str]
) -> None:
  if isinstance(part.files, str):
    path = pathlib.Path(part.files)
    label = labels[part.classes]
    ranges = (
      (name, label, offset, size)
      for name, offset, size in members(path, left_out)
    )
    images.add_ranges(part.files, ranges, prefix=f"{path.stem}/")
  elif isinstance(part.classes, str):
    images.add_files(part.files, labels[part.classes])
  else:
    images.add_files(part.files, [labels[name] for name in part.classes])


def _layout_of(alone: bool, folders: dict[str, Folder], lists: set[str]) -> str:
  """The layout's name in LAYOUTS."""
  if lists & {label_lists.KAGGLE, label_lists.OFFICIAL}:
    return "kaggle"
  if lists:
    return "tiny_imagenet"
  if folders["train"].kind == "tars":
    return "class_tars"
  return "class_folders" if alone else "imagefolder"


def _name_of(root: pathlib.Path, layout: str, labels: dict[str, int]) -> str:
  """The name of the dataset."""
  if layout == "kaggle" and labels.keys() <= set(
    label_lists.official("labels.txt")
  ):
    return "imagenet2012"  # instead of cls_loc
  return dataset_name(root)


def _no_validation(
  directory: pathlib.Path, folders: dict[str, Folder], left_out: list[str]
) -> str:
  text = f"{directory} has no validation images"
  if "validation" in folders:
    path = folders["validation"].path
    text += (
      f" with labels: {path} has {summarize(path)}, and there is no"
      f" {label_lists.KAGGLE} in it or above it and no *_annotations.txt in it."
      " Add the list, or put the images of each class in a folder of its name"
    )
  else:
    text += " (DIR/val/CLASS/*). Add some"
  return f"{text}, or hold out a share of each class, e.g. --holdout=0.1."
