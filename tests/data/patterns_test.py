"""Patterns: classes need several cues, and where datasets are generated."""

import hashlib
import os
import pathlib

import numpy as np
import pytest

from alexnet_jax.data import patterns, sources
from alexnet_jax.data.images import rescale
from alexnet_jax.runtime.command import UserError


def drawn(split, count, num_classes=10, size=64):
  """f64[N,S,S,3] rescaled images and i64[N] labels."""
  images, labels = [], []
  for i in range(count):
    image, label = patterns.draw(split, i, num_classes)
    images.append(rescale(image, size))
    labels.append(label)
  return np.array(images, np.float64), np.array(labels)


@pytest.fixture(scope="module")
def sample():
  return drawn("train", 500), drawn("validation", 200)


def linear_error(train, validation, features):
  """Error of the least-squares classifier on features of the images."""
  (images, labels), (held, held_labels) = train, validation

  def matrix(pictures):
    f = features(pictures)
    return np.concatenate([f, np.ones((len(f), 1))], 1)

  targets = np.eye(10)[labels]
  weights, *_ = np.linalg.lstsq(matrix(images), targets, rcond=None)
  return np.mean((matrix(held) @ weights).argmax(1) != held_labels)


def mean_color(images):
  """Mean RGB, its squares and products."""
  mean = images.mean((1, 2)) / 255
  products = mean[:, :, np.newaxis] * mean[:, np.newaxis]
  return np.concatenate([mean, products.reshape(len(mean), -1)], 1)


def test_mean_colour_does_not_determine_the_class(sample):
  train, validation = sample
  error = linear_error(train, validation, lambda x: x.mean((1, 2)))
  assert error > 0.6
  assert linear_error(train, validation, mean_color) > 0.6


def test_neither_arrangement_nor_shape_alone_determines_the_class(sample):
  train, validation = sample

  def halves(images):
    rows = images.shape[1] // 2
    return np.concatenate(
      [images[:, :rows].mean((1, 2)), images[:, rows:].mean((1, 2))], 1
    )

  # The colours of the halves show only which five classes are possible.
  assert 0.6 < linear_error(train, validation, halves) < 0.85

  def spectrum(images):
    grey = images.mean(3) - images.mean((1, 2, 3))[:, np.newaxis, np.newaxis]
    strength = np.abs(np.fft.rfft2(grey))[:, :12, :12]
    return np.log(strength + 10).reshape(len(images), -1)

  # Without colour, the arrangement can only be guessed.
  assert linear_error(train, validation, spectrum) > 0.4


def test_classes_survive_a_flip(sample):
  """The arrangement is vertical, which a left-right flip does not change."""
  images, labels = sample[0]
  warmth = images[..., 0] - images[..., 2]  # red less blue
  above, below = warmth[:, :24].mean((1, 2)), warmth[:, 40:].mean((1, 2))
  cool_above = labels // 5 % 2 == 1
  assert np.mean((above < below) == cool_above) > 0.98


def test_images_vary_in_size_and_are_in_one_split_only():
  hashes, sizes = set(), set()
  for split in ("train", "validation"):
    for index in range(60):
      image, _ = patterns.draw(split, index, 10)
      hashes.add(hashlib.sha256(image.tobytes()).hexdigest())
      sizes.add(image.shape[:2])
  assert len(hashes) == 120
  assert len(sizes) > 100


def test_no_validation_image_is_nearly_a_training_image(sample):
  (images, _), (held, _) = sample
  small = [x[:, ::8, ::8].reshape(len(x), -1) for x in (images, held)]
  for picture in small[1]:
    assert np.abs(small[0] - picture).mean(1).min() > 5


