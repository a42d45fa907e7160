"""Preparing: from originals to a dataset, whatever comes between."""

import hashlib
import io
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tarfile
import time

import cv2
import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax import datasets, originals, prepare, shards
from alexnet_jax.command import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENCODING = shards.Encoding()
CLASSES = ("n01440764", "n01443537", "n01484850")


def picture(seed, height=90, width=120):
  """A smooth coloured picture, u8[H,W,3], another for each seed."""
  coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(seed, **options):
  return simplejpeg.encode_jpeg(picture(seed, **options), 95)


def add(tar, name, content):
  member = tarfile.TarInfo(name)
  member.size = len(content)
  tar.addfile(member, io.BytesIO(content))


def write_tars(folder, per_class=4, validation=6, hostile=False):
  """The official layout: a tar of class tars, a flat validation tar."""
  folder.mkdir(exist_ok=True)
  with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
    for number, wnid in enumerate(CLASSES):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        for i in range(per_class):
          add(tar, f"{wnid}_{i}.JPEG", jpeg(100 * number + i))
        if hostile and number == 0:
          add(tar, "../../escape.JPEG", jpeg(7))
          link = tarfile.TarInfo("link.JPEG")
          link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
          tar.addfile(link)
          link = tarfile.TarInfo("hard.JPEG")
          link.type, link.linkname = tarfile.LNKTYPE, "../../etc/passwd"
          tar.addfile(link)
      add(train, f"{wnid}.tar", inner.getvalue())
    if hostile:
      add(train, "../README", b"no tar")
  with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as val:
    for i in range(validation):
      add(val, f"ILSVRC2012_val_{i + 1:08}.JPEG", jpeg(900 + i))
  return folder


def write_folder(folder, per_class=6, splits=("train", "validation")):
  for split, start in zip(splits, (0, 5000), strict=False):
    for number, name in enumerate(("ash", "elm", "oak")):
      place = folder / split / name
      place.mkdir(parents=True)
      for i in range(per_class):
        (place / f"{i}.jpg").write_bytes(jpeg(start + 100 * number + i))
  return folder


def make(source, data_dir, name="tiny_256", holdout=0.0, **options):
  found = originals.open_originals(source, "", holdout)
  options = {"encoding": ENCODING, **options}
  return prepare.prepare(found, str(data_dir), name, **options)


