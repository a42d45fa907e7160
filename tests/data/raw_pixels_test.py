"""Raw pixels: what is stored, read, refused, and continued."""

import collections
import dataclasses
import io
import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from sample_data import digests, make, run, write_folder, write_tiny

from alexnet_jax.data import (
  pipeline,
  preparing,
  raw_pixels,
  shards,
  sources,
)
from alexnet_jax.runtime.command import UserError

SIZE = 32


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A dataset of 12 training images in three files, and its raw pixels."""
  place = tmp_path_factory.mktemp("raw")
  source = f"folder:{write_folder(place / 'in', per_class=4)}"
  options = {"encoding": shards.Encoding(size=SIZE), "shard_size": 5}
  folder = make(source, place / "out", "made", **options)
  preparing.write_raw_pixels(folder)
  return folder


@pytest.fixture
def copied(prepared, tmp_path):
  folder = tmp_path / "made" / "1.0.0"
  shutil.copytree(prepared, folder)
  return str(folder)


def without_pixels(source):
  return dataclasses.replace(source, pixels=None)


def test_numpy_reads_what_pillow_decodes(prepared):
  stored = [
    np.load(path, mmap_mode="r")
    for path in sorted(pathlib.Path(prepared, "raw").glob("*train*.npy"))
  ]
  assert [len(part) for part in stored] == [4, 4, 4]
  source = sources.open_directory(prepared, "train")
  for i, (label, image) in enumerate(itertools.chain(*stored)):
    encoded, expected = source.records[i]
    pillow = np.asarray(Image.open(io.BytesIO(encoded)))
    assert label == expected
    assert np.abs(image.astype(int) - pillow).max() <= 1
  assert {label for part in stored for label in part["label"]} == {0, 1, 2}


@pytest.mark.parametrize("crop", [None, (3, 20)])
@pytest.mark.parametrize(
  "split", ["train", "train[3:11]", "validation+train", "held out", "rest"]
)
def test_batches_are_the_same_as_from_jpegs(prepared, split, crop, monkeypatch):
  name = "train" if " " in split or split == "rest" else split
  source = sources.open_directory(prepared, name)
  if name != split:
    parts = dict(
      zip(("rest", "held out"), sources.hold_out(source, 5, 1), strict=True)
    )
    source = parts[split]
  crops = crop and pipeline.Crops(
    crop[1], lambda epoch, index: np.full((len(index), 2), crop[0])
  )
  calls = collections.Counter()

  def decode(*arguments, original=pipeline.decode_into):
    calls["decoded"] += 1
    original(*arguments)

  monkeypatch.setattr(pipeline, "decode_into", decode)
  options = {"batch_size": 3, "seed": 2, "start_step": 0, "size": SIZE}
  found = pipeline.train_batches(source, crops=crops, **options)
  found = list(itertools.islice(found, 8))
  assert not calls
  expected = pipeline.train_batches(
    without_pixels(source), crops=crops, **options
  )
  for one, other in zip(found, expected, strict=False):
    for key in other:
      np.testing.assert_array_equal(one[key], other[key])
  assert calls["decoded"] >= 24


def test_another_image_size_is_decoded(prepared):
  source = sources.open_directory(prepared, "train")
  options = {"batch_size": 12, "size": 24}
  (one,) = pipeline.evaluation_batches(source, **options)
  (other,) = pipeline.evaluation_batches(without_pixels(source), **options)
  np.testing.assert_array_equal(one["image"], other["image"])


def test_a_kill_is_continued_at_the_missing_file(copied, monkeypatch):
  whole = digests(pathlib.Path(copied, "raw"))
  shutil.rmtree(pathlib.Path(copied, "raw"))
  decoded = []

  def decode(out, encoded, *, original=raw_pixels.decode_into):
    decoded.append(encoded)
    if len(decoded) == 9:
      raise KeyboardInterrupt
    original(out, encoded)

  monkeypatch.setattr(raw_pixels, "decode_into", decode)
  monkeypatch.setattr(raw_pixels.parallel, "num_cores", lambda: 1)
  monkeypatch.setattr(raw_pixels.parallel, "AHEAD", 0)
  with pytest.raises(KeyboardInterrupt):
    preparing.write_raw_pixels(copied)
  assert sources.open_directory(copied, "train").pixels is None
  before = len(decoded)
  preparing.write_raw_pixels(copied)
  assert before + 24 - 4 >= len(decoded)  # at least one file was kept
  assert digests(pathlib.Path(copied, "raw")) == whole


def test_a_full_disk_is_refused_with_the_numbers(copied, monkeypatch):
  shutil.rmtree(pathlib.Path(copied, "raw"))
  usage = shutil.disk_usage(copied)._replace(free=70_000)
  monkeypatch.setattr(raw_pixels.shutil, "disk_usage", lambda _: usage)
  before = sorted(path.name for path in pathlib.Path(copied).iterdir())
  # 24 times 32 x 32 x 3 bytes and a label of 4 bytes.
  with pytest.raises(
    UserError, match=r"24 images\) need 0.07 MB.* 0.07 MB free"
  ):
    preparing.write_raw_pixels(copied)
  assert sorted(path.name for path in pathlib.Path(copied).iterdir()) == before


def damage_metadata(folder):
  path = folder / "dataset_info.json"
  info = json.loads(path.read_text())
  path.write_text(json.dumps(info | {"description": "another one"}))


def cut_short(folder):
  path = sorted((folder / "raw").glob("*train*"))[1]
  path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (damage_metadata, "belong to another version of the dataset"),
    (cut_short, "cannot be used"),
    (lambda folder: (folder / "raw" / "raw.json").unlink(), "raw.json"),
  ],
)
def test_pixels_of_another_dataset_or_damaged_ones_are_refused(
  copied, damage, message
):
  damage(pathlib.Path(copied))
  with pytest.raises(UserError, match=message) as caught:
    sources.open_directory(copied, "train")
  assert "Remove that folder" in str(caught.value)


def test_a_dataset_that_is_not_prepared_is_refused(tmp_path):
  write_tiny(tmp_path)
  folder = sources.find_dataset("tiny", str(tmp_path))
  with pytest.raises(UserError, match="prepare it with --source"):
    preparing.write_raw_pixels(folder)


@pytest.mark.slow
def test_the_command_stores_checks_and_finds_a_wrong_pixel(tmp_path):
  write_folder(tmp_path / "in", per_class=4)
  data = f"--data_dir={tmp_path / 'out'}"
  made = run(f"--source=folder:{tmp_path / 'in'}", data, "--size=32", "--raw")
  assert made.returncode == 0, made.stderr
  assert "raw pixels: 0.07 MB in" in made.stdout
  folder = tmp_path / "out" / "in_32" / "1.0.0"
  stored = digests(folder / "raw")
  shutil.rmtree(folder / "raw")
  again = run("--raw", data, "--name=in_32")
  assert again.returncode == 0, again.stderr
  assert digests(folder / "raw") == stored
  checked = run("--check", data)
  assert checked.returncode == 0, checked.stdout
  assert "ok    train raw pixels: 12, equal" in checked.stdout
  path = next((folder / "raw").glob("*validation*.npy"))
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(bytes(content))
  checked = run("--check", data)
  assert checked.returncode == 1
  assert "FAIL  validation raw pixels: 1 images" in checked.stdout


@pytest.mark.slow
def test_raw_alone_reads_no_other_flag():
  result = run("--raw", "--data_dir=/tmp", "--name=made", "--limit=2")
  assert result.returncode == 2
  assert "--limit would have no effect with --raw" in result.stderr
