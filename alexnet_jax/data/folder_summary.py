"""Folder summary: what a folder holds, three levels deep, for messages."""

import collections
import itertools
import os
import pathlib
import re
from collections.abc import Iterator

from alexnet_jax.runtime.paths import printable

LEVELS = 3
EXAMPLES = 3  # subfolders that are described at each level
NAMES = 1000  # names of a folder that are read to find the nearest layout

# What a file's name tells of the layout of a folder, and what to do. The first
# pattern that a name matches counts.
HINTS = {
  r"dataset_info\.json": "It looks like a tfds dataset: use --source=tfds:NAME"
  " with --source_dir, the folder that holds NAME/VERSION/.",
  r".*\.parquet": "It has Parquet files: use --source=parquet:DIR.",
  r".*\.arrow": "It has Arrow files: write them as Parquet with"
  " Dataset.to_parquet of Hugging Face's datasets, then use"
  " --source=parquet:DIR.",
  r"ILSVRC20\d\d_im.*\.tar": "It has the official tars: use --source=tars:DIR"
  " with the folder that holds them.",
  r".*\d+\.tar": "It has tars: use --source=webdataset:DIR for shards of"
  " KEY.jpg and KEY.cls, or --source=folder:DIR for one tar per class.",
  r".*\.(tar|zip|gz|tgz|bz2|xz|zst|rar|7z)": "It has an archive: unpack it"
  " first.",
  r".*\.(jpe?g|png|webp|gif|bmp|tiff?)": "The nearest layout is DIR/CLASS/*:"
  " put the images of each class in a folder of its name, and add"
  " --holdout=0.1.",
}


def summarize(directory: str | os.PathLike, levels: int = LEVELS) -> str:
  """The subfolders and the kinds of files in a folder, with their counts.

  For example `train/ (1,000 folders: n01440764/ (1,300 .JPEG), ...), 2 .csv`.
  Only a few subfolders of each folder are read.
  """
  try:
    with os.scandir(directory) as entries:
      found = sorted(entries, key=lambda entry: entry.name)
  except OSError as error:
    return f"a folder that cannot be read: {error.strerror}"
  folders = [entry for entry in found if entry.is_dir()]
  kinds = collections.Counter(
    pathlib.PurePath(entry.name).suffix or entry.name
    for entry in found
    if not entry.is_dir()
  )
  parts = []
  for entry in folders[:EXAMPLES]:
    part = f"{printable(entry.name)}/"
    if levels > 1:
      part += f" ({summarize(entry.path, levels - 1)})"
    parts.append(part)
  if len(folders) > EXAMPLES:
    parts = [f"{len(folders):,} folders: {', '.join(parts)}, ..."]
  parts += [
    f"{count:,} {printable(kind)}" for kind, count in kinds.most_common(5)
  ]
  if len(kinds) > 5:
    parts.append(f"{len(kinds) - 5:,} other kinds of files")
  return ", ".join(parts) or "nothing"


def nearest(directory: str | os.PathLike) -> str:
  """A sentence on the layout that the folder is nearest to."""
  names = set(_names(directory, LEVELS))
  for pattern, hint in HINTS.items():
    if any(re.fullmatch(pattern, name, re.IGNORECASE) for name in names):
      return hint
  return (
    "Use a folder with train/CLASS/* and val/CLASS/*, or with CLASS/* and"
    " --holdout=0.1."
  )


def _names(directory: str | os.PathLike, levels: int) -> Iterator[str]:
  """The names of some files in a folder and below."""
  folders = []
  try:
    with os.scandir(directory) as entries:
      for entry in itertools.islice(entries, NAMES):
        if entry.is_dir():
          folders.append(entry.path)
        else:
          yield entry.name
  except OSError:  # `summarize` says so
    return
  if levels > 1:
    for folder in sorted(folders)[: 3 * EXAMPLES]:
      yield from _names(folder, levels - 1)
