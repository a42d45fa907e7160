"""Class folders: the images of one split, and the class of each.

A split is a folder of class folders, of tars with a class each, or of images
whose classes are in a list.
"""

import itertools
import os
import pathlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.data import label_lists, parallel
from alexnet_jax.data.byte_ranges import Files, list_files
from alexnet_jax.data.images import suffixes
from alexnet_jax.data.label_lists import LabelList
from alexnet_jax.data.originals import UNUSABLE
from alexnet_jax.data.tar_members import members
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.paths import printable

SAMPLED = 10  # members of a tar that are read to tell what it is
# What hidden folders and files begin with, and a folder of macOS in archives.
HIDDEN = (".", "__MACOSX")


class Part(NamedTuple):
  """Images of a split in one folder or one tar."""

  files: Files | str  # of a folder, or the path of a tar
  classes: str | list[str]  # of all images, or of each


class Folder(NamedTuple):
  """What is directly in a folder."""

  path: pathlib.Path
  folders: list[str]
  tars: list[str]
  images: list[str]
  others: list[str]  # other files, and what is hidden

  @property
  def kind(self) -> str:
    """How it has its images: "folders", "tars", "list", or "" for none.

    Tiny ImageNet keeps the images that have no class folders in `images`.
    """
    if self.folders and self.folders != ["images"]:
      return "folders"
    if self.tars:
      return "tars"
    return "list" if self.images or self.folders else ""


def look(path: pathlib.Path) -> Folder:
  """Lists a folder; its images are the files that are called so.

  Others are tried in class folders, but do not make a folder one of images.
  """
  folder = Folder(path, [], [], [], [])
  with os.scandir(path) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      suffix = pathlib.PurePath(entry.name).suffix.lower()
      if entry.name.startswith(HIDDEN):
        folder.others.append(entry.name)
      elif entry.is_dir():
        folder.folders.append(entry.name)
      elif suffix == ".tar":
        folder.tars.append(entry.name)
      elif suffix in suffixes():
        folder.images.append(entry.name)
      else:
        folder.others.append(entry.name)
  return folder


def are_class_tars(folder: Folder) -> bool:
  """Whether the first tar holds images, and not samples or other tars."""
  endings = set()
  path = folder.path / folder.tars[0]
  for name, _, _ in itertools.islice(members(path, []), SAMPLED):
    endings.add(pathlib.PurePosixPath(name).suffix.lower())
  return bool(endings & {*suffixes()}) and not endings & {
    ".cls",
    ".json",
    ".tar",
  }


def class_parts(
  folder: Folder, split: str, left_out: list[str]
) -> Iterator[Part]:
  """Yields the images of each class folder or tar, in the order of classes.

  Folders in a class folder belong to the class. What is no image of a class is
  added to `left_out`.

  Raises:
    UserError: a name cannot be that of a class, two classes have the same
      name, or only some of the tars are unpacked.
  """
  classes = {}
  names = folder.folders if folder.kind == "folders" else folder.tars
  for name in names:
    class_name = _class_name(name.removesuffix(".tar"), folder.path)
    if class_name in classes:
      raise UserError(
        f"{classes[class_name]!a} and {name!a} in {folder.path} have the same"
        f" class name, {class_name}. Rename one, or put their images together."
      )
    classes[class_name] = name
  _name_unused(folder, split, classes, left_out)
  if folder.kind == "tars":
    for class_name, name in sorted(classes.items()):
      yield Part(str(folder.path / name), class_name)
    return
  ordered = sorted(classes)
  listed = parallel.map_images(
    _list_tree,
    [str(folder.path / classes[name]) for name in ordered],
    f"Listing {split}",
    size=lambda path: 1,
    unit="folders",
  )
  boxes = 0
  for class_name, (parts, others) in zip(ordered, listed, strict=True):
    for path in others:
      kind = "a hidden or linked folder" if os.path.isdir(path) else "no file"
      left_out.append(f"{printable(path)} is {kind}")
    parts, ignored = _without_boxes(parts)
    boxes += ignored
    if not parts:
      path = folder.path / classes[class_name]
      left_out.append(f"{printable(str(path))} holds no image: not a class")
    yield from (Part(files, class_name) for files in parts)
  if boxes:
    left_out.append(f"{split}: {boxes:,} files *_boxes.txt")


