"""Preparing: the dataset that is written, also after interruptions."""

import io
import itertools
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image
from sample_data import (
  ENCODING,
  ROOT,
  digests,
  jpeg,
  make,
  manifest,
  write_folder,
  write_tars,
)

from alexnet_jax.data import (
  images,
  pixel_statistics,
  preparing,
  shards,
  sources,
)
from alexnet_jax.data.originals import Options
from alexnet_jax.runtime.command import UserError

SMALL = shards.Encoding(size=32)


def test_tars_become_an_ordinary_tfds_dataset(tmp_path):
  tars = write_tars(tmp_path / "tars")
  folder = make(f"tars:{tars}", tmp_path / "out", "imagenet2012_256")
  assert folder == str(tmp_path / "out" / "imagenet2012_256" / "1.0.0")
  assert os.listdir(tmp_path / "out") == ["imagenet2012_256"]
  # tfds can read it.
  source = tfds.data_source(
    "imagenet2012_256", split="train", data_dir=str(tmp_path / "out")
  )
  assert len(source) == 12
  example = source[0]
  assert example["image"].shape == (256, 256, 3)
  # The labels are those of ImageNet.
  train = sources.open_split("imagenet2012_256", "train", str(tmp_path / "out"))
  assert train.num_classes == 1000
  assert train.class_names[1] == "n01443537"
  counts = np.bincount([train[i][1] for i in range(12)], minlength=1000)
  np.testing.assert_array_equal(np.nonzero(counts)[0], [0, 1, 2])
  np.testing.assert_array_equal(counts[:3], 4)


def test_pixels_equal_those_of_pillow_and_area_averages(tmp_path):
  """Pillow decodes and float64 averages reduce, up to the error of JPEG."""
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


def test_warped_images_have_both_edges_of_the_original(tmp_path):
  picture = np.zeros((256, 1024, 3), np.uint8)
  picture[:, :100], picture[:, 512:] = 200, 100
  for split in ("train", "val"):
    folder = tmp_path / "in" / split / "a"
    folder.mkdir(parents=True)
    Image.fromarray(picture).save(folder / "x.png")
  columns = {}
  for how in ("crop", "warp"):
    encoding = shards.Encoding(rescale=how)
    folder = make(f"folder:{tmp_path / 'in'}", tmp_path, how, encoding=encoding)
    encoded, _ = sources.open_directory(folder, "train")[0]
    columns[how] = np.asarray(Image.open(io.BytesIO(encoded))).mean((0, 2))
    assert manifest(folder)["plan"]["rescale"] == how
  expected = {"crop": [0] * 128 + [100] * 128}
  # A quarter of the columns: 25 bright ones, then 103 black.
  expected["warp"] = [200] * 25 + [0] * 103 + [100] * 128
  for how in expected:
    assert np.abs(columns[how] - expected[how]).mean() < 3, how


