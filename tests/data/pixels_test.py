"""How pixels become inputs, against float64 NumPy and torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data import augment
from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.data.pixels import Pixels
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.job import make_pixels

TORCHVISION = Pixels(
  divisor=255.0,
  mean=(0.485, 0.456, 0.406),
  deviation=(0.229, 0.224, 0.225),
)
SIZE, CROP, TOP = 12, 8, 2  # the centre crop begins at row and column 2


def images(count=2):
  shape = (count, SIZE, SIZE, 3)
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def centre(pixels, mean_image):
  """The inputs of the centre view."""
  statistics = ImageStatistics(
    jnp.asarray(mean_image, jnp.float32), jnp.zeros((3, 3)), pixels
  )
  view = jax.jit(augment.view_images, static_argnums=(3,))
  return np.asarray(view(jnp.array(images()), statistics, 0, CROP))


def crop(array):
  return array[..., TOP : TOP + CROP, TOP : TOP + CROP, :]


def test_mean_and_deviation_of_each_channel():
  expected = crop(images().astype(np.float64)) / 255
  expected = (expected - TORCHVISION.mean) / TORCHVISION.deviation
  found = centre(TORCHVISION, TORCHVISION.mean_image(SIZE))
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_blue_comes_first_and_the_mean_image_stays_where_it_is():
  mean = np.random.default_rng(1).uniform(0, 255, (SIZE, SIZE, 3))
  expected = crop(images().astype(np.float64) - mean)
  found = centre(Pixels(order="bgr"), mean)
  np.testing.assert_allclose(found, expected[..., ::-1], rtol=0, atol=2e-5)


def test_the_papers_inputs_are_not_scaled():
  mean = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3))
  np.testing.assert_array_equal(
    centre(Pixels(), mean), crop(images().astype(np.float32) - mean)
  )


def test_training_images_have_the_same_inputs():
  """Without augmentation a training image is the centre view."""
  pixels = Pixels("crop", "bgr", 255.0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  statistics = ImageStatistics(
    jnp.asarray(pixels.mean_image(SIZE)), jnp.zeros((3, 3)), pixels
  )
  keys = augment.example_keys(
    jax.random.key(0), jnp.zeros(2, jnp.int32), jnp.arange(2)
  )
  none = Augmentation(crop=False, flip=False, lighting=0.0)
  found = augment.training_images(
    jnp.array(images()), keys, statistics, none, CROP, jnp.zeros(2, jnp.int32)
  )
  expected = crop(images().astype(np.float64)) / 255
  expected = (expected - pixels.mean) / pixels.deviation
  np.testing.assert_allclose(found, expected[..., ::-1], rtol=0, atol=2e-6)


def test_lighting_is_added_before_the_division_and_in_rgb():
  pixels = Pixels(order="bgr", divisor=100.0)
  red = jnp.asarray(np.diag([50.0, 0, 0]), jnp.float32)
  zero = jnp.zeros((SIZE, SIZE, 3))
  keys = augment.example_keys(
    jax.random.key(0), jnp.zeros(2, jnp.int32), jnp.arange(2)
  )

  def inputs(components):
    lit = Augmentation(crop=False, flip=False, lighting=1.0)
    return augment.training_images(
      jnp.array(images()),
      keys,
      ImageStatistics(zero, components, pixels),
      lit,
      CROP,
      jnp.zeros(2, jnp.int32),
    )

  change = np.asarray(inputs(red) - inputs(jnp.zeros((3, 3))))
  assert np.abs(change[..., :2]).max() == 0  # blue and green
  strengths = [
    jax.random.normal(jax.random.split(key, 3)[2], (3,))[0] for key in keys
  ]
  for image, strength in zip(change[..., 2], strengths, strict=True):
    np.testing.assert_allclose(image, 0.5 * strength, rtol=1e-4)


def config(**pixels):
  values = {"rescale": "crop", "order": "rgb", "divisor": 1.0}
  values |= {"mean": [], "deviation": []} | pixels
  return {"pixels": values, "network": {"channels": 3}}


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"rescale": "squash"}, "'squash' is unknown; choose one of crop, warp"),
    ({"order": "gbr"}, "pixels.order='gbr' is unknown"),
    ({"divisor": 0.0}, r"divisor must be a number from 1e-30 .*\(got 0.0\)"),
    ({"mean": [0.5]}, "pixels.mean must be a tuple of 0 or 3 numbers"),
    (
      {"deviation": [1.0, 0.0, 1.0]},
      "pixels.deviation must be .* numbers above 0",
    ),
    ({"colour": 1}, "invalid configuration group 'pixels'"),
  ],
)
def test_a_wrong_value_is_rejected(wrong, message):
  with pytest.raises(UserError, match=message):
    make_pixels(config(**wrong))


def test_grey_inputs_have_no_order():
  with pytest.raises(UserError, match="needs three colours"):
    Pixels(order="bgr").check(channels=1)


def test_lists_of_a_saved_configuration_are_tuples():
  assert make_pixels(config(mean=[0.1, 0.2, 0.3])).mean == (0.1, 0.2, 0.3)