def listed_parts(
  folder: Folder, split: str, known: Sequence[str], left_out: list[str]
) -> tuple[list[Part], LabelList | None]:
  """The images of a folder whose classes are in a list, and the list.

  Images that are not listed or whose class is not one of `known` are added to
  `left_out`. Without a list, all images are.
  """
  path = folder.path / "images" if folder.folders else folder.path
  labels = label_lists.find(path, split)
  files, _ = list_files(str(path))
  names = [pathlib.PurePath(os.fsdecode(name)) for name in files.names]
  are_images = [name.suffix.lower() in suffixes() for name in names]
  if labels is None or not any(name.stem in labels.classes for name in names):
    left_out.append(f"{split}: {sum(are_images):,} images without labels")
    return [], None
  classes = [labels.classes.get(name.stem, "") for name in names]
  known = frozenset(known)
  used = np.array([name in known for name in classes], bool)

  def tell(reason: str, found: list[str]) -> None:
    if found:
      example = printable(found[0])
      left_out.append(f"{split}: {len(found):,} {reason}, e.g. {example}")

  columns = list(zip(names, are_images, classes, strict=True))
  tell(
    f"images that are not in {labels.name}",
    [name.name for name, is_image, of in columns if is_image and not of],
  )
  tell(
    "images of classes without training images",
    [name.name for name, _, of in columns if of and of not in known],
  )
  tell(
    "files that are no images",
    [name.name for name, is_image, of in columns if not (is_image or of)],
  )
  if labels.name != label_lists.OFFICIAL:
    here = {name.stem for name in names}
    missing = [name for name in labels.classes if name not in here]
    tell(f"images of {labels.name} that are not here", missing)
  chosen = np.flatnonzero(used)
  classes = [classes[index] for index in chosen]
  return [Part(files.select(chosen), classes)], labels


def _class_name(name: str, place: pathlib.Path) -> str:
  """The name of the class of a folder, as tfds can store it."""
  class_name = unicodedata.normalize("NFC", name).strip()
  reason = ""
  if not class_name:
    reason = "is empty"
  elif any(unicodedata.category(letter) in UNUSABLE for letter in class_name):
    reason = "has a line break, a tab or bytes that are not UTF-8"
  if reason:
    raise UserError(
      f"The name of the class folder {name!a} in {place} {reason}. Rename the"
      " folder, for example with convmv, or move it away."
    )
  return class_name


def _name_unused(
  folder: Folder, split: str, classes: dict[str, str], left_out: list[str]
) -> None:
  """Adds what lies beside class folders or tars to `left_out`."""
  if folder.kind == "folders":
    packed = [name for name in folder.tars if name[:-4] not in folder.folders]
    if packed:
      raise UserError(
        f"{folder.path} is unpacked in part: {len(packed):,} tars such as"
        f" {printable(packed[0])} have no folder of their name. Unpack them, or"
        " move them away."
      )
    others = folder.others + folder.tars
  else:
    others = folder.others + [f"{name}/" for name in folder.folders]
  for kind, names in (("images", folder.images), ("other names", others)):
    if names:
      left_out.append(
        f"{split}: {len(names):,} {kind} beside the classes, e.g."
        f" {printable(names[0])}"
      )


def _list_tree(folder: str) -> tuple[list[Files], list[str]]:
  """The files in a folder and in the folders below, and everything else."""
  found, others, pending = [], [], [folder]
  # A link to a folder above would give the class the images of all others.
  seen = set(map(str, pathlib.Path(os.path.realpath(folder)).parents))
  while pending:
    path = pending.pop()
    if (real := os.path.realpath(path)) in seen:
      others.append(path)
      continue
    seen.add(real)
    files, below = list_files(path)
    if files.names:
      found.append(files)
    folders = {
      p
      for p in below
      if os.path.isdir(p) and not os.path.basename(p).startswith(HIDDEN)
    }
    pending += sorted(folders, reverse=True)
    others += [p for p in below if p not in folders]
  return found, others


def _without_boxes(parts: list[Files]) -> tuple[list[Files], int]:
  """Leaves out Tiny ImageNet's boxes, a file beside the folder `images`."""
  folders = [os.path.basename(files.folder) for files in parts[1:]]
  if folders == ["images"] and all(
    name.endswith(b"_boxes.txt") for name in parts[0].names
  ):
    return parts[1:], len(parts[0].names)
  return parts, 0
