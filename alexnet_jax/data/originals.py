"""Originals: the images to prepare, where and how they are first kept.

The official ILSVRC tars, folders of image files, and tfds datasets. Nothing
is unpacked: every image is read from where it lies, so a name in an archive
is only a name, and a link is no image.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import re
import struct
import tarfile
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import sources
from alexnet_jax.runtime.command import UserError


class Files:
  """Images that are byte ranges of files; reading is thread-safe.

  Args:
    paths: the files.
    which, offsets, sizes: of each image: the number of its file, and its
      bytes there.
    labels: of each image.
    names: of each image.
  """

  def __init__(self, paths, which, offsets, sizes, labels, names):
    self._paths = list(paths)
    self._which = np.array(which, np.int32)
    self._offsets = np.array(offsets, np.int64)
    self._sizes = np.array(sizes, np.int64)
    self._labels = np.array(labels, np.int32)
    # As bytes: a million Python strings would be a hundred megabytes.
    self._names = np.array([os.fsencode(name) for name in names], np.bytes_)

  def __len__(self) -> int:
    return len(self._labels)

  def inventory(self) -> str:
    """A digest of what there is, though not of what is in it."""
    digest = hashlib.sha256()
    for array in (self._offsets, self._sizes, self._labels, self._names):
      digest.update(array.tobytes())
    return digest.hexdigest()

  def label(self, index: int) -> int:
    return int(self._labels[index])

  def name(self, index: int) -> str:
    return os.fsdecode(bytes(self._names[index]))

  def read(self, index: int) -> tuple[bytes, int]:
    """The image as it was encoded, and its label."""
    with open(self._paths[self._which[index]], "rb", buffering=0) as file:
      file.seek(self._offsets[index])
      encoded = file.read(self._sizes[index])
    return encoded, self.label(index)


class Examples:
  """Images that are examples of a tfds split."""

  def __init__(self, records: "sources.Source | TFRecords", split: str):
    self._records, self._split = records, split

  def __len__(self) -> int:
    return len(self._records)

  def inventory(self) -> str:
    """A digest of what there is, though not of what is in it."""
    return hashlib.sha256(self._records.fingerprint.encode()).hexdigest()

  def label(self, index: int) -> int:
    return self.read(index)[1]

  def name(self, index: int) -> str:
    return f"{self._split}[{index}]"

  def read(self, index: int) -> tuple[bytes, int]:
    return self._records[index]


@dataclasses.dataclass
class Originals:
  """What there is to prepare.

  Attributes:
    name: of the dataset.
    splits: the images of each split.
    class_names: in the order of the labels.
    files: size in bytes of each source file that holds many images.
    left_out: what was found and is no image, and why.
    upright: whether EXIF orientation counts. A camera's own files are meant
      to be seen upright; ImageNet has always been read without.
  """

  name: str
  splits: dict[str, Files | Examples]
  class_names: list[str]
  files: dict[str, int]
  left_out: list[str]
  upright: bool = False


def open_originals(source: str, source_dir: str, holdout: float) -> Originals:
  """Finds the images of `tfds:NAME`, `tars:DIR` or `folder:DIR`.

  Args:
    source: see above.
    source_dir: where the tfds dataset is, "" for tfds' own default.
    holdout: share of each class that becomes the validation split of a
      folder which has none.

  Raises:
    UserError: not there, not whole, or not what it says.
  """
  kind, _, place = source.partition(":")
  if kind == "tfds" and place:
    return _open_tfds(place, source_dir)
  if kind in ("tars", "folder") and place:
    directory = pathlib.Path(place).expanduser()
    if not directory.is_dir():
      raise UserError(f"--source={source}: there is no folder {directory}.")
    if kind == "tars":
      return _open_tars(directory)
    return _open_folder(directory, holdout)
  raise UserError(
    f"--source={source} is none of tfds:NAME, tars:DIR and folder:DIR."
  )


def _open_tars(directory: pathlib.Path) -> Originals:
  """The official tars of 2012 or 2010: train, validation, for 2010 test."""
  found = {
    year: _find(directory, year, "train")
    for year in ("2012", "2010")
    if _find(directory, year, "train")
  }
  if len(found) != 1:
    raise UserError(
      f"{directory} holds {' and '.join(found) or 'no'} training tar: looked"
      " for ILSVRC2012_img_train.tar and ILSVRC2010_images_train.tar. Fetch one"
      " and the ..._val.tar beside it from image-net.org, after registration."
    )
  ((year, train),) = found.items()
  tars = {"train": train}
  for split, word in (("validation", "val"), ("test", "test")):
    if path := _find(directory, year, word):
      tars[split] = path
  if "validation" not in tars:
    raise UserError(
      f"{directory} holds {train.name} but no validation tar, which is called"
      f" {train.name.replace('train', 'val')}. Fetch it from image-net.org."
    )
  if year == "2012":
    tars.pop("test", None)  # its labels are not public

  left_out: list[str] = []
  members = {"train": [], "validation": [], "test": []}
  for name, offset, size in _members(train, left_out):
    wnid = pathlib.PurePosixPath(name).name.removesuffix(".tar")
    if not name.endswith(".tar"):
      left_out.append(f"{train.name}: {name} is no tar of a class")
      continue
    for image in _members(train, left_out, offset, size):
      members["train"].append((wnid, *image))
  for split in ("validation", "test"):
    if split in tars:
      truth = _truth(directory, year, split)
      for name, offset, size in _members(tars[split], left_out):
        number = re.search(r"_(\d+)\.jpe?g$", name, re.IGNORECASE)
        if number and 1 <= int(number[1]) <= len(truth):
          wnid = truth[int(number[1]) - 1]
          members[split].append((wnid, name, offset, size))
        else:
          left_out.append(f"{tars[split].name}: {name} has no known label")
  wnids = {member[0] for split in members.values() for member in split}
  official = _official_list("labels.txt")
  # Part of the tars still has the 1,000 classes' own numbers.
  class_names = official if wnids <= set(official) else sorted(wnids)
  labels = {wnid: label for label, wnid in enumerate(class_names)}
  splits = {}
  for split, path in tars.items():
    if not members[split]:
      raise UserError(
        f"{path} holds no image of ILSVRC as image-net.org packs them"
        f" ({left_out[0] if left_out else 'it is empty'}). Fetch it again, or"
        " name a folder of images: --source=folder:DIR."
      )
    of, names, offsets, sizes = zip(*members[split], strict=True)
    splits[split] = Files(
      [path],
      np.zeros(len(of)),
      offsets,
      sizes,
      [labels[wnid] for wnid in of],
      (pathlib.PurePosixPath(name).name for name in names),
    )
  files = {path.name: path.stat().st_size for path in tars.values()}
  return Originals(f"imagenet{year}", splits, class_names, files, left_out)


def _find(directory: pathlib.Path, year: str, word: str) -> pathlib.Path | None:
  return next(
    iter(sorted(directory.glob(f"ILSVRC{year}_im*_{word}.tar"))), None
  )


def _members(
  path: pathlib.Path, left_out: list[str], start: int = 0, size: int = -1
) -> Iterator[tuple[str, int, int]]:
  """Yields name, offset and size of each file in a tar, or a tar in a tar."""
  total = path.stat().st_size
  end = total if size < 0 else start + size
  damaged = f"{path} is damaged or cut short"
  with open(path, "rb") as file:
    file.seek(start)
    try:
      with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
          tar.members = []  # or it would remember them all
          if member.isreg() and not member.issparse():
            if member.offset_data + member.size > end:
              raise UserError(f"{damaged} in {member.name}. Fetch it again.")
            yield member.name, member.offset_data, member.size
          elif not member.isdir():
            left_out.append(f"{path.name}: {member.name} is no regular file")
        # tarfile takes damage between two members for the end.
        file.seek(tar.offset)
        whole = file.read(512) == bytes(512)
    except (tarfile.TarError, OSError, EOFError) as error:
      raise UserError(f"{damaged}: {error}. Fetch it again.") from error
  if not whole:
    raise UserError(f"{damaged} at byte {tar.offset:,}. Fetch it again.")


def _truth(directory: pathlib.Path, year: str, split: str) -> list[str]:
  """The WordNet id of each image of a split, in the order of its numbers."""
  kits = sorted(directory.glob(f"ILSVRC{year}_devkit*.tar.gz"))
  if not kits:
    if year == "2012" and split == "validation":
      return _official_list("validation_labels.txt")
    raise UserError(
      f"The labels of ILSVRC{year}'s {split} images are in its development"
      f" kit: fetch ILSVRC{year}_devkit-1.0.tar.gz from image-net.org into"
      f" {directory}."
    )
  from scipy import io as scipy_io  # for this alone

  wanted = f"ILSVRC{year}_{split}_ground_truth.txt"
  contents = {}
  try:
    with tarfile.open(kits[0]) as kit:
      for member in kit:
        name = pathlib.PurePosixPath(member.name).name
        if name in ("meta.mat", wanted) and member.isreg():
          contents[name] = kit.extractfile(member).read()
  except (tarfile.TarError, EOFError, OSError) as error:
    raise UserError(
      f"{kits[0]} cannot be read ({error}): fetch it again."
    ) from None
  if (directory / wanted).is_file():  # 2010's test labels come by themselves
    contents[wanted] = (directory / wanted).read_bytes()
  if len(contents) < 2:
    raise UserError(f"{kits[0]} lacks meta.mat, or {wanted} is not there.")
  meta = scipy_io.loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)
  wnids = {
    int(row[f"ILSVRC{year}_ID"]): str(row["WNID"]) for row in meta["synsets"]
  }
  return [wnids[int(number)] for number in contents[wanted].split()]


def _official_list(name: str) -> list[str]:
  """A list of WordNet ids that tfds ships for ILSVRC-2012."""
  path = tfds.core.tfds_path(f"datasets/imagenet2012/{name}")
  return path.read_text().split()


def _open_folder(directory: pathlib.Path, holdout: float) -> Originals:
  """DIR/train/CLASS/*, DIR/validation/CLASS/* (or val), or DIR/CLASS/*."""
  folders = {"train": directory / "train"}
  for split, names in (
    ("validation", ("validation", "val")),
    ("test", ["test"]),
  ):
    for name in names:
      if (directory / name).is_dir() and _subfolders(directory / name):
        folders.setdefault(split, directory / name)
  whole = not folders["train"].is_dir()
  if whole:
    folders = {"train": directory}
  left_out: list[str] = []
  images = {
    split: _images_in(path, left_out) for split, path in folders.items()
  }
  class_names = sorted(images["train"])
  if not class_names:
    raise UserError(
      f"{folders['train']} holds no class: its folders are the classes, and"
      " the files in them the images. Looked for DIR/train/CLASS/* and"
      " DIR/CLASS/*."
    )
  for split, classes in images.items():
    if unknown := sorted(set(classes) - set(class_names)):
      raise UserError(
        f"{folders[split]} has {len(unknown)} classes that"
        f" {folders['train']} has not, {unknown[0]} for one. A network cannot"
        " learn what it never sees: add training images, or move them away."
      )
  if "validation" not in images:
    if not 0 < holdout < 1:
      raise UserError(
        f"{directory} has no validation images (DIR/validation/CLASS/*). Add"
        " some, or say which share of each class to keep: --holdout=0.1."
      )
    images["validation"] = {}
    for number, name in enumerate(class_names):
      paths = images["train"][name]
      order = sources.permutation(len(paths), number)
      count = round(len(paths) * holdout)
      held = sorted(order[:count].tolist())
      images["validation"][name] = [paths[i] for i in held]
      images["train"][name] = [paths[i] for i in sorted(order[count:].tolist())]
  splits = {}
  for split, classes in images.items():
    paths = [path for name in class_names for path in classes.get(name, ())]
    splits[split] = Files(
      paths,
      np.arange(len(paths)),
      np.zeros(len(paths)),
      np.full(len(paths), -1),  # to the end
      [class_names.index(os.path.basename(os.path.dirname(p))) for p in paths],
      (os.path.relpath(path, directory) for path in paths),
    )
  name = re.sub(r"\W", "_", directory.resolve().name.lower())
  return Originals(name, splits, class_names, {}, left_out, upright=True)


def _subfolders(directory: pathlib.Path) -> list[str]:
  return sorted(
    entry.name
    for entry in os.scandir(directory)
    if entry.is_dir() and not entry.name.startswith(".")
  )


def _images_in(
  directory: pathlib.Path, left_out: list[str]
) -> dict[str, list[str]]:
  """The paths of the files of each class folder that has any."""
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


def _open_tfds(name: str, source_dir: str) -> Originals:
  """Every split of a tfds dataset, stored as ArrayRecord or TFRecord."""
  try:
    directory = sources.find_dataset(name, source_dir)
  except UserError as error:
    base = sources.base_directory(source_dir)
    raise UserError(
      f"tfds dataset {name} is not in {base} (--source_dir). tfds itself"
      f" fetches and builds it: pip install tensorflow, then tfds build {name}"
      f" --data_dir={base}; after that this command works, without TensorFlow."
      " Images in folders need neither: --source=folder:DIR."
    ) from error
  info = tfds.builder_from_directory(directory).info
  image_key, label_key = sources.supervised_keys(info)
  splits = {}
  for split in info.splits:
    if info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
      records = sources.open_directory(directory, split)
    elif info.file_format == tfds.core.FileFormat.TFRECORD:
      records = TFRecords(info.splits[split], image_key, label_key)
    else:
      raise UserError(
        f"{directory} is stored as {info.file_format.value}; array_record and"
        " tfrecord are read."
      )
    splits[split] = Examples(records, split)
  label = info.features[label_key]
  files = {
    path.name: path.stat().st_size
    for split in info.splits.values()
    for path in map(pathlib.Path, split.filepaths)
  }
  class_names = list(label.names or map(str, range(label.num_classes)))
  return Originals(
    info.full_name.rpartition("/")[0], splits, class_names, files, []
  )


class TFRecords:
  """A split stored as TFRecord, made random access by one look at each length.

  A record is its length (8 bytes), that length's checksum (4), the data, and
  the data's checksum (4). The checksums are not looked at: the lengths must
  lead from record to record to the very end of the file.
  """

  def __init__(self, split, image_key: str, label_key: str):
    self._paths = [os.fspath(path) for path in split.filepaths]
    self._keys = image_key, label_key
    self.fingerprint = f"{split.num_bytes} bytes in {split.shard_lengths}"
    self._where = []
    for number, (path, expected) in enumerate(
      zip(self._paths, split.shard_lengths, strict=True)
    ):
      found = list(self._index(path))
      if len(found) != expected:
        raise UserError(
          f"{path} is damaged or cut short: {len(found):,} of {expected:,}"
          " records. Copy it again."
        )
      self._where += [(number, *place) for place in found]

  def _index(self, path: str) -> Iterator[tuple[int, int]]:
    """Yields where each record begins, and its length."""
    try:
      end = os.path.getsize(path)
      with open(path, "rb") as file:
        place = 0
        while place + 16 <= end:
          file.seek(place)
          (length,) = struct.unpack("<Q", file.read(8))
          if place + 16 + length > end:
            return
          yield place + 12, length
          place += 16 + length
    except OSError as error:
      raise UserError(f"{path} cannot be read: {error.strerror}.") from error

  def __len__(self) -> int:
    return len(self._where)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    number, place, length = self._where[index]
    with open(self._paths[number], "rb", buffering=0) as file:
      file.seek(place)
      record = file.read(length)
    return sources.parse_example(record, *self._keys)
