"""The layout `tars:DIR`: the official tars of ILSVRC-2012 or ILSVRC-2010.

The training tar holds a tar per class; the validation and test tars hold
numbered images, whose labels come from lists. Images are read at their place
in the tars.
"""

import io
import pathlib
import re
import tarfile
from collections.abc import Iterator

from alexnet_jax.data import image_folders, label_lists
from alexnet_jax.data.byte_ranges import ByteRanges
from alexnet_jax.data.folder_summary import nearest, summarize
from alexnet_jax.data.originals import Options, Originals
from alexnet_jax.data.sources import IMAGENET_FILES
from alexnet_jax.data.tar_members import members
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.paths import printable
from alexnet_jax.runtime.progress import Progress

# Files that have the labels of numbered images.
LABEL_FILES = re.compile(r"ILSVRC20\d\d_(devkit.*|test_ground_truth\.txt)")

# The same of images, after their WordNet ids.
Images = Iterator[tuple[str, str, int, int]]


def open_tars(place: str, options: Options) -> Originals:
  """Opens the tars in the folder `place`: train, validation, for 2010 test."""
  directory = pathlib.Path(place)
  if not any(directory.glob("ILSVRC*.tar")) and image_folders.has_class_tars(
    directory
  ):
    return image_folders.open_folders(place, options)
  year, tars = _find_tars(directory)
  used = {path.name for path in tars.values()}
  left_out = [
    f"{printable(path.name)} is not read"
    for path in sorted(directory.iterdir())
    if path.name not in used and not LABEL_FILES.match(path.name)
  ]
  splits = {}
  numbers: dict[str, int] = {}  # provisional labels of the WordNet ids
  for split, path in tars.items():
    if split == "train":
      images = _training_images(path, left_out)
    else:
      wnids = _read_labels(directory, year, split)
      images = _numbered_images(path, wnids, left_out)
    images = _with_progress(images, f"Listing {path.name}")
    splits[split] = ByteRanges()
    splits[split].add_ranges(
      str(path),
      (
        (
          pathlib.PurePosixPath(name).name,
          numbers.setdefault(wnid, len(numbers)),
          offset,
          size,
        )
        for wnid, name, offset, size in images
      ),
    )
    if not len(splits[split]):
      raise UserError(
        f"{path} has no images in the layout of image-net.org"
        f" ({left_out[0] if left_out else 'it is empty'}). Download it again,"
        " or use a folder of images: --source=folder:DIR."
      )
  official = label_lists.official("labels.txt")
  # Part of the images still has the labels of all 1,000 classes.
  class_names = official if set(numbers) <= set(official) else sorted(numbers)
  labels = {wnid: label for label, wnid in enumerate(class_names)}
  for images in splits.values():
    images.relabel([labels[wnid] for wnid in numbers])
  files = tuple(tars.values())
  return Originals(
    f"imagenet{year}",
    splits,
    class_names,
    files,
    left_out,
    layout=f"the tars of ILSVRC-{year}",
  )


def _with_progress(images: Images, title: str) -> Images:
  with Progress(title) as progress:
    for image in images:
      progress.advance()
      yield image


def _find_tars(directory: pathlib.Path) -> tuple[str, dict[str, pathlib.Path]]:
  """The year of the challenge, and the tar of each split."""
  found = {
    (year, word): path
    for year in ("2012", "2010")
    for word in ("train", "val", "test")
    for path in sorted(directory.glob(f"ILSVRC{year}_im*_{word}.tar"))[:1]
  }
  years = [year for year, word in found if word == "train"]
  if len(years) != 1 or (years[0], "val") not in found:
    names = ", ".join(path.name for path in found.values())
    raise UserError(
      f"{directory} has {names or 'no tars'}, but the files of one year are"
      f" needed: {' or '.join(IMAGENET_FILES.values())}. Register at"
      f" image-net.org and download them. It has {summarize(directory)}."
      f"{'' if found else ' ' + nearest(directory)}"
    )
  (year,) = years
  tars = {"train": found[year, "train"], "validation": found[year, "val"]}
  # The test labels of 2012 are not public.
  if year == "2010" and (year, "test") in found:
    tars["test"] = found[year, "test"]
  return year, tars


def _training_images(path: pathlib.Path, left_out: list[str]) -> Images:
  for name, offset, size in members(path, left_out):
    if name.endswith(".tar"):
      wnid = pathlib.PurePosixPath(name).stem
      for member in members(path, left_out, offset, size):
        yield wnid, *member
    else:
      left_out.append(f"{path.name}: {name} is no tar of a class")


def _numbered_images(
  path: pathlib.Path, wnids: list[str], left_out: list[str]
) -> Images:
  for member in members(path, left_out):
    name = member[0]
    number = re.search(r"_(\d+)\.jpe?g$", name, re.IGNORECASE)
    if number and 1 <= int(number[1]) <= len(wnids):
      yield wnids[int(number[1]) - 1], *member
    else:
      left_out.append(f"{path.name}: {name} has no known label")


def _read_labels(directory: pathlib.Path, year: str, split: str) -> list[str]:
  """The WordNet id of each image of a split, in the order of their numbers."""
  kits = sorted(directory.glob(f"ILSVRC{year}_devkit*.tar.gz"))
  if not kits:
    if year == "2012" and split == "validation":
      return label_lists.official("validation_labels.txt")
    raise UserError(
      f"The labels of ILSVRC{year}'s {split} images are in its development"
      f" kit: download ILSVRC{year}_devkit-1.0.tar.gz from image-net.org into"
      f" {directory}."
    )
  from scipy import io as scipy_io  # slow to import, and needed only here

  labels_file = f"ILSVRC{year}_{split}_ground_truth.txt"
  contents = {}
  try:
    with tarfile.open(kits[0]) as kit:
      for member in kit:
        name = pathlib.PurePosixPath(member.name).name
        if name in ("meta.mat", labels_file) and member.isreg():
          contents[name] = kit.extractfile(member).read()
    if (directory / labels_file).is_file():  # the test labels of 2010
      contents[labels_file] = (directory / labels_file).read_bytes()
    meta, labels = contents["meta.mat"], contents[labels_file].split()
  except (tarfile.TarError, EOFError, OSError, KeyError) as error:
    reason = f"no {error}" if isinstance(error, KeyError) else error
    raise UserError(
      f"{kits[0]} cannot be read ({reason}). Download the development kit, or"
      f" for test images {labels_file}, again."
    ) from None
  synsets = scipy_io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
  wnids = {int(row[f"ILSVRC{year}_ID"]): str(row["WNID"]) for row in synsets}
  return [wnids[int(number)] for number in labels]
