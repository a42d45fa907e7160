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

import tensorflow_datasets as tfds

from alexnet_jax.data.originals import (
  ByteRanges,
  Options,
  Originals,
  find_folder,
)
from alexnet_jax.runtime.command import UserError

# Name, first byte and number of bytes of a file in a tar.
Member = tuple[str, int, int]


def open_tars(place: str, options: Options) -> Originals:
  """Opens the tars in the folder `place`: train, validation, for 2010 test.

  Raises:
    UserError: the folder, a tar or the labels are missing, or a tar is
      damaged.
  """
  del options
  directory = find_folder(place)
  year, tars = _find_tars(directory)
  left_out: list[str] = []
  images = {"train": list(_training_images(tars["train"], left_out))}
  for split in ("validation", "test"):
    if split in tars:
      wnids = _read_labels(directory, year, split)
      images[split] = list(_numbered_images(tars[split], wnids, left_out))
  for split, path in tars.items():
    if not images[split]:
      raise UserError(
        f"{path} has no images in the layout of image-net.org"
        f" ({left_out[0] if left_out else 'it is empty'}). Download it again,"
        " or use a folder of images: --source=folder:DIR."
      )
  class_names = _class_names({wnid for of in images.values() for wnid, _ in of})
  labels = {wnid: label for label, wnid in enumerate(class_names)}
  splits = {}
  for split, found in images.items():
    names, offsets, sizes = zip(*(member for _, member in found), strict=True)
    splits[split] = ByteRanges(
      [tars[split]],
      [0] * len(found),
      offsets,
      sizes,
      [labels[wnid] for wnid, _ in found],
      (pathlib.PurePosixPath(name).name for name in names),
    )
  files = {path.name: path.stat().st_size for path in tars.values()}
  return Originals(f"imagenet{year}", splits, class_names, files, left_out)


def _find_tars(
  directory: pathlib.Path,
) -> tuple[str, dict[str, pathlib.Path]]:
  """The year of the challenge, and the tar of each split."""

  def find(year: str, word: str) -> pathlib.Path | None:
    found = sorted(directory.glob(f"ILSVRC{year}_im*_{word}.tar"))
    return found[0] if found else None

  years = [year for year in ("2012", "2010") if find(year, "train")]
  if len(years) != 1:
    raise UserError(
      f"{directory} has {' and '.join(years) or 'no'} training tars, but one"
      " is needed: ILSVRC2012_img_train.tar or ILSVRC2010_images_train.tar."
      " Register at image-net.org and download it with its ..._val.tar."
    )
  (year,) = years
  tars = {"train": find(year, "train")}
  if validation := find(year, "val"):
    tars["validation"] = validation
  else:
    train = tars["train"].name
    raise UserError(
      f"{directory} has {train} but no {train.replace('train', 'val')}."
      " Download it from image-net.org."
    )
  # The test labels of 2012 are not public.
  if year == "2010" and (test := find(year, "test")):
    tars["test"] = test
  return year, tars


def _training_images(
  path: pathlib.Path, left_out: list[str]
) -> Iterator[tuple[str, Member]]:
  """Yields the WordNet id and the place of each training image."""
  for name, offset, size in _members(path, left_out):
    if not name.endswith(".tar"):
      left_out.append(f"{path.name}: {name} is no tar of a class")
      continue
    wnid = pathlib.PurePosixPath(name).name.removesuffix(".tar")
    for member in _members(path, left_out, offset, size):
      yield wnid, member


def _numbered_images(
  path: pathlib.Path, wnids: list[str], left_out: list[str]
) -> Iterator[tuple[str, Member]]:
  """Yields the WordNet id and the place of each image of another split."""
  for member in _members(path, left_out):
    name = member[0]
    number = re.search(r"_(\d+)\.jpe?g$", name, re.IGNORECASE)
    if number and 1 <= int(number[1]) <= len(wnids):
      yield wnids[int(number[1]) - 1], member
    else:
      left_out.append(f"{path.name}: {name} has no known label")


def _class_names(wnids: set[str]) -> list[str]:
  """The classes in the order of their labels."""
  official = _official_list("labels.txt")
  # Part of the images still has the labels of all 1,000 classes.
  return official if wnids <= set(official) else sorted(wnids)


def _members(
  path: pathlib.Path, left_out: list[str], start: int = 0, size: int = -1
) -> Iterator[Member]:
  """Yields the files in a tar, or in the tar at `start` within a tar."""
  total = path.stat().st_size
  end = total if size < 0 else start + size
  damaged = f"{path} is damaged or cut short"
  with open(path, "rb") as file:
    file.seek(start)
    try:
      with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
          tar.members = []  # keeps memory constant
          if member.isreg() and not member.issparse():
            if member.offset_data + member.size > end:
              raise UserError(f"{damaged} in {member.name}. Download it again.")
            yield member.name, member.offset_data, member.size
          elif not member.isdir():
            left_out.append(f"{path.name}: {member.name} is no regular file")
        # tarfile takes damage between two members for the end of the tar.
        file.seek(tar.offset)
        whole = file.read(512) == bytes(512)
    except (tarfile.TarError, OSError, EOFError) as error:
      raise UserError(f"{damaged}: {error}. Download it again.") from error
  if not whole:
    raise UserError(f"{damaged} at byte {tar.offset:,}. Download it again.")


def _read_labels(directory: pathlib.Path, year: str, split: str) -> list[str]:
  """The WordNet id of each image of a split, in the order of their numbers."""
  kits = sorted(directory.glob(f"ILSVRC{year}_devkit*.tar.gz"))
  if not kits:
    if year == "2012" and split == "validation":
      return _official_list("validation_labels.txt")
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
  except (tarfile.TarError, EOFError, OSError) as error:
    raise UserError(
      f"{kits[0]} cannot be read ({error}). Download it again."
    ) from None
  if (directory / labels_file).is_file():  # the test labels of 2010
    contents[labels_file] = (directory / labels_file).read_bytes()
  missing = {"meta.mat", labels_file} - set(contents)
  if missing:
    raise UserError(
      f"{kits[0]} does not contain {' and '.join(sorted(missing))}. Download"
      f" the development kit, or for test images {labels_file}, again."
    )
  meta = scipy_io.loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)
  wnids = {
    int(row[f"ILSVRC{year}_ID"]): str(row["WNID"]) for row in meta["synsets"]
  }
  return [wnids[int(number)] for number in contents[labels_file].split()]


def _official_list(name: str) -> list[str]:
  """A list of WordNet ids for ILSVRC-2012 that tfds ships."""
  path = tfds.core.tfds_path(f"datasets/imagenet2012/{name}")
  return path.read_text().split()
