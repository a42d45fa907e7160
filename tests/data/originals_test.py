"""Originals: tars, folders and tfds sets, odd and hostile ones too."""

import hashlib
import io
import os
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sample_data import (
  add,
  jpeg,
  make,
  manifest,
  picture,
  run,
  write_folder,
  write_tars,
)

from alexnet_jax.data import images, preparing, sources
from alexnet_jax.data.originals import Options
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
  # The first lines of the development kit's ground truth.
  assert found["ILSVRC2012_val_00000001.JPEG"] == "n01751748"
  assert found["ILSVRC2012_val_00000002.JPEG"] == "n09193705"
  assert len(found) == 6


def test_2010_takes_its_labels_from_the_kit(tmp_path):
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
    split: [images.label(i) for i in range(len(images))]
    for split, images in found.splits.items()
  }
  assert labels == {
    "train": [2, 0, 1],
    "validation": [0, 1, 2],
    "test": [2, 2],
  }


def test_limit_is_per_class_and_split(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  told = manifest(make(source, tmp_path, limit=2))
  for split in ("train", "validation"):
    assert told["splits"][split]["classes"] == {"ash": 2, "elm": 2, "oak": 2}


def test_folder_without_validation_wants_a_share(tmp_path):
  write_folder(tmp_path / "in", per_class=10, splits=("train",))
  source = f"folder:{tmp_path / 'in' / 'train'}"  # class folders alone
  with pytest.raises(UserError, match="--holdout=0"):
    make(source, tmp_path)
  told = manifest(make(source, tmp_path, holdout=0.2))
  assert told["splits"]["train"]["classes"] == dict.fromkeys(
    ("ash", "elm", "oak"), 8
  )
  assert told["splits"]["validation"]["num_examples"] == 6
  hashes = [
    hashlib.sha256(sources.open_split("tiny_256", s, str(tmp_path))[i][0])
    for s, count in (("train", 24), ("validation", 6))
    for i in range(count)
  ]
  assert len({h.hexdigest() for h in hashes}) == 30


def test_val_is_validation_and_order_on_disk_is_shuffled(tmp_path):
  write_folder(tmp_path / "in", per_class=40, splits=("train", "val"))
  folder = make(f"folder:{tmp_path / 'in'}", tmp_path, shard_size=30)
  source = sources.open_directory(folder, "train")
  labels = np.array([source[i][1] for i in range(len(source))])
  assert sorted(labels) == [0] * 40 + [1] * 40 + [2] * 40
  assert (labels[1:] != labels[:-1]).sum() > 30  # 2 if sorted, 80 if random
  assert len(sources.open_directory(folder, "validation")) == 120


def write_odd(folder):
  """One class of everything that may be found in a folder."""
  place = write_folder(folder) / "train" / "ash"

  def save(name, image, file_format, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format, **options)
    (place / name).write_bytes(file.getvalue())

  cmyk = io.BytesIO()
  Image.fromarray(picture(1)).convert("CMYK").save(cmyk, "JPEG")
  (place / "cmyk.jpg").write_bytes(cmyk.getvalue())
  save("grey.jpg", picture(2)[..., 0], "JPEG")
  save("png.jpg", picture(3), "PNG")
  save("line.png", picture(4, 1, 20_000), "PNG")
  save("column.jpg", picture(5, 20_000, 3), "JPEG")
  turned = Image.Exif()
  turned[0x0112] = 6
  save("turned.jpg", picture(6), "JPEG", exif=turned)
  (place / "cut.jpg").write_bytes(jpeg(7)[:900])
  (place / "empty.jpg").write_bytes(b"")
  (place / "notes.txt").write_text("not an image")
  bomb = io.BytesIO()
  Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
  (place / "bomb.png").write_bytes(bomb.getvalue())
  (folder / "train" / "nothing").mkdir()
  (place / "folder").mkdir()
  return folder


def test_odd_input_is_converted_or_counted(tmp_path):
  folder = write_odd(tmp_path / "in")
  result = run(f"--source=folder:{folder}", f"--data_dir={tmp_path / 'out'}")
  assert result.returncode == 0, result.stderr
  (name,) = os.listdir(tmp_path / "out")
  assert name == "in_256"
  told = manifest(tmp_path / "out" / name / "1.0.0")
  train = told["splits"]["train"]
  skipped = {
    pathlib.Path(s["name"]).name: s["reason"] for s in train["skipped"]
  }
  assert sorted(skipped) == ["bomb.png", "cut.jpg", "empty.jpg", "notes.txt"]
  assert "900000000 pixels" in skipped["bomb.png"]
  assert all(skipped.values())
  assert train["classes"] == {"ash": 6 + 6, "elm": 6, "oak": 6}
  left_out = "\n".join(told["plan"]["left_out"])
  assert "nothing holds no image" in left_out
  assert "ash/folder is no file" in left_out
  assert "Traceback" not in result.stderr
  assert "4 skipped" in result.stdout


def test_a_cameras_own_file_is_turned_upright(tmp_path):
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


def test_hostile_tars_stay_in_their_place(tmp_path):
  tars = write_tars(tmp_path / "tars", hostile=True)
  before = {path for path in tmp_path.rglob("*")}
  told = manifest(make(f"tars:{tars}", tmp_path / "out"))
  new = {path for path in tmp_path.rglob("*")} - before
  assert all(path.is_relative_to(tmp_path / "out") for path in new)
  assert told["splits"]["train"]["num_examples"] == 13  # the name is a name
  left_out = "\n".join(told["plan"]["left_out"])
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


def test_a_train_tar_packed_anew_is_told_apart(tmp_path):
  tars = write_tars(tmp_path / "tars")
  with tarfile.open(tars / "ILSVRC2012_img_train.tar", "w") as train:
    add(train, "train/n01440764/n01440764_1.JPEG", jpeg(1))
  with pytest.raises(
    UserError, match=r"no images in the layout of image-net\.org"
  ):
    make(f"tars:{tars}", tmp_path / "out")


def test_a_tar_damaged_between_two_images_is_refused(tmp_path):
  """Python's tarfile would take it for the end, and lose the rest."""
  tars = write_tars(tmp_path / "tars")
  path = tars / "ILSVRC2012_img_train.tar"
  content = bytearray(path.read_bytes())
  place = content.index(b"n01443537_2.JPEG")
  content[place : place + 512] = b"x" * 512
  path.write_bytes(content)
  with pytest.raises(UserError, match="damaged or cut short"):
    make(f"tars:{tars}", tmp_path / "out")


@pytest.mark.parametrize(
  ("source", "text"),
  [
    ("", "--source is missing"),
    ("zip:x", "must be one of tars:DIR, folder:DIR, tfds:NAME"),
    ("tars:/nonexistent", "folder /nonexistent does not exist"),
    ("tars:{tmp}", "ILSVRC2012_img_train.tar"),
    ("folder:{tmp}", "has no class folders"),
    ("tfds:nothing", "tfds build nothing"),
  ],
)
def test_wrong_sources_are_one_paragraph(tmp_path, source, text):
  result = run(
    f"--source={source.format(tmp=tmp_path)}", f"--data_dir={tmp_path / 'out'}"
  )
  assert result.returncode == 2
  assert text in result.stderr
  assert "Traceback" not in result.stderr
  assert not (tmp_path / "out").exists()


def test_a_split_of_nothing_but_damage_is_refused(tmp_path):
  folder = write_folder(tmp_path / "in")
  for path in (folder / "validation").rglob("*.jpg"):
    path.write_bytes(b"damaged")
  with pytest.raises(UserError, match="No image of the validation split"):
    make(f"folder:{folder}", tmp_path)


def test_shards_of_nothing_but_damage_are_harmless(tmp_path):
  folder = write_folder(tmp_path / "in")
  for path in sorted((folder / "train").rglob("*.jpg"))[:16]:
    path.write_bytes(b"damaged")
  made = make(f"folder:{folder}", tmp_path, shard_size=2)
  source = sources.open_directory(made, "train")
  assert len(source) == 2
  assert sorted(source[i][1] for i in range(2)) == [2, 2]


def write_tfrecord(folder):
  """A dataset as tfds itself stores it by default, without TensorFlow."""
  from tensorflow_datasets.proto import tf_example_pb2

  place = folder / "trees" / "2.0.0"
  place.mkdir(parents=True)
  shard_lengths = [3, 2]
  for number, length in enumerate(shard_lengths):
    path = place / f"trees-train.tfrecord-{number:05}-of-00002"
    with open(path, "wb") as file:
      for i in range(length):
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(jpeg(10 * number + i))
        feature["label"].int64_list.value.append(i)
        record = example.SerializeToString()
        file.write(
          len(record).to_bytes(8, "little") + b"crc!" + record + b"crc!"
        )
  template = tfds.core.ShardedFileTemplate(
    data_dir=place,
    dataset_name="trees",
    split="train",
    filetype_suffix="tfrecord",
  )
  tfds.folder_dataset.write_metadata(
    data_dir=place,
    features=tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["ash", "elm", "oak"]),
      }
    ),
    split_infos=[
      tfds.core.SplitInfo(
        name="train",
        shard_lengths=shard_lengths,
        num_bytes=1,
        filename_template=template,
      )
    ],
    check_data=False,
    supervised_keys=("image", "label"),
  )
  return place


