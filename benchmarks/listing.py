"""Measures how long `prepare` takes to list images, and the memory of the list.

  python -m benchmarks.listing [--folder=DIR] [--json=FILE]

Makes trees of empty files with the names of image sets, and a tar of tars, in a
temporary folder, and opens each in a new process, as `prepare` does before it
reads the first image: ILSVRC-2012 as class folders, 22,000 classes as the whole
of ImageNet has, and a tenth of ILSVRC-2012 as its tars.
"""

import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from alexnet_jax.runtime import command, files, paths, provenance

_FOLDER = paths.DEFINE_output_folder(
  "folder", None, "where the files are made; default: the system's"
)
_JSON = paths.DEFINE_output("json", "", "JSON file for the results")

# Classes, and training and validation images of each.
TREES = {
  "folder": [(1000, 1281, 50), (22_000, 10, 1)],
  "tars": [(1000, 128, 1)],
}

MEASURE = """
import json, resource, sys, time
from alexnet_jax.data import preparing

def used():
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return time.monotonic(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss

start = used()
originals = preparing.open_originals(sys.argv[1])
for images in originals.splits.values():
  images.fingerprint  # the digest of all names, which the manifest has
seconds, cpu_seconds, kibibytes = (b - a for a, b in zip(start, used()))
print(json.dumps({
  "images": sum(map(len, originals.splits.values())),
  "seconds": seconds,
  "cpu_seconds": cpu_seconds,
  "bytes": kibibytes * 1024,
}))
"""


def write_folders(root: pathlib.Path, classes: int, *counts: int) -> None:
  """Empty files, `counts` of them in each class of train and validation."""
  for split, count in zip(("train", "validation"), counts, strict=True):
    for number in range(classes):
      name = f"n{number:08}"
      folder = root / split / name
      folder.mkdir(parents=True)
      place = os.open(folder, os.O_RDONLY)
      for i in range(count):
        os.mknod(f"{name}_{i}.JPEG", dir_fd=place)
      os.close(place)


def write_tars(root: pathlib.Path, classes: int, *counts: int) -> None:
  """The official tars, with images of one byte."""

  def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))

  train, validation = counts
  with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
    for number in range(classes):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        for i in range(train):
          add(tar, f"n{number:08}_{i}.JPEG", b"x")
      add(outer, f"n{number:08}.tar", inner.getvalue())
  with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
    for i in range(classes * validation):
      add(tar, f"ILSVRC2012_val_{i + 1:08}.JPEG", b"x")


def main() -> None:
  rows = []
  for layout, trees in TREES.items():
    write = {"folder": write_folders, "tars": write_tars}[layout]
    for classes, *counts in trees:
      with tempfile.TemporaryDirectory(dir=_FOLDER.value) as root:
        print(f"writing {layout}: {classes:,} classes", flush=True)
        write(pathlib.Path(root), classes, *counts)
        output = subprocess.run(
          [sys.executable, "-c", MEASURE, f"{layout}:{root}"],
          check=True,
          stdout=subprocess.PIPE,
          text=True,
        ).stdout
      rows.append({"layout": layout, "classes": classes, **json.loads(output)})
      print(json.dumps(rows[-1]), flush=True)
  if _JSON.value:
    record = provenance.record(
      "listing the images of a source", "python -m benchmarks.listing", rows
    )
    files.write_atomic(_JSON.value, json.dumps(record, indent=1))


if __name__ == "__main__":
  command.run(main)
