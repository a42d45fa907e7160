"""Split names: which split a file or a folder belongs to, by its name."""

import collections
import os
import pathlib
import re
from collections.abc import Sequence

from alexnet_jax.data.folder_summary import nearest, summarize
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.paths import printable

# The names in use, in lower case, and what the prepared dataset calls them.
SPLITS = {
  "train": "train",
  "training": "train",
  "val": "validation",
  "valid": "validation",
  "validation": "validation",
  "test": "test",
  "testing": "test",
}
ORDER = tuple(dict.fromkeys(SPLITS.values()))  # train, validation, test
MAX_DEPTH = 3  # of the folders below DIR in which shards are looked for


def split_of_folder(name: str) -> str:
  """The split of a folder of this name, "" if it is not one's."""
  return SPLITS.get(name.lower(), "")


def split_of_file(name: str) -> str:
  """The split that a word of a file name names, else "".

  It is "train" for `train-00000-of-00014.parquet` and for
  `imagenet1k-train-0003.tar`.
  """
  words = re.split("[^a-z]+", name.lower())
  found = {SPLITS[word] for word in words if word in SPLITS}
  return found.pop() if len(found) == 1 else ""


def find_shards(
  place: str, suffix: str, left_out: list[str], known: Sequence[str] = ()
) -> tuple[pathlib.Path, dict[str, list[pathlib.Path]]]:
  """A folder, and by split its files that end in `suffix`, sorted.

  The split is a word of the file's name, or else the name of a folder that
  holds it. If no file has a split, all are training images; if only some have
  one, the others are added to `left_out`.

  Args:
    place: the folder, or a file, or several named like
      `DIR/train-{000..146}.tar`.
    left_out: gets what is in the folder and not used.
    known: names of other files that are used.

  Raises:
    UserError: there is no such file, or there are several datasets.
  """
  if not os.path.isdir(place):
    paths = _find_pattern(place)
    directory = pathlib.Path(os.path.commonpath([p.parent for p in paths]))
  else:
    directory = pathlib.Path(place)
    paths, others = _walk(directory, suffix)
    if others := [path for path in others if path.name not in known]:
      example = printable(os.path.relpath(others[0], directory))
      left_out.append(f"{len(others):,} other files, e.g. {example}")
  found = collections.defaultdict(list)
  datasets = set()
  for path in paths:
    folders = list(path.relative_to(directory).parent.parts)
    named = [split_of_folder(folder) for folder in folders]
    split = split_of_file(path.name) or next(filter(None, reversed(named)), "")
    found[split].append(path)
    if split:
      datasets.add("/".join(f for f in folders if not split_of_folder(f)))
  if not found:
    raise UserError(
      f"{directory} has no files *{suffix}; it has {summarize(directory)}."
      f" {nearest(directory)}"
    )
  if len(datasets) > 1:
    raise UserError(
      f"{directory} has several datasets, in the folders"
      f" {', '.join(name or '.' for name in sorted(datasets))}. Give one of"
      " them."
    )
  unnamed = found.pop("", [])
  if not found:
    return directory, {"train": unnamed}
  left_out += [
    f"{printable(os.path.relpath(path, directory))} has no split in its name"
    for path in unnamed
  ]
  return directory, {split: found[split] for split in ORDER if split in found}


def missing_shards(paths: list[pathlib.Path]) -> str:
  """A note on shards named `...-00003-of-00014...` of which some are absent."""
  numbers, counts = set(), set()
  for path in paths:
    if match := re.search(r"(\d+)-of-(\d+)", path.name):
      numbers.add(int(match[1]))
      counts.add(int(match[2]))
  if len(counts) != 1 or len(numbers) == max(counts):
    return ""
  absent = min(set(range(max(counts))) - numbers, default=0)
  return (
    f"only {len(numbers):,} of {max(counts):,} files are here; number"
    f" {absent:05} is missing"
  )


def _find_pattern(pattern: str) -> list[pathlib.Path]:
  """The files of a pattern with braces, all of which must exist."""
  paths = list(map(pathlib.Path, dict.fromkeys(_expand(pattern))))
  missing = [path for path in paths if not path.is_file()]
  if missing:
    raise UserError(
      f"{len(missing):,} of the {len(paths):,} files {pattern} do not exist,"
      f" for example {missing[0]}."
    )
  return paths


def _expand(pattern: str) -> list[str]:
  """Expands {000..146} and {a,b} as a shell does."""
  braces = re.search(r"\{([^{}]*)\}", pattern)
  if not braces:
    return [pattern]
  parts = braces[1].split(",")
  if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", braces[1]):
    first, last = map(int, numbers.groups())
    width = len(numbers[1])
    parts = [f"{number:0{width}}" for number in range(first, last + 1)]
  return [
    name
    for part in parts
    for name in _expand(pattern.replace(braces[0], part, 1))
  ]


def _walk(
  directory: pathlib.Path, suffix: str
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """The files below a folder that end in `suffix`, and the others."""
  found, others = [], []
  for folder, subfolders, names in os.walk(directory):
    depth = len(pathlib.Path(folder).relative_to(directory).parts)
    hidden = [n for n in subfolders if n.startswith(".") or depth >= MAX_DEPTH]
    others += [pathlib.Path(folder, name) for name in sorted(hidden)]
    subfolders[:] = sorted(set(subfolders) - set(hidden))
    for name in sorted(names):
      matches = name.lower().endswith(suffix) and not name.startswith(".")
      (found if matches else others).append(pathlib.Path(folder, name))
  return found, others
