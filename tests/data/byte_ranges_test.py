"""The compact index of images: content, change of files, memory."""

import hashlib
import os
import pathlib
import tracemalloc

import numpy as np
import pytest

from alexnet_jax.data.byte_ranges import ByteRanges, Files, list_files
from alexnet_jax.runtime.command import UserError

NAMES = ("b.jpg", "a.png", "Ünicode é.jpg", "n01440764_10026.JPEG")


def write_class(folder):
  folder.mkdir(parents=True)
  for name in NAMES:
    (folder / name).write_bytes(b"content of " + name.encode())
  return str(folder)


def test_files_are_listed_in_order_with_their_bytes_and_names(tmp_path):
  images = ByteRanges(str(tmp_path))
  for label, split in ((7, "x"), (2, "y")):
    folder = write_class(tmp_path / "train" / split)
    os.mkdir(f"{folder}/other")
    files, others = list_files(folder)
    assert others == [f"{folder}/other"]
    images.add_files(files, label)
  images.add_file(f"{folder}/b.jpg", 5)
  expected = [
    (f"train/{split}/{name}", f"content of {name}".encode(), label)
    for split, label in (("x", 7), ("y", 2))
    for name in sorted(NAMES)
  ]
  expected.append(("train/y/b.jpg", b"content of b.jpg", 5))
  found = [(images.example_name(i), *images[i]) for i in range(len(images))]
  assert found == expected
  assert images.labels().tolist() == [7, 7, 7, 7, 2, 2, 2, 2, 5]
  images.relabel([0, 0, 20, 0, 0, 50, 0, 70])
  assert images.labels()[[0, 4, 8]].tolist() == [70, 20, 50]


def test_ranges_are_read_at_their_place(tmp_path):
  images = ByteRanges()
  for number in range(2):
    path = tmp_path / f"{number}.tar"
    path.write_bytes(b"-" * 5 + b"one" + b"-" * 7 + b"three" * (number + 1))
    ranges = [("one.jpg", 1, 5, 3), ("three.jpg", 3, 15, 5)]
    images.add_ranges(str(path), ranges, prefix=f"{number}/")
  assert images[3] == (b"three", 3)
  assert images[0] == (b"one", 1)
  assert images.example_name(2) == "1/one.jpg"


def test_the_fingerprint_is_that_of_prepared_datasets_of_before(tmp_path):
  """A digest of i64 offsets and sizes, i32 labels, and padded names."""
  images = ByteRanges(str(tmp_path))
  files, _ = list_files(write_class(tmp_path / "train" / "x"))
  images.add_files(files, 3)
  names = [f"train/x/{name}".encode() for name in sorted(NAMES)]
  columns = (
    np.zeros(4, np.int64), -np.ones(4, np.int64), np.full(4, 3, np.int32),
    np.array(names, np.bytes_),
  )  # fmt: skip
  digest = hashlib.sha256(b"".join(c.tobytes() for c in columns))
  assert images.fingerprint == digest.hexdigest()

  path = tmp_path / "x.tar"
  path.write_bytes(bytes(20))
  ranges = ByteRanges()
  ranges.add_ranges(str(path), [("one", 1, 5, 3), ("three", 3, 15, 5)])
  columns = (
    np.array([5, 15]), np.array([3, 5]), np.array([1, 3], np.int32),
    np.array([b"one", b"three"]),
  )  # fmt: skip
  digest = hashlib.sha256(b"".join(c.tobytes() for c in columns))
  assert ranges.fingerprint == digest.hexdigest()


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_that_changes_after_it_was_listed_is_not_read(tmp_path, change):
  folder = write_class(tmp_path / "x")

  def listed():
    images = ByteRanges(str(tmp_path))
    images.add_files(list_files(folder)[0], 0)
    return images

  images, again = listed(), listed()
  assert images.state == again.state
  path = pathlib.Path(folder, "b.jpg")
  status = path.stat()
  if change == "size":
    path.write_bytes(b"more")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  else:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
  changed = sorted(NAMES).index("b.jpg")
  with pytest.raises(UserError, match=r"b\.jpg was modified"):
    images[changed]
  assert images[changed - 1]
  assert listed().fingerprint == images.fingerprint  # the same names
  assert listed().state != images.state


def test_the_index_takes_few_bytes_beside_the_names():
  count, folders = 2000, 20
  names = [b"n01440764_%05d.JPEG" % i for i in range(count)]
  tracemalloc.start()
  images = ByteRanges("/data")
  for folder in range(folders):
    files = Files(f"/data/{folder}", names, np.zeros(count, np.uint32))
    images.add_files(files, folder)
  used, _ = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert len(images) == count * folders
  beside = used / len(images) - len(names[0])
  # 20 bytes, and what growing arrays keep in reserve.
  assert beside < 20 * 1.2 + len(names[0]) * 0.15
