"""Pixel statistics against float64 NumPy, their file and their cache."""

import io
import pathlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from alexnet_jax.data import pixel_statistics, sources
from alexnet_jax.data.images import rescale
from alexnet_jax.data.pixel_statistics import load_or_compute
from alexnet_jax.runtime.command import UserError


def rescaled(source, size):
  """f64[N,S,S,3] of the pictures, by Pillow's decoder."""
  images = []
  for i in range(len(source)):
    image = np.asarray(Image.open(io.BytesIO(source[i][0])).convert("RGB"))
    images.append(rescale(image, size))
  return np.array(images, np.float64)


def test_statistics_equal_float64_numpy(tiny_dir, cache):
  train = sources.open_split("tiny", "train", tiny_dir)
  found = load_or_compute(train, 8)
  images = rescaled(train, 8)
  assert found.num_images == 40
  assert found.mean_image.dtype == np.float32
  np.testing.assert_allclose(found.mean_image, images.mean(0), rtol=1e-6)
  covariance = np.cov(images.reshape(-1, 3).T, bias=True)
  vectors, values = found.eigenvectors, found.eigenvalues
  assert (np.diff(values) <= 0).all()
  np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
  np.testing.assert_allclose(
    vectors @ np.diag(values) @ vectors.T, covariance, rtol=1e-9, atol=1e-9
  )
  np.testing.assert_allclose(covariance @ vectors, vectors * values, atol=1e-9)
  assert (vectors[np.abs(vectors).argmax(0), range(3)] > 0).all()


def test_statistics_are_cached_and_the_cache_is_verified(tiny_dir, cache):
  train = sources.open_split("tiny", "train", tiny_dir)
  first = load_or_compute(train, 8)
  (file,) = cache.iterdir()
  with np.load(file, allow_pickle=False) as stored:
    changed = dict(stored)
  changed["mean_image"] = np.full((8, 8, 3), 9, np.float32)
  np.savez(file, **changed)
  assert load_or_compute(train, 8).mean_image[0, 0, 0] == 9  # from the cache
  # Another size or split is not in this file.
  assert load_or_compute(train, 4).mean_image.shape == (
    4,
    4,
    3,
  )
  part = sources.open_split("tiny", "train[:9]", tiny_dir)
  assert load_or_compute(part, 8).num_images == 9
  # A damaged file, or one of another source, is ignored.
  for content in (b"", b"PK\x03\x04junk", file.read_bytes()[:200]):
    file.write_bytes(content)
    again = load_or_compute(train, 8)
    np.testing.assert_array_equal(again.mean_image, first.mean_image)
  changed["fingerprint"] = "another"
  np.savez(file, **changed)
  again = load_or_compute(train, 8)
  np.testing.assert_array_equal(again.mean_image, first.mean_image)
  assert not [f for f in cache.iterdir() if f.suffix != ".npz"]


def test_statistics_beside_the_dataset_take_precedence(tiny_dir, cache):
  train = sources.open_split("tiny", "train", tiny_dir)
  known = pixel_statistics.Statistics(
    np.full((8, 8, 3), 5, np.float32), np.arange(3.0), np.eye(3), 40
  )
  file = pathlib.Path(train.directory, "statistics.npz")
  known.save(str(file), train.fingerprint)
  try:
    assert load_or_compute(train, 8).mean_image[0, 0, 0] == 5
    assert load_or_compute(train, 4).mean_image.shape == (
      4,
      4,
      3,
    )
    rest, _ = sources.hold_out(train, 3, 0)
    assert load_or_compute(rest, 8).num_images == 37  # not the file's
  finally:
    file.unlink()


def test_undecodable_images_are_left_out(cache, capsys):
  flat = simplejpeg.encode_jpeg(np.full((9, 9, 3), 50, np.uint8))
  source = sources.Source(
    [(flat, 0), (b"junk", 0), (flat, 1)], "ab", fingerprint="x", name="bad set"
  )
  found = load_or_compute(source, 4)
  assert found.num_images == 2
  np.testing.assert_allclose(found.mean_image, 50, atol=1)
  text = capsys.readouterr().err
  assert "bad set[1] cannot be decoded" in text
  assert "1 of 3 images are left out" in text
  nothing = sources.Source([(b"", 0)], "a", fingerprint="y", name="bad")
  with pytest.raises(UserError, match="No image of bad"):
    load_or_compute(nothing, 4)


def test_a_cache_that_cannot_be_written_is_not_needed(
  tiny_dir, monkeypatch, capsys
):
  monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/no")
  train = sources.open_split("tiny", "train", tiny_dir)
  assert load_or_compute(train, 4).num_images == 40
  assert "Could not cache" in capsys.readouterr().err
