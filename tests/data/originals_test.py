"""Checks of labels and class names, and images that are held out."""

import hashlib

import numpy as np
import pytest
from sample_data import jpeg, make, write_dataset, write_folder

from alexnet_jax.data import preparing, sources
from alexnet_jax.data.byte_ranges import ByteRanges, Files
from alexnet_jax.data.originals import (
  Options,
  Originals,
  check_class_names,
  dataset_name,
  unique_names,
)
from alexnet_jax.runtime.command import UserError

NAMES = ["ash", "elm", "oak"]


def images_of(labels):
  """Images that exist by name only."""
  names = [b"%04d.jpg" % number for number in range(len(labels))]
  images = ByteRanges("/in")
  stamps = np.arange(len(labels), dtype=np.uint32)
  images.add_files(Files("/in", names, stamps), labels)
  return images


def labelled(labels):
  return [(jpeg(number), label) for number, label in enumerate(labels)]


def test_a_split_without_labels_is_left_out_and_named(tmp_path):
  splits = {
    "train": labelled([0, 2, 1, 1]),
    "validation": labelled([1]),
    "test": labelled([-1, -1, -1]),
  }
  write_dataset(tmp_path, "trees", splits, NAMES)
  options = Options(source_dir=str(tmp_path))
  found = preparing.open_originals("tfds:trees", options)
  assert list(found.splits) == ["train", "validation"]
  assert found.left_out == ["test: 3 images without labels"]
  assert found.splits["train"].labels().tolist() == [0, 2, 1, 1]
  assert found.description() == (
    "tfds dataset trees/1.0.0: 4 training images, 1 validation images; 3"
    " classes; EXIF orientation ignored"
  )


@pytest.mark.parametrize("label", [3, -(2**40), 2**40, -1])
def test_a_wrong_label_names_its_image(tmp_path, label):
  write_dataset(tmp_path, "trees", {"train": labelled([0, 2, label, 1])}, NAMES)
  options = Options(source_dir=str(tmp_path))
  with pytest.raises(UserError, match=r"train\[2\] .* label .*1 of 4 images"):
    preparing.open_originals("tfds:trees", options)


def test_training_images_without_labels_are_refused():
  originals = Originals("x", {"train": images_of([-1, -1])}, NAMES)
  with pytest.raises(UserError, match=r"no training images.*2 images without"):
    originals.check()


@pytest.mark.parametrize(
  ("name", "reason"),
  [
    ("", "is empty"),
    (" ", "is empty"),
    ("oak ", "white space"),
    ("oak\n", "white space"),
    ("o\nak", "line break"),
    ("o\tak", "line break"),
    ("caf\udce9", "not UTF-8"),
    ("ash", "also that of class 0"),
  ],
)
def test_class_names_that_tfds_would_change_are_refused(name, reason):
  with pytest.raises(UserError, match=reason):
    check_class_names(["ash", "elm", name])


def test_unusual_class_names_are_stored(tmp_path):
  names = [
    "7",
    "tench, Tinca tinca",
    "\u9ce5",
    "a\u00a0b",
    "\U0001f469\u200d\U0001f4bb",
  ]
  check_class_names(names)
  write_dataset(tmp_path, "odd", {"train": labelled([0])}, names)
  source = sources.open_split("odd", "train", str(tmp_path))
  assert source.class_names == tuple(names)


@pytest.mark.parametrize(
  ("folder", "name"),
  [
    ("Birds-2", "birds_2"),
    ("2024", "images_2024"),
    ("\u9ce5", "images__"),
    ("caf\u00e9", "caf_"),
  ],
)
def test_a_dataset_is_called_like_its_folder(tmp_path, folder, name):
  assert dataset_name(tmp_path / folder) == name


def test_names_of_a_list_are_made_unique():
  names = ["crane", " tench\n", "crane", "", "a  b"]
  expected = ["crane (0)", "tench", "crane (2)", "(3)", "a b"]
  assert unique_names(names) == expected
  check_class_names(expected)


def test_a_share_of_each_class_is_held_out_at_random():
  labels = np.array([0] * 10 + [2] * 5 + [1] * 20)
  originals = Originals("x", {"train": images_of(labels)}, NAMES)
  originals.hold_out(0.2)
  counts = {
    split: np.bincount(images.labels()).tolist()
    for split, images in originals.splits.items()
  }
  assert counts == {"train": [8, 16, 4], "validation": [2, 4, 1]}
  names = [
    images.example_name(i)
    for images in originals.splits.values()
    for i in range(len(images))
  ]
  assert len(set(names)) == 35
  held_out = [int(name[:4]) for name in names[28:]]
  assert held_out == sorted(held_out)
  assert not {0, 1} <= set(held_out)  # not just the first of each class


def test_images_that_are_held_out_keep_their_fingerprint():
  """It is that of datasets which were prepared in this way before."""
  labels = [0] * 5 + [1] * 3
  originals = Originals("x", {"train": images_of(labels)}, NAMES)
  originals.hold_out(0.4)
  images = originals.splits["validation"]
  names = [images.example_name(i).encode() for i in range(len(images))]
  columns = (
    np.zeros(3, np.int64), -np.ones(3, np.int64),
    np.array([0, 0, 1], np.int32), np.array(names, np.bytes_),
  )  # fmt: skip
  digest = hashlib.sha256(b"".join(c.tobytes() for c in columns))
  assert images.fingerprint == digest.hexdigest()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_holdout_that_leaves_nothing_is_refused(share):
  originals = Originals("x", {"train": images_of([0, 1, 2])}, NAMES)
  with pytest.raises(UserError, match="Choose another share"):
    originals.hold_out(share)


def test_flags_without_effect_are_refused(tmp_path):
  folder = write_folder(tmp_path / "in", per_class=1)
  source = f"folder:{folder}"
  with pytest.raises(UserError, match=r"holdout=0\.2 has no effect.* 3 valid"):
    make(source, tmp_path, holdout=0.2)
  with pytest.raises(UserError, match="source_dir=/data has no effect"):
    preparing.open_originals(source, Options(source_dir="/data"))


def test_a_tfds_dataset_without_validation_can_be_held_out(tmp_path):
  write_dataset(tmp_path, "trees", {"train": labelled([0, 1, 2] * 4)}, NAMES)
  options = Options(source_dir=str(tmp_path), holdout=0.25)
  found = preparing.open_originals("tfds:trees", options)
  encoded, label = found.splits["validation"][0]
  index = int(found.splits["validation"].example_name(0)[6:-1])
  assert (encoded, label) == (jpeg(index), index % 3)
  assert len(found.splits["train"]) == 9
