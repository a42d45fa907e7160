"""What a workdir keeps of its data: bit for bit, or an error in words."""

import errno
import json
import pathlib
import shutil

import numpy as np
import pytest
from sample_data import ROOT, Tiny, write_tiny

from alexnet_jax.data import sources
from alexnet_jax.model import sharding
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import run_data
from alexnet_jax.training.run_data import RunData


@pytest.fixture(scope="module")
def train(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  return sources.open_split("tiny", "train", write_tiny(folder))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_config(**changes):
  config = configs.load(str(ROOT / "configs/paper.py"))
  config.dataset, config.image_size, config.num_classes = "tiny", 12, 3
  config.network.crop_size = 8
  config.update_from_flattened_dict(changes)
  return configs.to_json(config)


def same(one, other):
  """Whether two RunData are equal, statistics bit for bit."""
  if one[:3] != other[:3] or (one[3] is None) != (other[3] is None):
    return False
  pairs = zip(one[3] or (), other[3] or (), strict=True)
  return all(
    np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
  )


@pytest.mark.parametrize("centre_mean", [False, True])
def test_evaluation_subtracts_exactly_what_the_training_subtracted(
  train, tmp_path, centre_mean
):
  config = make_config(centre_mean=centre_mean)
  first = RunData.compute(config, train)
  first.save(tmp_path)
  again = RunData.read(tmp_path, config)
  assert same(first, again)
  assert again.classes == ("ash", "elm", "oak")
  mesh = sharding.make_mesh(1, 1)
  trained, evaluated = (
    x.image_statistics(config, mesh) for x in (first, again)
  )
  for name in ("mean_image", "components"):
    one, other = (getattr(x, name) for x in (trained, evaluated))
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
  # The mean in float64; images of 12 x 14 lose a column on each side.
  mean = Tiny.pictures[:40, :, 1:13].mean(axis=0, dtype=np.float64)
  expected = mean[2:10, 2:10] if centre_mean else mean
  np.testing.assert_allclose(evaluated.mean_image, expected, rtol=1e-6)


def test_a_mean_for_each_channel_needs_no_statistics(train, tmp_path):
  changes = {"pixels.mean": (1.0, 2.0, 3.0), "augmentation.lighting": 0.0}
  config = make_config(**changes)
  RunData.compute(config, train).save(tmp_path)
  assert not (tmp_path / "statistics.npz").exists()
  found = RunData.read(tmp_path, config)
  assert found.statistics is None and found.fingerprint == train.fingerprint
  placed = found.image_statistics(config, sharding.make_mesh(1, 1))
  assert (np.asarray(placed.mean_image) == [1, 2, 3]).all()


def test_a_flipped_bit_is_refused_or_changes_nothing(train, tmp_path):
  config = make_config()
  whole = RunData.compute(config, train)
  whole.save(tmp_path)
  refused = 0
  for name in ("classes.json", "statistics.npz"):
    path = tmp_path / name
    good = path.read_bytes()
    for place in np.linspace(0, len(good) - 1, 60).astype(int):
      spoiled = bytearray(good)
      spoiled[place] ^= 1 << place % 8
      path.write_bytes(spoiled)
      try:
        assert same(RunData.read(tmp_path, config), whole), (name, place)
      except UserError as error:
        assert f"{path} is damaged" in str(error)
        refused += 1
    for part in (b"", good[: len(good) // 2]):
      path.write_bytes(part)
      with pytest.raises(UserError, match="is damaged"):
        RunData.read(tmp_path, config)
    path.write_bytes(good)
  assert refused > 100


def test_statistics_of_another_run_are_refused(train, tmp_path):
  config = make_config()
  own = RunData.compute(config, train)
  own.save(tmp_path)
  other = own.with_mean_image(np.full((12, 12, 3), 9, np.float32))
  other.save(tmp_path / "other")
  (tmp_path / "other" / "statistics.npz").rename(tmp_path / "statistics.npz")
  with pytest.raises(UserError, match=r"statistics\.npz is damaged"):
    RunData.read(tmp_path, config)


def test_what_is_missing_is_computed_once_and_kept(train, tmp_path):
  config, opened = make_config(), []

  def open_train(split):
    opened.append(split)
    return train

  first = run_data.load(tmp_path, config, open_train)
  for name in ("statistics.npz", "classes.json"):
    assert same(run_data.load(tmp_path, config, open_train), first)
    assert opened == ["validation", "train"]
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    assert same(run_data.load(tmp_path, config, open_train), first)
    assert (tmp_path / name).read_bytes() == content
    del opened[2:]


def test_an_older_run_finds_statistics_beside_its_validation_images(
  train, tmp_path
):
  config = make_config()
  expected = RunData.compute(config, train)
  folder = tmp_path / "data" / "tiny"
  shutil.copytree(pathlib.Path(train.directory).parent, folder)
  for path in folder.glob("*/*-train.*"):
    path.unlink()
  shutil.rmtree(tmp_path / "cache")

  def open_split(split):
    return sources.open_split("tiny", split, str(folder.parent))

  for _ in range(2):
    with pytest.raises(UserError, match="incomplete"):
      run_data.load(tmp_path, config, open_split, train.fingerprint)
    beside = next(folder.iterdir()) / "statistics.npz"
    expected.statistics.save(beside, "of other images")
  expected.statistics.save(beside, train.fingerprint)
  found = run_data.load(tmp_path, config, open_split, train.fingerprint)
  assert same(found, expected)
  assert same(RunData.read(tmp_path, config), expected)


def test_the_mean_image_of_trained_weights_is_never_replaced(train, tmp_path):
  """A run that began with them would subtract another one than in training."""
  config = make_config(start_from="runs/other", start_mean_image=True)
  mean = np.full((12, 12, 3), 9, np.float32)
  own = RunData.compute(config, train).with_mean_image(mean)
  own.save(tmp_path)
  (tmp_path / "checkpoints" / "7").mkdir(parents=True)
  # The dataset's own statistics, which must not be taken, are in the cache.
  arguments = (tmp_path, config, lambda split: train, train.fingerprint)
  (tmp_path / "classes.json").unlink()
  assert same(run_data.load(*arguments), own)
  statistics = tmp_path / "statistics.npz"
  statistics.unlink()
  with pytest.raises(UserError, match=r"is missing.*start_mean_image"):
    run_data.load(*arguments)
  (tmp_path / "classes.json").unlink()
  with pytest.raises(UserError, match=r"npz is missing.*start_mean_image"):
    run_data.load(*arguments)
  statistics.write_bytes(b"PK")
  with pytest.raises(UserError, match=r"npz is damaged.*start_mean_image"):
    run_data.load(*arguments)


def test_a_run_from_trained_weights_computes_its_own_mean_image(
  train, tmp_path
):
  config = make_config(start_from="runs/other")
  own = RunData.compute(config, train)
  own.save(tmp_path)
  (tmp_path / "checkpoints" / "7").mkdir(parents=True)
  (tmp_path / "statistics.npz").unlink()
  assert same(run_data.load(tmp_path, config, lambda split: train), own)


def test_a_read_only_workdir_is_no_error(train, tmp_path, monkeypatch, capsys):
  def refuse(path, content):
    raise OSError(errno.EROFS, "Read-only file system")

  expected = RunData.compute(make_config(), train)
  monkeypatch.setattr(run_data.pixel_statistics.files, "write_atomic", refuse)
  found = run_data.load(tmp_path, make_config(), lambda split: train)
  assert same(found, expected)
  assert not list(tmp_path.glob("*.*"))
  assert "Read-only file system" in capsys.readouterr().err


def test_images_that_are_not_those_of_the_run_are_refused(train, tmp_path):
  config = make_config()
  with pytest.raises(UserError, match="other images than those"):
    run_data.load(
      tmp_path, config, lambda split: train, "tiny/1.2.0:train:40:0123"
    )
  data = RunData.compute(config, train)
  data.check_source(train)
  data.check_source(sources.open_directory(train.directory, "validation"))
  rest, _ = sources.hold_out(train, 5, 7)
  data.check_source(rest)
  again = data._replace(fingerprint=rest.fingerprint)
  again.check_source(train)
  digest = train.fingerprint.split(":")[-1]
  other = data._replace(fingerprint=train.fingerprint.replace(digest, "0" * 12))
  with pytest.raises(UserError, match=f"was tiny/1.2.0:{'0' * 12}.*{digest}"):
    other.check_source(train)
  with pytest.raises(UserError, match="were elm, ash, oak, here they are ash,"):
    data._replace(classes=("elm", "ash", "oak")).check_source(train)


def test_the_file_of_the_classes_is_plain_json(train, tmp_path):
  RunData.compute(make_config(), train).save(tmp_path)
  written = json.loads((tmp_path / "classes.json").read_text())
  assert written["names"] == ["ash", "elm", "oak"]
  assert written["dataset"] == "tiny"
  assert written["fingerprint"] == train.fingerprint
