"""The layout folder:DIR: splits, classes, orientation, errors."""

import hashlib
import io
import os
import pathlib
import shutil

import numpy as np
import pytest
import sample_layouts
import tensorflow_datasets as tfds
from PIL import Image
from sample_data import CLASSES, jpeg, make, manifest, write_folder

from alexnet_jax.data import preparing, sources
from alexnet_jax.data.originals import Options
from alexnet_jax.data.shards import Encoding
from alexnet_jax.runtime.command import UserError


def test_a_share_of_each_class_is_held_out(tmp_path):
  write_folder(tmp_path / "in", per_class=10, splits=("train",))
  source = f"folder:{tmp_path / 'in' / 'train'}"  # class folders alone
  with pytest.raises(UserError, match="--holdout=0"):
    make(source, tmp_path)
  stored = manifest(make(source, tmp_path, holdout=0.2))
  assert stored["splits"]["train"]["classes"] == dict.fromkeys(
    ("ash", "elm", "oak"), 8
  )
  assert stored["splits"]["validation"]["num_examples"] == 6
  hashes = [
    hashlib.sha256(sources.open_split("tiny_256", s, str(tmp_path))[i][0])
    for s, count in (("train", 24), ("validation", 6))
    for i in range(count)
  ]
  assert len({h.hexdigest() for h in hashes}) == 30


def test_classes_without_training_images_are_refused(tmp_path):
  folder = write_folder(tmp_path / "in", per_class=1)
  (folder / "train" / "oak").rename(tmp_path / "oak")
  with pytest.raises(UserError, match=r"1 classes without training.* oak"):
    preparing.open_originals(f"folder:{folder}")


@pytest.mark.parametrize(
  ("name", "choice", "applied"),
  [
    ("dog", "auto", True),
    ("dog", "ignore", False),
    ("n01440764", "auto", False),  # ImageNet
    ("n01440764", "apply", True),
  ],
)
def test_orientation_is_ignored_for_imagenet(tmp_path, name, choice, applied):
  sideways = Image.Exif()
  sideways[0x0112] = 6
  bright_top = np.zeros((40, 40, 3), np.uint8)
  bright_top[:20] = 250
  for split in ("train", "val"):
    (tmp_path / split / name).mkdir(parents=True)
    path = tmp_path / split / name / "0.jpg"
    Image.fromarray(bright_top).save(path, exif=sideways)
  options = Options(exif_orientation=choice)
  originals = preparing.open_originals(f"folder:{tmp_path}", options)
  said = "applied" if applied else "ignored"
  assert f"EXIF orientation {said}" in originals.description()
  folder = preparing.prepare(
    originals, str(tmp_path), "x", encoding=Encoding(size=32)
  )
  encoded, _ = sources.open_directory(folder, "train")[0]
  image = np.asarray(Image.open(io.BytesIO(encoded))).astype(float).mean(2)
  if applied:  # a quarter to the right
    image = image.T
    assert image[16:].mean() > 200 > 50 > image[:16].mean()
  else:
    assert image[:16].mean() > 200 > 50 > image[16:].mean()


def test_images_are_turned_as_their_exif_orientation_says(tmp_path):
  folder = write_folder(tmp_path / "in", per_class=1)
  bright_top = np.zeros((80, 120, 3), np.uint8)
  bright_top[:40] = 250
  turned = Image.Exif()
  for orientation in range(1, 9):
    turned[0x0112] = orientation
    Image.fromarray(bright_top).save(
      folder / "train" / "ash" / f"{orientation}.jpg", exif=turned
    )
  make(f"folder:{folder}", tmp_path)
  builder = tfds.builder("tiny_256", data_dir=str(tmp_path))
  where = {}
  for example in builder.as_data_source("train"):
    name = pathlib.Path(example["file_name"].decode())
    if name.parent.name == "ash" and name.stem != "0":
      image = example["image"].mean(2)
      edges = image[:64], image[-64:], image[:, :64], image[:, -64:]
      order = ("top", "bottom", "left", "right")
      where[int(name.stem)] = order[np.argmax([e.mean() for e in edges])]
  assert where == {
    1: "top", 2: "top", 3: "bottom", 4: "bottom",
    5: "left", 6: "right", 7: "right", 8: "left",
  }  # fmt: skip


def test_what_kaggle_and_tiny_imagenet_have_beside_is_named(tmp_path):
  found = preparing.open_originals(*sample_layouts.kaggle(tmp_path / "k"))
  assert found.left_out == ["test: 5 images without labels"]
  assert found.name == "imagenet2012"
  source, options = sample_layouts.tiny_imagenet(tmp_path / "tiny")
  found = preparing.open_originals(source, options)
  assert found.left_out == [
    "wnids.txt is not one of the splits",
    "train: 3 files *_boxes.txt",
    "test: 1 images without labels",
  ]
  assert found.name == "tiny_imagenet_200"


