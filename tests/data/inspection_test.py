"""Inspection: good data passes, and each kind of fault is found."""

import json
import os
import pathlib
import re
import time

import cv2
import numpy as np
import pytest
import simplejpeg
from sample_data import write_dataset

from alexnet_jax.data import (
  images,
  inspection,
  parallel,
  preparing,
  shards,
  sources,
)
from alexnet_jax.data.pixel_statistics import Statistics
from alexnet_jax.runtime.command import UserError


def photograph(seed):
  """Like a photograph: smooth, all levels, more red than blue; u8[72,96,3]."""
  coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3))
  coarse = (coarse * [1, 0.95, 0.85]).astype(np.uint8)
  image = cv2.resize(coarse, (96, 72), interpolation=cv2.INTER_CUBIC)
  image[:2, :2], image[:2, 2:4] = 0, 255
  return image


def build(folder, change=lambda image, seed: image, per_class=24):
  """Prepares two classes of photographs, each changed by `change`."""
  for split, first in (("train", 0), ("validation", 1000)):
    for label, name in enumerate(("ash", "elm")):
      place = folder / "in" / split / name
      place.mkdir(parents=True)
      for i in range(per_class if split == "train" else 6):
        seed = first + 100 * label + i
        image = change(photograph(seed), seed)
        (place / f"{i}.jpg").write_bytes(simplejpeg.encode_jpeg(image, 95))
  found = preparing.open_originals(f"folder:{folder / 'in'}")
  return pathlib.Path(
    preparing.prepare(
      found,
      str(folder),
      "tiny",
      encoding=shards.Encoding(size=64),
      shard_size=20,
    )
  )


@pytest.fixture(autouse=True)
def skip_throughput(monkeypatch):
  monkeypatch.setattr(inspection, "_check_throughput", lambda *_: ("ok", "-"))


def inspect(folder, capsys, need=0.0):
  """The exit status, and the verdict and text of each line."""
  status = inspection.inspect(str(folder), "", need)
  lines = capsys.readouterr().out.splitlines()[1:]
  pattern = re.compile(r"(ok|note|FAIL) +([^:]*): (.*)")
  found = [pattern.fullmatch(line).groups() for line in lines]
  return status, {what: (verdict, text) for verdict, what, text in found}


def test_good_data_passes_every_check(tmp_path, capsys):
  build(tmp_path)
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 0
  assert {verdict for verdict, _ in verdicts.values()} == {"ok"}, verdicts
  assert verdicts["train images"][1] == "48, all 64 x 64"
  assert "2 classes of 24 to 24 images" in verdicts["train labels"][1]
  assert "2 classes of 6 to 6 images" in verdicts["validation labels"][1]
  assert "0 to 255" in verdicts["train value range"][1]
  assert "duplicates in train and validation" in verdicts
  assert "off by 0 levels" in verdicts["statistics"][1]


def test_equal_images_in_two_splits_fail(tmp_path, capsys):
  build(tmp_path, lambda image, seed: photograph(3) if seed == 1004 else image)
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 1
  verdict, text = verdicts["duplicates in train and validation"]
  assert verdict == "FAIL"
  assert "1 images are in both" in text
  assert "tiny/1.0.0 train[" in text
  assert "tiny/1.0.0 validation[" in text


def test_similar_images_in_two_splits_are_noted(tmp_path, capsys):
  def darker(image, seed):
    return (photograph(3) * 0.8).astype(np.uint8) if seed == 1004 else image

  build(tmp_path, darker)
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 0
  verdict, text = verdicts["duplicates in train and validation"]
  assert (verdict, "similar" in text) == ("note", True)


def test_swapped_channels_are_noted(tmp_path, capsys):
  build(tmp_path, lambda image, seed: np.ascontiguousarray(image[..., ::-1]))
  _, verdicts = inspect(tmp_path, capsys)
  assert verdicts["train channel order"][0] == "note"
  assert "BGR" in verdicts["train channel order"][1]


def test_a_decoder_that_swaps_channels_fails(tmp_path, capsys, monkeypatch):
  build(tmp_path)
  decode = images.decode
  monkeypatch.setattr(
    inspection.images,
    "decode",
    lambda encoded: np.ascontiguousarray(decode(encoded)[..., ::-1]),
  )
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 1
  assert verdicts["train channel order"][0] == "FAIL"
  assert "Pillow decodes" in verdicts["train channel order"][1]
  assert verdicts["statistics"][0] == "FAIL"