def command(module, *arguments):
  return subprocess.run(
    [sys.executable, "-m", f"alexnet_jax.{module}", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def run(*arguments):
  return command("prepare", *arguments)


def manifest(folder):
  return json.loads(pathlib.Path(folder, "manifest.json").read_text())


def digests(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in pathlib.Path(folder).iterdir()
  }


def test_tars_become_an_ordinary_tfds_dataset(tmp_path):
  tars = write_tars(tmp_path / "tars")
  folder = make(f"tars:{tars}", tmp_path / "out", "imagenet2012_256")
  assert folder == str(tmp_path / "out" / "imagenet2012_256" / "1.0.0")
  assert os.listdir(tmp_path / "out") == ["imagenet2012_256"]
  # tfds reads it by itself.
  source = tfds.data_source(
    "imagenet2012_256", split="train", data_dir=str(tmp_path / "out")
  )
  assert len(source) == 12
  example = source[0]
  assert example["image"].shape == (256, 256, 3)
  # And so do we, with ImageNet's own numbering.
  train = datasets.open_split(
    "imagenet2012_256", "train", str(tmp_path / "out")
  )
  assert train.num_classes == 1000
  assert train.class_names[1] == "n01443537"
  counts = np.bincount([train[i][1] for i in range(12)], minlength=1000)
  np.testing.assert_array_equal(np.nonzero(counts)[0], [0, 1, 6 - 4])
  np.testing.assert_array_equal(counts[:3], 4)


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
  synsets = np.array(
    [(i + 1, wnid) for i, wnid in enumerate(wnids)],
    dtype=[("ILSVRC2010_ID", int), ("WNID", object)],
  )
  mat = io.BytesIO()
  savemat(mat, {"synsets": synsets})
  with tarfile.open(tmp_path / "ILSVRC2010_devkit-1.0.tar.gz", "w:gz") as kit:
    add(kit, "devkit-1.0/data/meta.mat", mat.getvalue())
    truth = "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt"
    add(kit, truth, b"2\n3\n1\n")
  truth = tmp_path / "ILSVRC2010_test_ground_truth.txt"
  truth.write_text("1\n1\n")
  found = originals.open_originals(f"tars:{tmp_path}", "", 0)
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


def test_pixels_are_those_of_an_independent_path(tmp_path):
  """Pillow decodes, float64 area averages: within JPEG's error."""
  place = tmp_path / "in" / "train" / "a"
  place.mkdir(parents=True)
  (tmp_path / "in" / "validation" / "a").mkdir(parents=True)
  original = jpeg(5, height=512, width=768)
  for path in (place / "x.jpg", tmp_path / "in" / "validation" / "a" / "y.jpg"):
    path.write_bytes(original)
  make(f"folder:{tmp_path / 'in'}", tmp_path / "out")
  builder = tfds.builder("tiny_256", data_dir=str(tmp_path / "out"))
  stored = builder.as_data_source("train")[0]["image"].astype(float)
  full = np.asarray(Image.open(io.BytesIO(original))).astype(float)
  halved = full.reshape(256, 2, 384, 2, 3).mean((1, 3))[:, 64:320]
  assert np.abs(stored - halved).mean() < 1
  assert np.abs(stored - halved).max() < 12


def test_quality_and_subsampling_are_flags_that_count(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  sizes = {}
  for name, encoding in (
    ("fine", ENCODING),
    ("coarse", shards.Encoding(quality=50, subsampling="420")),
  ):
    folder = make(source, tmp_path, name, encoding=encoding)
    encoded, _ = datasets.open_directory(folder, "train")[0]
    header = simplejpeg.decode_jpeg_header(encoded)
    assert header[:2] == (256, 256)
    assert header[3] == encoding.subsampling
    sizes[name] = manifest(folder)["splits"]["train"]["num_bytes"]
  assert sizes["coarse"] < sizes["fine"] / 2


def test_statistics_equal_float64_numpy(tmp_path):
  folder = make(
    f"folder:{write_folder(tmp_path / 'in')}", tmp_path, shard_size=5
  )
  source = datasets.open_directory(folder, "train")
  pixels = np.array(
    [
      np.asarray(Image.open(io.BytesIO(source[i][0])))
      for i in range(len(source))
    ],
    np.float64,
  )
  with np.load(pathlib.Path(folder, "statistics.npz")) as stored:
    stored = dict(stored)
  assert stored["num_images"] == len(source) == 18
  assert stored["num_pixels"] == 18 * 256 * 256
  # Pillow's and simplejpeg's decoders may differ by one level here and there.
  np.testing.assert_allclose(stored["mean_image"], pixels.mean(0), atol=0.2)
  covariance = np.cov(pixels.reshape(-1, 3).T, bias=True)
  np.testing.assert_allclose(stored["covariance"], covariance, rtol=1e-3)
  vectors, values = stored["eigenvectors"], stored["eigenvalues"]
  np.testing.assert_allclose(
    vectors * values @ vectors.T, stored["covariance"], rtol=1e-9, atol=1e-9
  )
  # What is stored is what the training would compute.
  moments = datasets.Moments(256)
  for i in range(len(source)):
    moments.add(datasets.decode(source[i][0]))
  np.testing.assert_array_equal(
    moments.statistics().mean_image, stored["mean_image"]
  )
  np.testing.assert_array_equal(moments.covariance(), stored["covariance"])


def test_training_takes_the_stored_statistics(tmp_path, monkeypatch):
  folder = make(f"folder:{write_folder(tmp_path / 'in')}", tmp_path)
  monkeypatch.setattr(datasets, "_sum_over", None)  # computing would fail
  source = datasets.open_directory(folder, "train")
  assert datasets.statistics(source, 256).num_images == 18


def test_manifest_tells_counts_sources_and_versions(tmp_path):
  tars = write_tars(tmp_path / "tars")
  told = manifest(make(f"tars:{tars}", tmp_path / "out"))
  train = told["splits"]["train"]
  assert train["num_examples"] == 12
  assert train["classes"]["n01440764"] == 4
  assert sum(train["classes"].values()) == 12
  originals_digest = hashlib.sha256()
  assert len(train["source_sha256"]) == len(originals_digest.hexdigest())
  plan = told["plan"]
  size = (tars / "ILSVRC2012_img_train.tar").stat().st_size
  assert plan["source_files"]["ILSVRC2012_img_train.tar"] == size
  assert (plan["size"], plan["quality"], plan["subsampling"]) == (
    256,
    95,
    "444",
  )
  assert plan["versions"]["numpy"] == np.__version__
  # Another byte in one image, another checksum.
  changed = write_tars(tmp_path / "changed")
  path = changed / "ILSVRC2012_img_train.tar"
  content = bytearray(path.read_bytes())
  content[content.index(b"\xff\xd9")] ^= 0  # the same file first
  place = content.rindex(b"\xff\xda") + 40
  content[place] ^= 1
  path.write_bytes(content)
  other = manifest(make(f"tars:{changed}", tmp_path / "other"))
  assert other["splits"]["train"]["source_sha256"] != train["source_sha256"]
  assert (
    other["splits"]["validation"]["source_sha256"]
    == told["splits"]["validation"]["source_sha256"]
  )


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
    hashlib.sha256(datasets.open_split("tiny_256", s, str(tmp_path))[i][0])
    for s, count in (("train", 24), ("validation", 6))
    for i in range(count)
  ]
  assert len({h.hexdigest() for h in hashes}) == 30


def test_val_is_validation_and_order_on_disk_is_shuffled(tmp_path):
  write_folder(tmp_path / "in", per_class=40, splits=("train", "val"))
  folder = make(f"folder:{tmp_path / 'in'}", tmp_path, shard_size=30)
  source = datasets.open_directory(folder, "train")
  labels = np.array([source[i][1] for i in range(len(source))])
  assert sorted(labels) == [0] * 40 + [1] * 40 + [2] * 40
  assert (labels[1:] != labels[:-1]).sum() > 30  # 2 if sorted, 80 if random
  assert len(datasets.open_directory(folder, "validation")) == 120


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
    ("", "Say what to prepare"),
    ("zip:x", "none of tfds:NAME, tars:DIR and folder:DIR"),
    ("tars:/nonexistent", "there is no folder /nonexistent"),
    ("tars:{tmp}", "ILSVRC2012_img_train.tar"),
    ("folder:{tmp}", "holds no class"),
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


def test_help_and_missing_data_dir():
  assert run("--help").returncode == 0
  result = run("--source=folder:/tmp")
  assert result.returncode == 2
  assert "--data_dir=DIR" in result.stderr


def test_nothing_is_written_over(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  folder = make(source, tmp_path, "one")
  before = digests(folder)
  assert make(source, tmp_path, "one") == folder  # the same again is no error
  with pytest.raises(UserError, match=r"limit \(0 there, 2 now\)"):
    make(source, tmp_path, "one", limit=2)
  with pytest.raises(UserError, match=r"quality \(95 there, 50 now\)"):
    make(source, tmp_path, "one", encoding=shards.Encoding(quality=50))
  assert digests(folder) == before
  (tmp_path / "two" / "1.0.0").mkdir(parents=True)
  with pytest.raises(UserError, match="was not made by this command"):
    make(source, tmp_path, "two")
  with pytest.raises(UserError, match="no name of a tfds dataset"):
    make(source, tmp_path, "../escape")


def test_two_at_once_are_told_apart(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  script = (
    "import sys, time; from alexnet_jax.lock import WorkdirLock\n"
    "lock = WorkdirLock(sys.argv[1]); print('held', flush=True); time.sleep(60)"
  )
  holder = subprocess.Popen(
    [sys.executable, "-c", script, str(tmp_path / ".tiny_256.incomplete")],
    cwd=ROOT,
    stdout=subprocess.PIPE,
  )
  with holder:
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"process {holder.pid}"):
      make(source, tmp_path)
    holder.kill()
  make(source, tmp_path)


def test_killed_at_five_random_moments_it_makes_the_same_bytes(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in', per_class=50)}"
  whole = make(source, tmp_path / "whole", shard_size=20)
  slowly = [
    sys.executable,
    "-c",
    # Slowly, so that there is a moment to be killed in.
    "import sys, time; from alexnet_jax import command, prepare, shards\n"
    "convert = shards.convert\n"
    "def slow(*a): print(flush=True); time.sleep(.1); return convert(*a)\n"
    "shards.convert = slow\n"
    "command.run(prepare.main)",
    f"--source={source}",
    f"--data_dir={tmp_path / 'out'}",
    "--name=tiny_256",
    "--shard_size=20",
  ]
  moments = random.Random(0)
  unfinished = tmp_path / "out" / ".tiny_256.incomplete" / "data"
  progress = [0]
  for _ in range(5):
    process = subprocess.Popen(
      slowly, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    for _ in range(moments.randint(4, 9)):
      process.stdout.readline()  # some more images are being converted
    time.sleep(moments.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done too soon"
    assert not (tmp_path / "out" / "tiny_256").exists()
    progress.append(len(list(unfinished.iterdir())))
  assert progress == sorted(progress)  # nothing finished is lost
  assert progress[-1] > 2
  result = subprocess.run(
    slowly, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert result.returncode == 0, result.stderr
  assert "are done already" in result.stderr
  assert digests(tmp_path / "out" / "tiny_256" / "1.0.0") == digests(whole)
  assert os.listdir(tmp_path / "out") == ["tiny_256"]


def test_begun_in_another_way_is_refused(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  unfinished = tmp_path / ".tiny_256.incomplete"

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(prepare, "_write_metadata", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      make(source, tmp_path)
  assert unfinished.is_dir()
  with pytest.raises(UserError, match=r"begun in another way.*limit \(0 there"):
    make(source, tmp_path, limit=1)
  (tmp_path / "in" / "train" / "ash" / "new.jpg").write_bytes(jpeg(1))
  with pytest.raises(UserError, match="inventory"):
    make(source, tmp_path)


def test_full_disk_is_one_paragraph_and_can_be_mended(tmp_path):
  write_folder(tmp_path / "in", per_class=60)
  arguments = (
    f"--source=folder:{tmp_path / 'in'}",
    f"--data_dir={tmp_path / 'out'}",
  )

  limited = ["bash", "-c", 'ulimit -f 300; exec "$@"', "-", sys.executable]
  result = subprocess.run(
    [*limited, "-m", "alexnet_jax.prepare", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 2, result.stderr
  assert "Traceback" not in result.stderr
  assert "failed" in result.stderr
  assert "run the same command again" in result.stderr
  assert not (tmp_path / "out" / "in_256").exists()
  assert run(*arguments).returncode == 0


def test_a_split_of_nothing_but_damage_is_refused(tmp_path):
  folder = write_folder(tmp_path / "in")
  for path in (folder / "validation").rglob("*.jpg"):
    path.write_bytes(b"damaged")
  with pytest.raises(UserError, match="Not one image of the validation split"):
    make(f"folder:{folder}", tmp_path)


def test_shards_of_nothing_but_damage_are_harmless(tmp_path):
  folder = write_folder(tmp_path / "in")
  for path in sorted((folder / "train").rglob("*.jpg"))[:16]:
    path.write_bytes(b"damaged")
  made = make(f"folder:{folder}", tmp_path, shard_size=2)
  source = datasets.open_directory(made, "train")
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
    datasets.open_split("trees", "train", str(tmp_path))
  told = str(caught.value)
  arguments = told[told.index("--source=") : told.index(", then read")].split()
  arguments = [a.replace("=NEW", f"={tmp_path / 'new'}") for a in arguments]
  result = run(*arguments)
  assert result.returncode == 0, result.stderr
  source = datasets.open_split("trees_256", "train", str(tmp_path / "new"))
  assert sorted(source[i][1] for i in range(5)) == [0, 0, 1, 1, 2]
  assert source.class_names == ("ash", "elm", "oak")
  image = datasets.decode(source[0][0])
  wanted = [datasets.rescale(picture(s)) for s in (0, 1, 2, 10, 11)]
  errors = [np.abs(image.astype(float) - w).mean() for w in wanted]
  assert min(errors) < 3


def test_tfrecord_cut_short_is_refused(tmp_path):
  place = write_tfrecord(tmp_path)
  path = next(place.glob("*00001-of-00002"))
  path.write_bytes(path.read_bytes()[:-50])
  with pytest.raises(UserError, match="cut short: 1 of 2 records"):
    originals.open_originals("tfds:trees", str(tmp_path), 0)


def test_real_images_and_memory(shared_data, tmp_path):
  result = run(
    "--source=tfds:imagenet2012",
    f"--source_dir={shared_data}",
    f"--data_dir={tmp_path}",
  )
  assert result.returncode == 0, result.stderr
  train = datasets.open_split("imagenet2012_256", "train", str(tmp_path))
  whole = datasets.open_split("imagenet2012", "train", shared_data)
  assert sorted(train[i][1] for i in range(240)) == sorted(
    whole[i][1] for i in range(240)
  )
  # Statistics of the prepared are near those of the originals.
  near = datasets.statistics(whole, 256, str(tmp_path / "cache"))
  stored = datasets.statistics(train, 256)
  assert np.abs(near.mean_image - stored.mean_image).max() < 2
  np.testing.assert_allclose(
    near.eigenvalues**0.5, stored.eigenvalues**0.5, rtol=0.01
  )


def test_from_two_tars_to_a_trained_and_evaluated_network(tmp_path):
  """README's way: prepare, train two steps, evaluate."""
  write_tars(tmp_path / "tars")
  data = [
    "--source=tars:" + str(tmp_path / "tars"),
    "--data_dir=" + str(tmp_path),
  ]
  result = run(*data)
  assert result.returncode == 0, result.stderr
  # It names the flags that train on it.
  flags = re.findall(r"--config\.\S+", result.stdout)
  assert "--config.dataset=imagenet2012_256" in flags
  workdir = f"--workdir={tmp_path / 'run'}"
  trained = command(
    "main",
    "--config=configs/quickstart.py",
    workdir,
    *flags,
    "--config.num_classes=1000",
    "--config.network.width=0.03125",
    "--config.batch_size=4",
    "--config.total_steps=2",
    "--config.log_every_steps=1",
  )
  assert trained.returncode == 0, trained.stderr
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  assert [line["step"] for line in steps if line["split"] == "train"] == [1, 2]
  report = tmp_path / "report.json"
  evaluated = command("evaluate", workdir, "--views=1", f"--json={report}")
  assert evaluated.returncode == 0, evaluated.stderr
  found = json.loads(report.read_text())
  assert found["num_examples"] == 6
  assert 0 <= found["top5_error"] <= found["top1_error"] <= 1
  assert found["loss"] > 0