def test_images_and_rows_that_do_not_meet_are_named(tmp_path):
  source, options = sample_layouts.kaggle_inner(tmp_path)
  val = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
  (val / "ILSVRC2012_val_00000001.JPEG").rename(val / "copy.JPEG")
  (val / "notes.txt").write_text("")
  path = tmp_path / "LOC_val_solution.csv"
  path.write_text(path.read_text().replace(f"02,{CLASSES[2]}", "02,n00000001"))
  found = preparing.open_originals(source, options)
  assert len(found.splits["validation"]) == 4
  assert found.left_out == [
    "validation: 1 images that are not in LOC_val_solution.csv, e.g. copy.JPEG",
    "validation: 1 images of classes without training images, e.g."
    " ILSVRC2012_val_00000002.JPEG",
    "validation: 1 files that are no images, e.g. notes.txt",
    "validation: 1 images of LOC_val_solution.csv that are not here, e.g."
    " ILSVRC2012_val_00000001",
    "test: 5 images without labels",
  ]


def test_damaged_lists_are_refused(tmp_path):
  source, options = sample_layouts.kaggle(tmp_path / "kaggle")
  path = tmp_path / "kaggle" / "LOC_val_solution.csv"
  path.write_text(path.read_text()[:-36])
  with pytest.raises(UserError, match=r"Line 7 of .*LOC_val_solution\.csv"):
    preparing.open_originals(source, options)
  source, options = sample_layouts.tiny_imagenet(tmp_path / "tiny")
  (path,) = (tmp_path / "tiny").glob("*/val/*.txt")
  path.write_text("val_0.JPEG n01440764 0 0 1 1\n")
  with pytest.raises(UserError, match=r"Line 1 of .*val_annotations\.txt"):
    preparing.open_originals(source, options)


@pytest.mark.parametrize("layout", ["kaggle", "tiny_imagenet"])
def test_empty_lines_of_a_list_mean_nothing(tmp_path, layout):
  source, options = getattr(sample_layouts, layout)(tmp_path)
  before = preparing.open_originals(source, options).splits["validation"]
  lists = [*tmp_path.rglob("LOC_val_*"), *tmp_path.rglob("val_annotations.txt")]
  assert lists
  for path in lists:
    path.write_text("\n\n".join(path.read_text().splitlines()) + "\n\n")
  after = preparing.open_originals(source, options).splits["validation"]
  assert len(after) and after.fingerprint == before.fingerprint


def test_validation_images_without_a_list_are_never_ignored(tmp_path):
  write_folder(tmp_path, splits=("train",))
  (tmp_path / "val").mkdir()
  for i in range(3):
    (tmp_path / "val" / f"{i}.jpg").write_bytes(jpeg(i))
  source = f"folder:{tmp_path}"
  with pytest.raises(UserError, match=r"val has 3 \.jpg.*LOC_val_solution"):
    preparing.open_originals(source)
  found = preparing.open_originals(source, Options(holdout=0.2))
  assert found.left_out == ["validation: 3 images without labels"]
  assert len(found.splits["validation"]) == 3


def test_class_folders_may_have_the_name_of_a_split(tmp_path):
  for name in ("bus", "car", "train"):
    (tmp_path / name).mkdir()
    for i in range(2):
      (tmp_path / name / f"{i}.jpg").write_bytes(jpeg(i))
  found = preparing.open_originals(f"folder:{tmp_path}", Options(holdout=0.5))
  assert found.class_names == ["bus", "car", "train"]


@pytest.mark.parametrize(
  ("files", "message"),
  [
    (
      ["a.jpg", "b.jpg", "labels.csv"],
      r"2 \.jpg, 1 \.csv\. The nearest layout",
    ),
    (
      ["images/a.jpg", "annotations/a.xml"],
      r"annotations/ \(1 \.xml\), images/",
    ),
    (["data/train-00000-of-00001.parquet"], r"use --source=parquet:DIR"),
    (["0/data.arrow"], r"Dataset\.to_parquet"),
    (["ILSVRC2012_img_train.tar/x"], r"Use a folder with train/CLASS"),
    (["in/flowers.tar.gz"], r"in/ \(1 \.gz\)\. It has an archive: unpack it"),
    (["x/1.0.0/dataset_info.json"], r"use --source=tfds:NAME"),
    (["x/y/z/deep.txt", "x/y/z/w/a"], r"x/ \(y/ \(z/, \)|x/ \(y/ \(z/\)\)"),
    (["val/a/0.jpg", "val/b/0.jpg"], r"no training images .*has val/ \(a/"),
    (["train/0.jpg", "test/1.jpg", "train.csv"], r"no training images in a"),
    ([f"{i}/y/a.txt" for i in range(9)], r"9 folders: 0/ \(y/ \(1 \.txt\)\)"),
    ([], "It has nothing"),
  ],
)
def test_an_unknown_layout_is_answered_with_what_is_there(
  tmp_path, files, message
):
  for name in files:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
  with pytest.raises(UserError, match=message) as caught:
    preparing.open_originals(f"folder:{tmp_path}")
  assert "\n" not in str(caught.value)