def test_values_from_0_to_1_fail(tmp_path, capsys):
  build(tmp_path, lambda image, seed: image // 200)
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 1
  assert verdicts["train value range"][0] == "FAIL"


def test_dark_images_are_noted(tmp_path, capsys):
  build(tmp_path, lambda image, seed: image // 4)
  _, verdicts = inspect(tmp_path, capsys)
  assert verdicts["train value range"][0] == "note"


def test_wrong_statistics_fail(tmp_path, capsys):
  folder = build(tmp_path)
  source = sources.open_directory(str(folder), "train")
  file = folder / "statistics.npz"
  stored = Statistics.load(str(file), source.fingerprint, 64)
  wrong = stored._replace(mean_image=stored.mean_image + np.float32(1))
  wrong.save(str(file), source.fingerprint)
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 1
  assert verdicts["statistics"][0] == "FAIL"
  assert "off by 1 levels" in verdicts["statistics"][1]
  file.write_bytes(b"damaged")
  assert inspect(tmp_path, capsys)[1]["statistics"][0] == "FAIL"
  file.unlink()
  assert inspect(tmp_path, capsys)[1]["statistics"][0] == "note"


def test_a_manifest_with_other_counts_fails(tmp_path, capsys):
  folder = build(tmp_path)
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["splits"]["train"]["classes"] = {"ash": 23, "elm": 25}
  manifest["splits"]["validation"]["num_examples"] = 11
  (folder / "manifest.json").write_text(json.dumps(manifest))
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 1
  assert verdicts["train labels"][0] == "FAIL"
  assert verdicts["validation images"][0] == "FAIL"


def test_a_damaged_record_is_named(tmp_path, capsys):
  folder = build(tmp_path)
  path = next(folder.glob("*train*00001-of-00003"))
  content = bytearray(path.read_bytes())
  source = sources.open_directory(str(folder), "train")
  place = content.index(source[20][0][400:440])  # inside an image's pixels
  content[place : place + 40] = bytes(40)
  path.write_bytes(content)
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 1
  verdict, text = verdicts["train images"]
  assert verdict == "FAIL"
  assert "cannot be decoded, tiny/1.0.0 train[" in text


def test_an_order_that_is_not_shuffled_fails(tmp_path, capsys, monkeypatch):
  build(tmp_path)
  status, verdicts = inspect(tmp_path, capsys)
  assert verdicts["shuffling"][0] == "ok"
  source = sources.open_split("tiny", "train", str(tmp_path))
  labels = np.array([source[i][1] for i in range(len(source))])
  monkeypatch.setattr(
    sources, "permutation", lambda n, *seed: np.argsort(labels, kind="stable")
  )
  status, verdicts = inspect(tmp_path, capsys)
  assert status == 1
  assert verdicts["shuffling"][0] == "FAIL"


def test_a_missing_dataset_is_an_error(tmp_path):
  with pytest.raises(UserError, match="has no prepared dataset"):
    inspection.inspect(str(tmp_path), "", 0)
  with pytest.raises(UserError, match="is missing"):
    inspection.inspect(str(tmp_path), "cifar10", 0)


def test_any_tfds_dataset_can_be_checked(tmp_path, capsys):
  folder = build(tmp_path)
  os.remove(folder / "manifest.json")
  os.remove(folder / "statistics.npz")
  assert inspection.inspect(str(tmp_path), "tiny", 0) == 0
  text = capsys.readouterr().out
  assert "not stored beside the dataset" in text


def test_similar_hashes_differ_in_at_most_three_bits():
  random = np.random.default_rng(0)
  one = random.integers(1, 2**64, 500, np.uint64)
  other = random.integers(1, 2**64, 300, np.uint64)
  for j, bits in ((5, 0), (50, 1), (100, 3), (150, 4), (200, 40)):
    flipped = random.choice(64, bits, replace=False)
    mask = sum(1 << int(bit) for bit in flipped)
    other[j] = one[2 * j] ^ np.uint64(mask)
  one[0] = other[0] = 0  # 0 is never similar
  assert inspection._find_similar(one, other) == [
    (10, 5),
    (100, 50),
    (200, 100),
  ]


def test_throughput_is_compared_with_the_need(monkeypatch):
  monkeypatch.undo()
  monkeypatch.setattr(inspection, "THROUGHPUT_SECONDS", 1.0)
  record = simplejpeg.encode_jpeg(photograph(0))

  class Slow(sources.Source):
    delay = 0.002

    def __getitem__(self, index):
      time.sleep(self.delay)
      return super().__getitem__(index)

  source = Slow([(record, 0)] * 64, "a", fingerprint="x", name="x")
  verdict, text = inspection._check_throughput(source, 64, 1)
  assert verdict == "ok"
  assert "1 are needed" in text
  rate = float(text.partition(" images/s")[0].replace(",", ""))
  # At most 500 images/s per core; up to two batches may be ready at the start.
  assert 20 < rate / parallel.num_cores() < 800
  source.delay = 0
  assert inspection._check_throughput(source, 64, 1e9)[0] == "FAIL"


def test_labels_of_no_class_are_named(tmp_path, capsys):
  pairs = [(simplejpeg.encode_jpeg(photograph(i), 95), i % 2) for i in range(9)]
  wrong = [*pairs[:4], (pairs[4][0], 2**40), *pairs[5:]]
  splits = {"train": wrong, "test": [(image, -1) for image, _ in pairs]}
  write_dataset(tmp_path, "trees", splits, ["ash", "elm"])
  assert inspection.inspect(str(tmp_path), "trees", 0) == 1
  lines = capsys.readouterr().out
  assert "FAIL  train labels: 1 are outside 0 to 1, for example 1099" in lines
  assert "note  test labels: none" in lines
