"""The layout folder:DIR: splits, classes, orientation, errors."""

import hashlib
import io
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sample_data import make, manifest, write_folder

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