@pytest.mark.parametrize("num_classes", [2, 10, 37, 1000])
def test_classes_have_the_same_number_of_images(num_classes):
  sizes = patterns.split_sizes(num_classes)
  assert set(sizes) == {"train", "validation"}
  assert sizes["train"] >= 20 * num_classes
  assert sizes["validation"] >= 5 * num_classes
  labels = [
    patterns.draw("train", i, num_classes)[1]
    for i in range(0, 2 * num_classes, max(1, num_classes // 20))
  ]
  assert min(labels) == 0
  assert max(labels) < num_classes


def test_all_classes_differ():
  """Each of the 2,000 classes has its own combination of properties."""
  combinations = set()
  for label in range(patterns.MAX_CLASSES):
    combinations.add(patterns.class_properties(label))
  assert len(combinations) == patterns.MAX_CLASSES


@pytest.fixture
def few(monkeypatch):
  monkeypatch.setattr(
    patterns, "split_sizes", lambda n: {"train": 3 * n, "validation": n}
  )


def test_a_dataset_is_generated_only_if_it_is_missing(few, tmp_path):
  train = sources.open_split("patterns/4", "train", str(tmp_path))
  assert (len(train), train.num_classes) == (12, 4)
  assert (
    sorted(train[i][1] for i in range(12))
    == [0, 0, 0, 1, 1, 1, 2, 2, 2] + [3] * 3
  )
  folder = tmp_path / "patterns" / "4" / "1.1.0"
  assert train.directory == str(folder)
  assert os.listdir(tmp_path) == ["patterns"]  # nothing unfinished is left
  before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
  validation = sources.open_split("patterns/4", "validation", str(tmp_path))
  assert len(validation) == 4
  assert before == {file: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_generation_is_deterministic(few, tmp_path):
  contents = []
  for name in ("one", "other"):
    (tmp_path / name).mkdir()
    source = sources.open_split("patterns/3", "train", str(tmp_path / name))
    contents.append([source[i] for i in range(len(source))])
  assert contents[0] == contents[1]


def test_the_metadata_is_that_of_the_first_runs(few, tmp_path):
  """Its digest identifies the dataset in the checkpoints of old runs."""
  source = sources.open_split("patterns/3", "train", str(tmp_path))
  info = pathlib.Path(source.directory, "dataset_info.json").read_text()
  assert '"moduleName": "alexnet_jax.patterns"' in info


def test_folders_of_other_users_are_not_written(few, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  own = str(tmp_path / "cache" / "alexnet_jax" / "patterns" / "2" / "1.1.0")
  read_only = tmp_path / "read_only"
  read_only.mkdir(mode=0o555)
  for data_dir in ("", str(read_only), str(tmp_path / "absent")):
    source = sources.open_split("patterns/2", "train", data_dir)
    assert source.directory == own
  foreign = tmp_path / "foreign"
  foreign.mkdir()
  monkeypatch.setattr(os, "geteuid", lambda: foreign.stat().st_uid + 1)
  assert (
    sources.open_split("patterns/2", "train", str(foreign)).directory == own
  )
  assert not list(foreign.iterdir())
  assert not list(read_only.iterdir())
  assert not (tmp_path / "absent").exists()


def test_an_existing_dataset_is_read_from_a_read_only_folder(few, tmp_path):
  patterns.generate("patterns/2", str(tmp_path))
  tmp_path.chmod(0o555)
  source = sources.open_split("patterns/2", "train", str(tmp_path))
  tmp_path.chmod(0o755)
  assert source.directory.startswith(str(tmp_path))


def test_the_first_of_two_processes_wins(few, tmp_path):
  real = patterns.Patterns.download_and_prepare

  def overtaken(self):
    real(self)
    winner = tmp_path / "patterns" / "2" / "1.1.0"
    if not winner.exists():
      os.makedirs(winner)
      (winner / "dataset_info.json").write_text("{}")

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(patterns.Patterns, "download_and_prepare", overtaken)
    patterns.generate("patterns/2", str(tmp_path))
  folder = pathlib.Path(tmp_path, "patterns", "2", "1.1.0")
  assert os.listdir(folder) == ["dataset_info.json"]
  assert os.listdir(tmp_path) == ["patterns"]


def test_processes_with_equal_numbers_share_a_cache(few, tmp_path):
  """Containers number their processes alike, and may mount one cache."""
  real = patterns.Patterns.download_and_prepare

  def while_another_begins_and_ends(self):
    patch.setattr(patterns.Patterns, "download_and_prepare", real)
    patterns.generate("patterns/2", str(tmp_path))
    real(self)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      patterns.Patterns,
      "download_and_prepare",
      while_another_begins_and_ends,
    )
    patterns.generate("patterns/2", str(tmp_path))
  assert len(sources.open_split("patterns/2", "train", str(tmp_path))) > 0
  assert os.listdir(tmp_path) == ["patterns"]


@pytest.mark.parametrize("name", ["patterns/x", "patterns/1", "patterns/99999"])
def test_an_invalid_number_of_classes_is_an_error(name, tmp_path):
  with pytest.raises(UserError, match=r"name is patterns/N.*2 to 2,000"):
    sources.open_split(name, "train", str(tmp_path))
