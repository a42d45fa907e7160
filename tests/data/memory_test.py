"""Memory does not grow with the number of images, but for their names."""

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from sample_data import ROOT, jpeg

from alexnet_jax.data import class_folders, preparing
from alexnet_jax.data.byte_ranges import Files

PREPARE = """
import resource, sys
from alexnet_jax.data import preparing, shards
source, target = sys.argv[1:]
preparing.prepare(
  preparing.open_originals(f"folder:{source}"), target, "made",
  encoding=shards.Encoding(size=128), shard_size=64,
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_preparing_ten_times_as_many_images_needs_no_more_memory(tmp_path):
  """The peaks in megabytes; the larger set has 150 MB of pixels."""
  image = tmp_path / "image.jpg"
  image.write_bytes(jpeg(0, height=128, width=128))
  peaks = []
  for count in (300, 3000):
    for split, number in (("train", count), ("validation", 1)):
      folder = tmp_path / str(count) / split / "oak"
      folder.mkdir(parents=True)
      for i in range(number):
        os.link(image, folder / f"{i}.jpg")
    run = [sys.executable, "-c", PREPARE, str(tmp_path / str(count))]
    output = subprocess.run(
      [*run, str(tmp_path / f"made-{count}")],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      check=True,
      text=True,
    ).stdout
    peaks.append(float(output))
  assert peaks[1] < peaks[0] + 12


@pytest.mark.slow
def test_the_list_of_images_is_small(tmp_path, monkeypatch):
  """As tuples of Python the same names take 60 MB."""
  for split in ("train", "val"):
    for number in range(200):
      (tmp_path / split / f"n{number:08}").mkdir(parents=True)

  def list_files(folder):
    name, count = os.path.basename(folder), 1000 if "train" in folder else 10
    names = [os.fsencode(f"{name}_{i}.JPEG") for i in range(count)]
    return Files(folder, names, np.zeros(count, np.uint32)), []

  monkeypatch.setattr(class_folders, "list_files", list_files)
  tracemalloc.start()
  originals = preparing.open_originals(f"folder:{tmp_path}")
  for images in originals.splits.values():
    assert images.fingerprint
  kept, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert len(originals.splits["train"]) == 200_000
  # Names of 18 bytes and 20 bytes each are 8 MB.
  assert kept < 11e6
  assert peak < 25e6