def test_tfrecord_is_converted_by_the_command_the_error_names(tmp_path):
  write_tfrecord(tmp_path)
  with pytest.raises(UserError) as caught:
    sources.open_split("trees", "train", str(tmp_path))
  told = str(caught.value)
  arguments = told[told.index("--source=") : told.index(", then read")].split()
  arguments = [a.replace("=NEW", f"={tmp_path / 'new'}") for a in arguments]
  result = run(*arguments)
  assert result.returncode == 0, result.stderr
  source = sources.open_split("trees_256", "train", str(tmp_path / "new"))
  assert sorted(source[i][1] for i in range(5)) == [0, 0, 1, 1, 2]
  assert source.class_names == ("ash", "elm", "oak")
  image = images.decode(source[0][0])
  wanted = [images.rescale(picture(s)) for s in (0, 1, 2, 10, 11)]
  errors = [np.abs(image.astype(float) - w).mean() for w in wanted]
  assert min(errors) < 3


def test_tfrecord_cut_short_is_refused(tmp_path):
  place = write_tfrecord(tmp_path)
  path = next(place.glob("*00001-of-00002"))
  path.write_bytes(path.read_bytes()[:-50])
  with pytest.raises(UserError, match="cut short: it has 1 of 2 records"):
    preparing.open_originals("tfds:trees", Options(str(tmp_path)))
