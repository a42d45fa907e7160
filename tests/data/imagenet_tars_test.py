"""The layout tars:DIR: labels, and damaged or hostile archives."""

import io
import os
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sample_data import add, jpeg, make, manifest, write_tars

from alexnet_jax.data import preparing, shards
from alexnet_jax.runtime.command import UserError


def test_validation_labels_are_the_official_ones(tmp_path):
  tars = write_tars(tmp_path / "tars")
  make(f"tars:{tars}", tmp_path / "out", "small")
  builder = tfds.builder("small", data_dir=str(tmp_path / "out"))
  names = builder.info.features["label"].names
  found = {
    example["file_name"].decode(): names[example["label"]]
    for example in builder.as_data_source("validation")
  }
  # The first lines of the development kit's list.
  assert found["ILSVRC2012_val_00000001.JPEG"] == "n01751748"
  assert found["ILSVRC2012_val_00000002.JPEG"] == "n09193705"
  assert len(found) == 6


def test_labels_of_2010_come_from_the_development_kit(tmp_path):
  from scipy.io import savemat

  wnids = ["n00000003", "n00000001", "n00000002"]  # in the kit's own order
  with tarfile.open(tmp_path / "ILSVRC2010_images_train.tar", "w") as train:
    for number, wnid in enumerate(wnids):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        add(tar, f"{wnid}_1.JPEG", jpeg(number))
      add(train, f"{wnid}.tar", inner.getvalue())
  for word, count in (("val", 3), ("test", 2)):
    path = tmp_path / f"ILSVRC2010_images_{word}.tar"
    with tarfile.open(path, "w") as tar:
      for i in range(count):
        add(tar, f"{word}/ILSVRC2010_{word}_{i + 1:08}.JPEG", jpeg(50 + i))
  with pytest.raises(UserError, match="ILSVRC2010_devkit"):
    make(f"tars:{tmp_path}", tmp_path / "out")
  kit = tmp_path / "ILSVRC2010_devkit-1.0.tar.gz"
  kit.write_bytes(b"not a tar")
  with pytest.raises(UserError, match=r"devkit.* cannot be read"):
    preparing.open_originals(f"tars:{tmp_path}")
  synsets = np.array(
    [(i + 1, wnid) for i, wnid in enumerate(wnids)],
    dtype=[("ILSVRC2010_ID", int), ("WNID", object)],
  )
  mat = io.BytesIO()
  savemat(mat, {"synsets": synsets})
  with tarfile.open(kit, "w:gz") as kit:
    add(kit, "devkit-1.0/data/meta.mat", mat.getvalue())
    truth = "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt"
    add(kit, truth, b"2\n3\n1\n")
  truth = tmp_path / "ILSVRC2010_test_ground_truth.txt"
  truth.write_text("1\n1\n")
  found = preparing.open_originals(f"tars:{tmp_path}")
  assert found.name == "imagenet2010"
  assert found.class_names == sorted(wnids)
  labels = {
    split: images.labels().tolist() for split, images in found.splits.items()
  }
  assert labels == {
    "train": [2, 0, 1],
    "validation": [0, 1, 2],
    "test": [2, 2],
  }


def test_nothing_is_written_outside_the_dataset(tmp_path):
  tars = write_tars(tmp_path / "tars", hostile=True)
  before = {path for path in tmp_path.rglob("*")}
  stored = manifest(make(f"tars:{tars}", tmp_path / "out"))
  new = {path for path in tmp_path.rglob("*")} - before
  assert all(path.is_relative_to(tmp_path / "out") for path in new)
  assert (
    stored["splits"]["train"]["num_examples"] == 13
  )  # also ../../escape.JPEG
  left_out = "\n".join(stored["plan"]["left_out"])
  assert "link.JPEG is no regular file" in left_out
  assert "hard.JPEG is no regular file" in left_out
  assert "README is no tar of a class" in left_out


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.99])
def test_a_tar_cut_short_is_refused(tmp_path, cut):
  tars = write_tars(tmp_path / "tars")
  path = tars / "ILSVRC2012_img_train.tar"
  content = path.read_bytes().rstrip(b"\0")
  path.write_bytes(content[: int(len(content) * cut)])
  with pytest.raises(UserError, match="damaged or cut short"):
    make(f"tars:{tars}", tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_tar_in_another_layout_is_refused(tmp_path):
  tars = write_tars(tmp_path / "tars")
  with tarfile.open(tars / "ILSVRC2012_img_train.tar", "w") as train:
    add(train, "train/n01440764/n01440764_1.JPEG", jpeg(1))
  with pytest.raises(
    UserError, match=r"no images in the layout of image-net\.org"
  ):
    make(f"tars:{tars}", tmp_path / "out")


def test_a_tar_damaged_between_two_images_is_refused(tmp_path):
  """Python's tarfile would take the damage for the end of the tar."""
  tars = write_tars(tmp_path / "tars")
  path = tars / "ILSVRC2012_img_train.tar"
  content = bytearray(path.read_bytes())
  place = content.index(b"n01443537_2.JPEG")
  content[place : place + 512] = b"x" * 512
  path.write_bytes(content)
  with pytest.raises(UserError, match="damaged or cut short"):
    make(f"tars:{tars}", tmp_path / "out")


def test_other_files_beside_the_tars_are_named(tmp_path):
  tars = write_tars(tmp_path / "tars")
  (tars / "ILSVRC2012_img_test_v10102019.tar").write_bytes(b"")
  (tars / "notes.txt").write_bytes(b"")
  found = preparing.open_originals(f"tars:{tars}")
  assert found.left_out == [
    "ILSVRC2012_img_test_v10102019.tar is not read",
    "notes.txt is not read",
  ]


def test_a_tar_that_was_replaced_is_noticed(tmp_path):
  tars = write_tars(tmp_path / "tars")
  made = make(f"tars:{tars}", tmp_path)
  assert make(f"tars:{tars}", tmp_path) == made
  os.utime(tars / "ILSVRC2012_img_val.tar", (0, 0))
  with pytest.raises(UserError, match="modified or replaced since"):
    make(f"tars:{tars}", tmp_path)


def test_a_tar_that_is_replaced_while_it_is_prepared_is_noticed(
  tmp_path, monkeypatch
):
  tars = write_tars(tmp_path / "tars")
  write_shards = shards.write_shards

  def then_replaced(*arguments):
    write_shards(*arguments)
    os.utime(tars / "ILSVRC2012_img_train.tar", (0, 0))

  monkeypatch.setattr(shards, "write_shards", then_replaced)
  with pytest.raises(UserError, match="modified or replaced since"):
    make(f"tars:{tars}", tmp_path)
  assert not (tmp_path / "tiny_256").exists()
