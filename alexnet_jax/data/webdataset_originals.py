"""The layout `webdataset:DIR`: tars with KEY.jpg and KEY.cls of each image.

Images are read at their place in the tars.
"""

import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from alexnet_jax.data import split_names
from alexnet_jax.data.byte_ranges import ByteRanges
from alexnet_jax.data.images import suffixes
from alexnet_jax.data.originals import (
  Options,
  Originals,
  dataset_name,
  unique_names,
)
from alexnet_jax.data.sources import NO_LABEL
from alexnet_jax.data.tar_members import members
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.paths import printable
from alexnet_jax.runtime.progress import Progress

# Files with a class name a line, in the order of the labels.
CLASS_NAMES = ("classnames.txt", "classes.txt", "class_names.txt", "labels.txt")
INT32 = np.iinfo(np.int32)
JSON_LABELS = ("label", "cls")  # the keys of KEY.json that are read

# A sample: by the endings of its members, their first bytes and sizes.
Sample = dict[str, tuple[int, int]]


def open_webdataset(place: str, options: Options) -> Originals:
  """Opens the shards of a folder, or those named like `DIR/x-{000..146}.tar`.

  Names of files or folders tell the splits. A label is a number or a text in
  KEY.cls, else `label` in KEY.json. Class names are in one of CLASS_NAMES; else
  labels that are texts are the names, and numbers have their number as a name.

  Raises:
    UserError: there are no such shards, one is damaged, or a sample has several
      images or a label that cannot be read.
  """
  del options
  left_out: list[str] = []
  directory, shards = split_names.find_shards(
    place, ".tar", left_out, CLASS_NAMES
  )
  labels = _Labels()
  splits = {split: ByteRanges() for split in shards}
  count = sum(map(len, shards.values()))
  with Progress("Listing", count, unit="files") as progress:
    for split, paths in shards.items():
      for path in paths:
        ranges = _images(path, labels, left_out)
        splits[split].add_ranges(str(path), ranges, prefix=f"{path.name}/")
        progress.advance()
      if note := split_names.missing_shards(paths):
        left_out.append(f"{split}: {note}")
  for split, images in splits.items():
    if not len(images):
      raise UserError(
        f"The {split} tars of {directory} have no samples of KEY.jpg and"
        f" KEY.cls ({left_out[0] if left_out else 'they are empty'}). Use"
        " --source=tars:DIR for the tars of image-net.org, or"
        " --source=folder:DIR for a tar per class."
      )
  class_names, where = labels.class_names(directory, splits)
  return Originals(
    dataset_name(directory),
    splits,
    class_names,
    [path for paths in shards.values() for path in paths],
    left_out,
    layout=f"WebDataset shards (class names {where})",
  )


class _Labels:
  """The labels that were read, which are all numbers or all texts."""

  def __init__(self):
    self._texts: dict[str, int] = {}  # provisional labels
    self._numbers = False  # whether there was one

  def parse(self, text: str, where: str) -> int:
    """The label that a text means; UserError if the kind is another one."""
    text = text.strip()
    if not text:
      raise UserError(f"{where} has an empty label. Correct it.")
    try:
      label = min(max(int(text), INT32.min), INT32.max)
    except ValueError:
      label = self._texts.setdefault(text, len(self._texts))
    else:
      self._numbers = True
    if self._texts and self._numbers:
      raise UserError(
        f"The labels of {where} ({text[:40]}) and others are of two kinds:"
        " they must all be numbers or all be class names."
      )
    return label

  def class_names(
    self, directory: pathlib.Path, splits: dict[str, ByteRanges]
  ) -> tuple[list[str], str]:
    """The class names and where they are from; makes labels their numbers."""
    names, where = _read_class_names(directory)
    if self._texts:
      if not set(self._texts) <= set(names):
        names, where = sorted(self._texts), "from the labels"
      numbers = {name: number for number, name in enumerate(names)}
      order = [numbers[name] for name in self._texts]
      for images in splits.values():
        images.relabel([*order, NO_LABEL])  # which is -1, so the last
    elif not names:
      highest = max(
        images.labels().max(initial=0) for images in splits.values()
      )
      names, where = [str(n) for n in range(highest + 1)], "are numbers"
    return names, where


def _read_class_names(directory: pathlib.Path) -> tuple[list[str], str]:
  for name in CLASS_NAMES:
    path = directory / name
    if path.is_file():
      try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
      except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
      return unique_names(filter(str.strip, lines)), f"from {name}"
  return [], ""


def _images(
  path: pathlib.Path, labels: _Labels, left_out: list[str]
) -> Iterator[tuple[str, int, int, int]]:
  """Yields name, label, first byte and size of the image of each sample."""
  without = 0
  with open(path, "rb") as file:
    for key, sample in _samples(path, left_out):
      where = f"{path.name}/{key}"
      found = [ending for ending in sample if f".{ending}" in suffixes()]
      if not found:
        without += 1
        example = f"{printable(key)} ({', '.join(map(printable, sample))})"
        continue
      if len(found) > 1:
        raise UserError(
          f"{where} has several images: {', '.join(found)}. A sample needs one."
        )

      def read(ending: str, sample=sample) -> str:
        offset, size = sample[ending]
        file.seek(offset)
        return file.read(size).decode(errors="replace")

      label = NO_LABEL
      if "cls" in sample:
        label = labels.parse(read("cls"), f"{where}.cls")
      elif "json" in sample:
        text = _label_of_json(read("json"), f"{where}.json")
        label = labels.parse(text, f"{where}.json") if text else NO_LABEL
      yield f"{key}.{found[0]}", label, *sample[found[0]]
  if without:
    left_out.append(
      f"{path.name}: {without:,} samples without an image, e.g. {example}"
    )


def _samples(
  path: pathlib.Path, left_out: list[str]
) -> Iterator[tuple[str, Sample]]:
  """Yields the samples of a tar: neighbours of the same name up to a dot.

  Hidden files, such as those that macOS writes between others, are left out.
  """
  key, sample, hidden = "", {}, 0
  for name, offset, size in members(path, left_out):
    folder, base = os.path.split(name)
    if base.startswith("."):
      hidden += 1
      continue
    stem, _, ending = base.partition(".")
    stem, ending = os.path.join(folder, stem), ending.lower()
    if stem != key and sample:
      yield key, sample
      sample = {}
    key = stem
    if ending in sample:
      raise UserError(
        f"{path.name} has {printable(name)} twice in one sample. Give every"
        " sample a key of its own, and write the tar again."
      )
    sample[ending] = offset, size
  if sample:
    yield key, sample
  if hidden:
    left_out.append(f"{path.name}: {hidden:,} hidden files")


def _label_of_json(text: str, where: str) -> str:
  try:
    stored = json.loads(text)
  except ValueError as error:
    raise UserError(f"{where} is not valid JSON: {error}.") from error
  for name in JSON_LABELS:
    if isinstance(stored, dict) and isinstance(stored.get(name), (int, str)):
      return str(stored[name])
  return ""
