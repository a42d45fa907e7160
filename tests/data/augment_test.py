"""Augmentation, tested on images whose pixels are their own coordinates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data import augment
from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.runtime.command import UserError

SIZE, CROP = 12, 8
NONE = Augmentation(crop=False, flip=False, lighting=0.0)

# Compiled, because calling operation by operation is slower.
training_images = jax.jit(augment.training_images, static_argnums=(3, 4))
view_images = jax.jit(augment.view_images, static_argnums=(3, 4))


def _coordinates(batch):
  """uint8[B,S,S,3]: channel 0 is the row, 1 the column, 2 constant."""
  image = np.zeros((SIZE, SIZE, 3), np.uint8)
  image[..., 0] = np.arange(SIZE)[:, None]
  image[..., 1] = np.arange(SIZE)[None, :]
  image[..., 2] = 77
  return np.broadcast_to(image, (batch, SIZE, SIZE, 3))


def _statistics(mean=0.0, components=None):
  mean_image = np.broadcast_to(np.float32(mean), (SIZE, SIZE, 3))
  zero = np.zeros((3, 3), np.float32)
  return ImageStatistics(
    jnp.array(mean_image), jnp.array(zero if components is None else components)
  )


def _keys(count, seed=0, epoch=0):
  return augment.example_keys(
    jax.random.key(seed), jnp.full(count, epoch), jnp.arange(count)
  )


def _augment(images, keys, statistics, augmentation, epoch=0):
  return np.asarray(
    training_images(
      jnp.array(images),
      keys,
      statistics,
      augmentation,
      CROP,
      jnp.full(len(images), epoch),
    )
  )


def test_every_crop_position_occurs_equally_often_and_crops_are_whole():
  count = 4000
  crops = _augment(
    _coordinates(count),
    _keys(count),
    _statistics(),
    Augmentation(crop=True, flip=False, lighting=0.0),
  )
  top, left = crops[:, 0, 0, 0], crops[:, 0, 0, 1]
  rows = np.arange(CROP)
  whole = np.broadcast_to((top[:, None] + rows)[..., None], crops.shape[:3])
  np.testing.assert_array_equal(crops[..., 0], whole)
  positions = SIZE - CROP + 1  # 33 of 224 in 256
  counts = np.zeros((positions, positions))
  np.add.at(counts, (top.astype(int), left.astype(int)), 1)
  expected = count / positions**2
  chi_squared = ((counts - expected) ** 2 / expected).sum()
  assert chi_squared < 43  # 24 degrees of freedom: exceeded once in 100


def test_flip_reverses_columns_of_half_the_images():
  count = 2000
  images = _augment(
    _coordinates(count),
    _keys(count),
    _statistics(),
    Augmentation(crop=False, flip=True, lighting=0.0),
  )
  margin = (SIZE - CROP) // 2
  columns = margin + np.arange(CROP)
  flipped = images[:, 0, 0, 1] == columns[-1]
  np.testing.assert_array_equal(
    images[flipped][:, 0, :, 1],
    np.broadcast_to(columns[::-1], (flipped.sum(), CROP)),
  )
  np.testing.assert_array_equal(
    images[~flipped][:, 0, :, 1],
    np.broadcast_to(columns, ((~flipped).sum(), CROP)),
  )
  assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(count)


def test_the_mean_image_is_subtracted_where_the_crop_was_taken():
  mean = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3))
  statistics = ImageStatistics(jnp.float32(mean), jnp.zeros((3, 3)))
  augmentation = Augmentation(lighting=0.0, flip=False)
  images = _augment(_coordinates(50), _keys(50), statistics, augmentation)
  plain = _augment(_coordinates(50), _keys(50), _statistics(), augmentation)
  for image, crop in zip(images, plain, strict=True):
    top, left = int(crop[0, 0, 0]), int(crop[0, 0, 1])
    expected = crop - mean[top : top + CROP, left : left + CROP]
    np.testing.assert_allclose(image, expected, atol=1e-4)


def test_lighting_has_the_covariance_of_the_components():
  """The variance of the shift is 0.1^2 * V diag(eigenvalues) V^T."""
  count = 20_000
  eigenvalues = np.array([9000.0, 800.0, 90.0])
  vectors, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
  components = np.float32(vectors * np.sqrt(eigenvalues))
  augmentation = Augmentation(crop=False, flip=False, lighting=0.1)
  keys = _keys(count)
  images = jnp.zeros((count, 1, 1, 3), jnp.uint8)
  statistics = ImageStatistics(jnp.zeros((1, 1, 3)), jnp.array(components))
  shifts = np.asarray(
    training_images(
      images, keys, statistics, augmentation, 1, jnp.zeros(count, jnp.int32)
    )
  ).reshape(count, 3)
  expected = 0.01 * (vectors * eigenvalues) @ vectors.T
  np.testing.assert_allclose(
    np.cov(shifts.T), expected, atol=5 * expected.max() / np.sqrt(count)
  )
  np.testing.assert_allclose(
    shifts.mean(0), 0, atol=5 * np.sqrt(expected.max() / count)
  )


def test_lighting_shifts_all_pixels_of_an_image_alike():
  images = _augment(
    _coordinates(3),
    _keys(3),
    _statistics(components=np.eye(3, dtype=np.float32) * 50),
    Augmentation(crop=False, flip=False, lighting=0.1),
  )
  plain = _augment(_coordinates(3), _keys(3), _statistics(), NONE)
  shift = images - plain
  assert np.abs(shift - shift[:, :1, :1]).max() < 1e-4
  assert np.abs(shift[0] - shift[1]).min() > 0.1


def test_random_values_depend_only_on_seed_epoch_and_example():
  augmentation = Augmentation()
  statistics = _statistics(components=np.eye(3, dtype=np.float32) * 50)
  images = _coordinates(6)
  whole = _augment(images, _keys(6), statistics, augmentation)
  order = np.array([4, 1, 5])
  part = _augment(images[order], _keys(6)[order], statistics, augmentation)
  np.testing.assert_array_equal(part, whole[order])
  for other in (_keys(6, seed=1), _keys(6, epoch=1)):
    assert not np.array_equal(
      _augment(images, other, statistics, augmentation), whole
    )


@pytest.mark.parametrize(
  "view, top, left, mirrored",
  [
    (0, 2, 2, False),
    (1, 0, 0, False),
    (2, 0, 4, False),
    (3, 4, 0, False),
    (4, 4, 4, False),
    (5, 2, 2, True),
    (9, 4, 4, True),
  ],
)
def test_ten_views_are_centre_and_corners_and_their_reflections(
  view, top, left, mirrored
):
  image = np.asarray(
    view_images(jnp.array(_coordinates(2)), _statistics(), view, CROP)
  )[1]
  columns = left + np.arange(CROP)
  np.testing.assert_array_equal(image[:, 0, 0], top + np.arange(CROP))
  np.testing.assert_array_equal(
    image[0, :, 1], columns[::-1] if mirrored else columns
  )


def test_grey_inputs_are_the_brightness_of_rgb():
  images = np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3))
  images = jnp.array(images, jnp.uint8)
  weights = np.array([0.299, 0.587, 0.114])
  view = augment.view_images(images, _statistics(), 4, CROP, channels=1)
  rgb = augment.view_images(images, _statistics(), 4, CROP)
  assert view.shape == (3, CROP, CROP, 1)
  np.testing.assert_allclose(view[..., 0], np.asarray(rgb) @ weights, rtol=1e-5)
  one = augment.training_images(
    images, _keys(3), _statistics(), NONE, CROP, jnp.zeros(3, jnp.int32), 1
  )
  centre = augment.view_images(images, _statistics(), 0, CROP, channels=1)
  np.testing.assert_array_equal(one, centre)


def test_consecutive_images_share_crop_and_flip_but_not_lighting():
  augmentation = Augmentation(shared_by=4)
  statistics = _statistics(components=np.eye(3, dtype=np.float32))
  images = _augment(_coordinates(24), _keys(24), statistics, augmentation)
  groups = images.reshape(6, 4, CROP, CROP, 3)
  # Lighting moves a channel by a constant; differences of pixels remain.
  slopes = groups - groups[:, :, :1, :1]
  np.testing.assert_allclose(
    slopes, np.broadcast_to(slopes[:, :1], slopes.shape), atol=1e-4
  )
  corners = np.round(groups[:, 0, 0, 0], 0)
  assert len({tuple(corner) for corner in corners}) > 3
  shifts = groups[..., 2].reshape(24, -1)[:, 0]
  assert len(set(shifts.tolist())) == 24


def test_the_sources_lighting_divides_and_ends():
  """Source: (x + 0.1 n) / 1.1 up to an epoch, then x."""
  statistics = _statistics(components=np.eye(3, dtype=np.float32) * 50)
  plain = Augmentation(crop=False, flip=False, lighting=0.1)
  late = Augmentation(
    crop=False,
    flip=False,
    lighting=0.1,
    lighting_divisor=1.1,
    lighting_until=67,
  )
  images, keys = _coordinates(3), _keys(3)
  lit = _augment(images, keys, statistics, plain)
  got = _augment(images, keys, statistics, late, epoch=66)
  np.testing.assert_allclose(got, lit / 1.1, rtol=1e-6)
  np.testing.assert_array_equal(
    _augment(images, keys, statistics, late, epoch=67),
    _augment(images, keys, statistics, NONE),
  )


def test_the_sources_mean_is_the_centre_whatever_the_crop_and_flip():
  mean = np.random.default_rng(0).uniform(0, 255, (CROP, CROP, 3))
  statistics = ImageStatistics(jnp.float32(mean), jnp.zeros((3, 3)))
  augmentation = Augmentation(lighting=0.0)
  images = _augment(_coordinates(50), _keys(50), statistics, augmentation)
  plain = _augment(_coordinates(50), _keys(50), _statistics(), augmentation)
  np.testing.assert_allclose(images, plain - mean, atol=1e-4)
  view, bare = (
    np.asarray(view_images(jnp.array(_coordinates(1)), it, 7, CROP))
    for it in (statistics, _statistics())
  )
  np.testing.assert_allclose(view, bare - mean, atol=1e-4)


def test_colours_are_jittered_as_pytorchs_formulas_say():
  """Each result is that of three factors, found by a fit, within the range."""
  random = np.random.default_rng(4)
  # Far from 0 and 255, so that nothing is cut off and all steps are linear.
  images = random.integers(100, 140, (40, SIZE, SIZE, 3)).astype(np.uint8)
  augmentation = Augmentation(crop=False, flip=False, lighting=0.0, colour=0.4)
  margin = (SIZE - CROP) // 2
  jittered = _augment(images, _keys(40), _statistics(), augmentation)
  factors = []
  for image, found in zip(images.astype(float), jittered, strict=True):
    grey = image @ [0.299, 0.587, 0.114]
    crop = slice(margin, margin + CROP)
    # found = b c s x + b c (1 - s) grey + b (1 - c) mean(grey)
    x, g = image[crop, crop].ravel(), np.repeat(grey[crop, crop].ravel(), 3)
    basis = np.stack([x, g, np.full_like(x, grey.mean())], axis=1)
    (bcs, bc_rest, b_rest), *_ = np.linalg.lstsq(basis, found.ravel())
    np.testing.assert_allclose(
      basis @ [bcs, bc_rest, b_rest], found.ravel(), atol=1e-2
    )
    bc = bcs + bc_rest
    factors.append((bc + b_rest, bc / (bc + b_rest), bcs / bc))
  factors = np.array(factors)
  assert factors.min() >= 0.6 - 1e-3 and factors.max() <= 1.4 + 1e-3
  # Uniform from .6 to 1.4: mean 1, deviation .23, 40 draws of each factor.
  np.testing.assert_allclose(factors.mean(axis=0), 1, atol=4 * 0.23 / 40**0.5)
  np.testing.assert_allclose(factors.std(axis=0), 0.23, atol=0.08)


def test_jittered_colours_stay_pixels_and_repeat_for_an_example():
  images = np.random.default_rng(5).integers(0, 256, (8, SIZE, SIZE, 3))
  augmentation = Augmentation(crop=False, flip=False, lighting=0.0, colour=1.0)
  images = images.astype(np.uint8)
  jittered = _augment(images, _keys(8), _statistics(), augmentation)
  assert jittered.min() >= 0 and jittered.max() <= 255
  again = _augment(images, _keys(8), _statistics(), augmentation)
  np.testing.assert_array_equal(jittered, again)
  # Crops, flips and lighting draw the same numbers as without it.
  lit = Augmentation(lighting=0.1)
  grey = np.full_like(images, 120)
  statistics = _statistics(components=np.eye(3, dtype=np.float32))
  plain = _augment(grey, _keys(8), statistics, lit)
  both = _augment(
    grey, _keys(8), statistics, dataclasses.replace(lit, colour=1e-6)
  )
  np.testing.assert_allclose(both, plain, atol=1e-2)


def _faded(images, augmentation, **changes):
  """The crops without and with mixing: f32[B,c,c,3] each."""
  mean = np.random.default_rng(1).uniform(0, 255, (SIZE, SIZE, 3))
  statistics = ImageStatistics(jnp.float32(mean), 30 * jnp.eye(3))
  keys = changes.pop("keys", _keys(len(images)))
  return [
    _augment(
      images,
      keys,
      statistics,
      dataclasses.replace(augmentation, mixing=mixing, **changes),
    )
    for mixing in (0.0, 0.3)
  ]


@pytest.mark.parametrize("shared_by", [1, 4])
def test_a_share_of_the_crops_is_a_quarter_of_its_neighbours(shared_by):
  """Of groups with the same crop, each image of the next group's."""
  images = np.random.default_rng(6).integers(0, 256, (1600, SIZE, SIZE, 3))
  images = images.astype(np.uint8)
  plain, found = _faded(images, Augmentation(lighting=0, shared_by=shared_by))
  index = np.arange(len(images))
  neighbours = (index // shared_by ^ 1) * shared_by + index % shared_by
  mixed = 0.75 * plain + 0.25 * plain[neighbours]
  chosen = np.abs(found - plain).max(axis=(1, 2, 3)) > 1
  np.testing.assert_allclose(found[chosen], mixed[chosen], atol=1e-4)
  np.testing.assert_array_equal(found[~chosen], plain[~chosen])
  groups = chosen.reshape(-1, shared_by)
  assert (groups == groups[:, :1]).all()
  # Binomial, and independent of the neighbour's.
  deviation = np.sqrt(0.3 * 0.7 / len(groups))
  assert abs(chosen.mean() - 0.3) < 4 * deviation
  both = (groups[::2, 0] & groups[1::2, 0]).mean()
  assert abs(both - 0.09) < 4 * np.sqrt(0.09 * 0.91 / (len(groups) / 2))


def test_mixing_changes_no_other_random_number_and_no_part_of_a_batch():
  images = np.random.default_rng(7).integers(0, 256, (64, SIZE, SIZE, 3))
  images = images.astype(np.uint8)
  dark, mixed = _faded(images, Augmentation(lighting=0))
  lit, both = _faded(images, Augmentation())
  # Each image has lighting of its own, added to what is mixed.
  np.testing.assert_allclose(both - mixed, lit - dark, atol=1e-3)
  halves = [
    _faded(images[part], Augmentation(), keys=_keys(64)[part])[1]
    for part in (slice(0, 32), slice(32, 64))
  ]
  np.testing.assert_array_equal(np.concatenate(halves), both)
  _, other = _faded(images, Augmentation(lighting=0), keys=_keys(64, epoch=1))
  assert not np.array_equal(other, mixed)


@pytest.mark.parametrize(
  "augmentation, batch_size, message",
  [
    (Augmentation(shared_by=32), 48, "shared_by=32"),
    (Augmentation(shared_by=2, crop=False, flip=False), 4, "both are off"),
    (Augmentation(lighting=0.0, lighting_divisor=1.1), 4, "lighting=0 makes"),
    (Augmentation(lighting=0.0, lighting_until=67.0), 4, "lighting=0 makes"),
    (Augmentation(colour=1.5), 4, "colour must be a number from 0 to 1"),
    (Augmentation(mixing=0.05), 3, "must be a multiple of 2"),
    (Augmentation(mixing=0.05, shared_by=4), 12, "must be a multiple of 8"),
  ],
)
def test_inconsistent_values_are_rejected(augmentation, batch_size, message):
  with pytest.raises(UserError, match=message):
    augmentation.check(batch_size, SIZE, CROP)
  with pytest.raises(UserError, match=r"crop_size=13.*image_size=12"):
    Augmentation().check(1, 12, 13)