def test_a_layout_that_is_asked_for_must_be_there(tmp_path):
  source, _ = sample_layouts.imagefolder(tmp_path)
  assert preparing.open_originals(source, Options(layout="imagefolder"))
  with pytest.raises(
    UserError, match=r"not have the layout kaggle .*val/ \(n0"
  ):
    preparing.open_originals(source, Options(layout="kaggle"))
  with pytest.raises(UserError, match="layout=kaggle has no effect"):
    preparing.open_originals("tfds:x", Options(layout="kaggle"))
  # The folders of the splits, taken as two classes.
  found = preparing.open_originals(
    source, Options(layout="class_folders", holdout=0.5)
  )
  assert found.class_names == ["train", "val"]


@pytest.mark.parametrize(
  ("names", "reason"),
  [
    ([b"caf\xe9"], "not UTF-8"),
    ([b"a\nb"], "line break"),
    ([b"a\tb"], "line break"),
    ([b"cat ", b"cat"], "same class name, cat"),
    (["caf\u00e9".encode(), "cafe\u0301".encode()], "same class name"),
    ([b" "], "is empty"),
  ],
)
def test_names_of_class_folders_that_cannot_be_stored_are_refused(
  tmp_path, names, reason
):
  for name in [*names, b"dog"]:
    folder = os.fsencode(tmp_path / "train") + b"/" + name
    os.makedirs(folder)
    pathlib.Path(os.fsdecode(folder), "a.jpg").write_bytes(jpeg(0))
  with pytest.raises(UserError, match=reason) as caught:
    preparing.open_originals(f"folder:{tmp_path}", Options(holdout=0.5))
  assert str(caught.value).isprintable()


def test_class_names_are_trimmed_and_composed_in_every_split(tmp_path):
  """Zips of other systems leave spaces, and letters with separate accents."""
  for split, names in (
    ("train", ["cafe\u0301", "cat "]),
    ("val", ["caf\u00e9", "cat"]),
  ):
    for number, name in enumerate(names):
      (tmp_path / split / name).mkdir(parents=True)
      path = tmp_path / split / name / "a.jpg"
      path.write_bytes(sample_layouts.painted(number))
  found = preparing.open_originals(f"folder:{tmp_path}")
  assert found.class_names == ["caf\u00e9", "cat"]
  for images in found.splits.values():
    for i in range(2):
      encoded, label = images[i]
      assert label == sample_layouts.class_of(encoded)


def test_a_split_with_two_folders_and_half_unpacked_tars_are_refused(tmp_path):
  folder = write_folder(tmp_path / "in")
  (folder / "val").mkdir()
  with pytest.raises(UserError, match="two folders of validation images"):
    preparing.open_originals(f"folder:{folder}")
  (folder / "val").rmdir()
  (folder / "train" / "fir.tar").write_bytes(b"")
  with pytest.raises(UserError, match=r"unpacked in part: 1 tars.* fir\.tar"):
    preparing.open_originals(f"folder:{folder}")
  (folder / "train" / "fir.tar").rename(folder / "train" / "oak.tar")
  (folder / "train" / ".hidden").mkdir()
  (folder / "validation" / "loose.jpg").write_bytes(jpeg(0))
  found = preparing.open_originals(f"folder:{folder}")
  assert found.left_out == [
    "train: 2 other names beside the classes, e.g. .hidden",
    "validation: 1 images beside the classes, e.g. loose.jpg",
  ]


def test_links_to_folders_above_are_not_followed(tmp_path):
  """Else all images would be of the class that has such a link."""
  folder = write_folder(tmp_path / "in", per_class=2)
  (folder / "train" / "ash" / "again").symlink_to("..")
  (folder / "train" / "elm" / "self").symlink_to(".")
  (folder / "train" / "oak" / ".hidden").mkdir()
  found = preparing.open_originals(f"folder:{folder}")
  assert len(found.splits["validation"]) == 6
  counts = np.bincount(found.splits["train"].labels())
  assert counts.tolist() == [2, 2, 2]
  assert found.left_out == [
    f"{folder}/train/{name} is a hidden or linked folder"
    for name in ("ash/again", "elm/self", "oak/.hidden")
  ]


def test_other_tars_are_not_taken_for_classes(tmp_path):
  writers = {
    sample_layouts.webdataset: "source=webdataset:DIR",
    sample_layouts.official_tars: "official tars: use --source=tars:DIR",
  }
  for writer, hint in writers.items():
    folder = tmp_path / writer.__name__
    writer(folder)
    shutil.rmtree(folder / "unpacked", ignore_errors=True)
    with pytest.raises(UserError, match=hint):
      preparing.open_originals(f"folder:{folder}", Options(holdout=0.2))