def test_quality_and_subsampling_are_those_of_the_encoding(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  sizes = {}
  for name, encoding in (
    ("fine", ENCODING),
    ("coarse", shards.Encoding(quality=50, subsampling="420")),
  ):
    folder = make(source, tmp_path, name, encoding=encoding)
    encoded, _ = sources.open_directory(folder, "train")[0]
    header = simplejpeg.decode_jpeg_header(encoded)
    assert header[:2] == (256, 256)
    assert header[3] == encoding.subsampling
    sizes[name] = manifest(folder)["splits"]["train"]["num_bytes"]
  assert sizes["coarse"] < sizes["fine"] / 2


def test_statistics_equal_float64_numpy(tmp_path):
  folder = make(
    f"folder:{write_folder(tmp_path / 'in')}", tmp_path, shard_size=5
  )
  source = sources.open_directory(folder, "train")
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
  # Pillow's and simplejpeg's decoders differ by one level in some pixels.
  np.testing.assert_allclose(stored["mean_image"], pixels.mean(0), atol=0.2)
  covariance = np.cov(pixels.reshape(-1, 3).T, bias=True)
  np.testing.assert_allclose(stored["covariance"], covariance, rtol=1e-3)
  vectors, values = stored["eigenvectors"], stored["eigenvalues"]
  np.testing.assert_allclose(
    vectors * values @ vectors.T, stored["covariance"], rtol=1e-9, atol=1e-9
  )
  # Training would compute exactly what is stored.
  sums = pixel_statistics.PixelSums(256)
  for i in range(len(source)):
    sums.add(images.decode(source[i][0]))
  np.testing.assert_array_equal(
    sums.statistics().mean_image, stored["mean_image"]
  )
  np.testing.assert_array_equal(sums.covariance(), stored["covariance"])


def test_training_reads_the_stored_statistics(tmp_path, monkeypatch):
  folder = make(f"folder:{write_folder(tmp_path / 'in')}", tmp_path)
  monkeypatch.setattr(
    pixel_statistics, "_compute", None
  )  # computing would fail
  source = sources.open_directory(folder, "train")
  assert pixel_statistics.load_or_compute(source, 256).num_images == 18


def test_the_manifest_has_counts_sources_and_versions(tmp_path):
  tars = write_tars(tmp_path / "tars")
  stored = manifest(make(f"tars:{tars}", tmp_path / "out"))
  train = stored["splits"]["train"]
  assert train["num_examples"] == 12
  assert train["classes"]["n01440764"] == 4
  assert sum(train["classes"].values()) == 12
  assert re.fullmatch("[0-9a-f]{64}", train["source_sha256"])
  plan = stored["plan"]
  size = (tars / "ILSVRC2012_img_train.tar").stat().st_size
  assert plan["source_files"]["ILSVRC2012_img_train.tar"] == size
  assert (plan["size"], plan["quality"], plan["subsampling"]) == (
    256,
    95,
    "444",
  )
  assert plan["versions"]["numpy"] == np.__version__
  # A changed byte of an image changes the checksum of its split only.
  changed = write_tars(tmp_path / "changed")
  path = changed / "ILSVRC2012_img_train.tar"
  content = bytearray(path.read_bytes())
  place = content.rindex(b"\xff\xda") + 40
  content[place] ^= 1
  path.write_bytes(content)
  other = manifest(make(f"tars:{changed}", tmp_path / "other"))
  assert other["splits"]["train"]["source_sha256"] != train["source_sha256"]
  assert (
    other["splits"]["validation"]["source_sha256"]
    == stored["splits"]["validation"]["source_sha256"]
  )


def test_limit_is_per_class_and_split(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  stored = manifest(make(source, tmp_path, limit=2))
  for split in ("train", "validation"):
    assert stored["splits"][split]["classes"] == {"ash": 2, "elm": 2, "oak": 2}


def test_images_are_shuffled_on_disk(tmp_path):
  write_folder(tmp_path / "in", per_class=40, splits=("train", "val"))
  folder = make(
    f"folder:{tmp_path / 'in'}", tmp_path, shard_size=30, encoding=SMALL
  )
  source = sources.open_directory(folder, "train")
  labels = np.array([source[i][1] for i in range(len(source))])
  assert sorted(labels) == [0] * 40 + [1] * 40 + [2] * 40
  assert (labels[1:] != labels[:-1]).sum() > 30  # 2 if sorted, 80 if random
  assert len(sources.open_directory(folder, "validation")) == 120


def test_an_existing_dataset_is_not_overwritten(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  folder = make(source, tmp_path, "one")
  before = digests(folder)
  assert make(source, tmp_path, "one") == folder  # it is the same
  with pytest.raises(UserError, match=r"limit \(0 there, 2 now\)"):
    make(source, tmp_path, "one", limit=2)
  with pytest.raises(UserError, match=r"quality \(95 there, 50 now\)"):
    make(source, tmp_path, "one", encoding=shards.Encoding(quality=50))
  assert digests(folder) == before
  (tmp_path / "two" / "1.0.0").mkdir(parents=True)
  with pytest.raises(UserError, match="was not made by this command"):
    make(source, tmp_path, "two")
  with pytest.raises(UserError, match="not a valid dataset name"):
    make(source, tmp_path, "../escape")


def test_a_second_process_is_refused(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  script = (
    "import sys, time; from alexnet_jax.runtime.files import WorkdirLock\n"
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


def test_an_interrupted_preparation_continues_to_the_same_bytes(
  tmp_path, monkeypatch
):
  source = f"folder:{write_folder(tmp_path / 'in', per_class=16)}"
  whole = make(source, tmp_path / "whole", shard_size=10)
  convert, calls = shards.convert, itertools.count()

  def interrupted(*arguments):
    if next(calls) == 4:
      raise KeyboardInterrupt
    return convert(*arguments)

  monkeypatch.setattr(shards, "convert", interrupted)
  with pytest.raises(KeyboardInterrupt):
    make(source, tmp_path / "out", shard_size=10)
  assert not (tmp_path / "out" / "tiny_256").exists()
  unfinished = tmp_path / "out" / ".tiny_256.incomplete" / "data"
  assert list(unfinished.iterdir())
  continued = make(source, tmp_path / "out", shard_size=10)
  assert digests(continued) == digests(whole)
  assert os.listdir(tmp_path / "out") == ["tiny_256"]


@pytest.mark.slow
def test_killed_at_five_random_moments_it_makes_the_same_bytes(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in', per_class=50)}"
  whole = make(source, tmp_path / "whole", shard_size=20)
  slowly = [
    sys.executable,
    "-c",
    # Slow enough to be killed in the middle.
    "import sys, time; from alexnet_jax import prepare\n"
    "from alexnet_jax.data import shards\n"
    "from alexnet_jax.runtime import command\n"
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
      process.stdout.readline()  # more images are being converted
    time.sleep(moments.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, (
      "it finished before it was killed"
    )
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


def test_an_unfinished_preparation_with_other_arguments_is_refused(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  unfinished = tmp_path / ".tiny_256.incomplete"

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(preparing, "_write_metadata", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      make(source, tmp_path)
  assert unfinished.is_dir()
  with pytest.raises(UserError, match=r"was begun with other.*limit \(0 there"):
    make(source, tmp_path, limit=1)
  (tmp_path / "in" / "train" / "ash" / "new.jpg").write_bytes(jpeg(1))
  with pytest.raises(UserError, match="inventory"):
    make(source, tmp_path)


def test_a_restart_after_images_were_replaced_is_refused(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in')}"
  image = tmp_path / "in" / "train" / "elm" / "3.jpg"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(preparing, "_write_metadata", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      make(source, tmp_path, "begun")
  made = make(source, tmp_path, "made")
  time.sleep(0.01)  # longer than a tick of the file system's clock
  image.write_bytes(image.read_bytes())  # the same name and size
  for name in ("begun", "made"):
    with pytest.raises(UserError, match="modified or replaced since"):
      make(source, tmp_path, name)
  # A dataset prepared before this was recorded still counts as the same.
  path = pathlib.Path(made, "manifest.json")
  stored = manifest(made)
  del stored["plan"]["source_state"]
  path.write_text(json.dumps(stored))
  assert make(source, tmp_path, "made") == made


def test_a_split_without_a_decodable_image_is_refused(tmp_path):
  folder = write_folder(tmp_path / "in")
  for path in (folder / "validation").rglob("*.jpg"):
    path.write_bytes(b"damaged")
  with pytest.raises(UserError, match="No image of the validation split"):
    make(f"folder:{folder}", tmp_path)


def test_a_class_without_a_readable_image_is_found_before_the_work(
  tmp_path, capsys
):
  folder = write_folder(tmp_path / "in")
  for path in (folder / "validation" / "elm").glob("*.jpg"):
    path.write_bytes(b"damaged")
  make(f"folder:{folder}", tmp_path, "one")
  noted = capsys.readouterr().out
  assert "note: in the validation images, no image of class elm can" in noted
  for path in (folder / "train" / "oak").glob("*.jpg"):
    path.write_bytes(b"damaged")
  with pytest.raises(UserError, match=r"class oak can be read \(6 images"):
    make(f"folder:{folder}", tmp_path, "two")
  assert not (tmp_path / ".two.incomplete").exists()


def test_shards_may_be_empty(tmp_path):
  folder = write_folder(tmp_path / "in")
  for path in (folder / "train").rglob("*.jpg"):
    if path.stem != "3":
      path.write_bytes(b"damaged")
  made = make(f"folder:{folder}", tmp_path, shard_size=2)
  source = sources.open_directory(made, "train")
  assert sorted(source[i][1] for i in range(len(source))) == [0, 1, 2]


@pytest.mark.slow
def test_real_images_keep_their_labels_and_statistics(
  shared_data, tmp_path, cache
):
  originals = preparing.open_originals(
    "tfds:imagenet2012", Options(source_dir=shared_data)
  )
  preparing.prepare(
    originals, str(tmp_path), "imagenet2012_256", encoding=ENCODING
  )
  train = sources.open_split("imagenet2012_256", "train", str(tmp_path))
  whole = sources.open_split("imagenet2012", "train", shared_data)
  assert sorted(train[i][1] for i in range(240)) == sorted(
    whole[i][1] for i in range(240)
  )
  # The statistics are close to those of the originals.
  near = pixel_statistics.load_or_compute(whole, 256)
  stored = pixel_statistics.load_or_compute(train, 256)
  assert np.abs(near.mean_image - stored.mean_image).max() < 2
  np.testing.assert_allclose(
    near.eigenvalues**0.5, stored.eigenvalues**0.5, rtol=0.01
  )
