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
import time

import numpy as np
import pytest
import simplejpeg
import tensorflow_datasets as tfds
from PIL import Image
from sample_data import (
  ENCODING,
  ROOT,
  command,
  digests,
  jpeg,
  make,
  manifest,
  run,
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
from alexnet_jax.runtime.command import UserError


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
  train = sources.open_split("imagenet2012_256", "train", str(tmp_path / "out"))
  assert train.num_classes == 1000
  assert train.class_names[1] == "n01443537"
  counts = np.bincount([train[i][1] for i in range(12)], minlength=1000)
  np.testing.assert_array_equal(np.nonzero(counts)[0], [0, 1, 6 - 4])
  np.testing.assert_array_equal(counts[:3], 4)


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


def test_warped_images_have_both_edges_of_the_original(tmp_path):
  picture = np.zeros((256, 1024, 3), np.uint8)
  picture[:, :100], picture[:, 512:] = 200, 100
  for split in ("train", "val"):
    folder = tmp_path / "in" / split / "a"
    folder.mkdir(parents=True)
    Image.fromarray(picture).save(folder / "x.png")
  found = {}
  for how in ("crop", "warp"):
    encoding = shards.Encoding(rescale=how)
    folder = make(f"folder:{tmp_path / 'in'}", tmp_path, how, encoding=encoding)
    encoded, _ = sources.open_directory(folder, "train")[0]
    found[how] = np.asarray(Image.open(io.BytesIO(encoded))).mean((0, 2))
    assert manifest(folder)["plan"]["rescale"] == how
  columns = {"crop": [0] * 128 + [100] * 128}
  # A quarter of the columns: 25 of the bright ones, then 103 black.
  columns["warp"] = [200] * 25 + [0] * 103 + [100] * 128
  for how in columns:
    assert np.abs(found[how] - columns[how]).mean() < 3, how


def test_quality_and_subsampling_are_flags_that_count(tmp_path):
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
  # Pillow's and simplejpeg's decoders may differ by one level here and there.
  np.testing.assert_allclose(stored["mean_image"], pixels.mean(0), atol=0.2)
  covariance = np.cov(pixels.reshape(-1, 3).T, bias=True)
  np.testing.assert_allclose(stored["covariance"], covariance, rtol=1e-3)
  vectors, values = stored["eigenvectors"], stored["eigenvalues"]
  np.testing.assert_allclose(
    vectors * values @ vectors.T, stored["covariance"], rtol=1e-9, atol=1e-9
  )
  # What is stored is what the training would compute.
  moments = pixel_statistics.PixelSums(256)
  for i in range(len(source)):
    moments.add(images.decode(source[i][0]))
  np.testing.assert_array_equal(
    moments.statistics().mean_image, stored["mean_image"]
  )
  np.testing.assert_array_equal(moments.covariance(), stored["covariance"])


def test_training_takes_the_stored_statistics(tmp_path, monkeypatch):
  folder = make(f"folder:{write_folder(tmp_path / 'in')}", tmp_path)
  monkeypatch.setattr(
    pixel_statistics, "_compute", None
  )  # computing would fail
  source = sources.open_directory(folder, "train")
  assert pixel_statistics.load_or_compute(source, 256).num_images == 18


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
  with pytest.raises(UserError, match="not a valid dataset name"):
    make(source, tmp_path, "../escape")


def test_two_at_once_are_told_apart(tmp_path):
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


def test_killed_at_five_random_moments_it_makes_the_same_bytes(tmp_path):
  source = f"folder:{write_folder(tmp_path / 'in', per_class=50)}"
  whole = make(source, tmp_path / "whole", shard_size=20)
  slowly = [
    sys.executable,
    "-c",
    # Slowly, so that there is a moment to be killed in.
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
    patch.setattr(preparing, "_write_metadata", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      make(source, tmp_path)
  assert unfinished.is_dir()
  with pytest.raises(UserError, match=r"was begun with other.*limit \(0 there"):
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


def test_real_images_and_memory(shared_data, tmp_path):
  result = run(
    "--source=tfds:imagenet2012",
    f"--source_dir={shared_data}",
    f"--data_dir={tmp_path}",
  )
  assert result.returncode == 0, result.stderr
  train = sources.open_split("imagenet2012_256", "train", str(tmp_path))
  whole = sources.open_split("imagenet2012", "train", shared_data)
  assert sorted(train[i][1] for i in range(240)) == sorted(
    whole[i][1] for i in range(240)
  )
  # Statistics of the prepared are near those of the originals.
  near = pixel_statistics.load_or_compute(whole, 256, str(tmp_path / "cache"))
  stored = pixel_statistics.load_or_compute(train, 256)
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
