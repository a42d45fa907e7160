"""From stored pixels to the network's input, on the device (section 4.1).

Stored images are uint8[B,256,256,3]; the network gets f32[B,224,224,3], RGB
0-255 minus the mean image, never divided by anything. What is drawn for an
example depends on (seed, epoch, example index) alone, so it is the same on any
mesh, at any batch size, and after any interruption.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

VIEWS = (1, 10)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What is random in training.

  Attributes:
    crop: a random position (33 x 33 of 224 in 256), else the centre.
    flip: mirror left to right, half of the time.
    lighting: standard deviation of the coefficients of the RGB components; 0:
      none.
  """

  crop: bool = True
  flip: bool = True
  lighting: float = 0.1


class ImageStatistics(NamedTuple):
  """Of the training images, on the device.

  Attributes:
    mean_image: f32[256,256,3], 0-255.
    components: f32[3,3]; column i is an eigenvector of the RGB covariance times
      the square root of its eigenvalue. (The paper says "eigenvalue"; that is
      not free of scale, and the 2012 source has the square root.)
  """

  mean_image: jax.Array
  components: jax.Array


def example_keys(
  key: jax.Array, epoch: jax.Array, index: jax.Array
) -> jax.Array:
  """One key an example and epoch: (key[], i32[B], i32[B]) -> key[B]."""
  return jax.vmap(
    lambda e, i: jax.random.fold_in(jax.random.fold_in(key, e), i)
  )(epoch, index)


def training_images(
  images: jax.Array,
  keys: jax.Array,
  statistics: ImageStatistics,
  augmentation: Augmentation,
  crop_size: int,
) -> jax.Array:
  """Random crops, reflections and lighting, each example with its own.

  Args:
    images: uint8[B,S,S,3].
    keys: key[B].
    statistics: of the training images.
    augmentation: what is random.
    crop_size: side of the result.

  Returns:
    f32[B,crop_size,crop_size,3].
  """
  margin = images.shape[1] - crop_size

  def augment(image, key):
    crop_key, flip_key, lighting_key = jax.random.split(key, 3)
    offset = (margin // 2, margin // 2)
    if augmentation.crop:
      offset = jax.random.randint(crop_key, (2,), 0, margin + 1)
    x = _centred(image, statistics.mean_image, offset, crop_size)
    if augmentation.flip:
      x = jnp.where(jax.random.bernoulli(flip_key), x[:, ::-1], x)
    if augmentation.lighting:
      strengths = augmentation.lighting * jax.random.normal(lighting_key, (3,))
      x = x + (statistics.components @ strengths).reshape(1, 1, 3)
    return x

  return jax.vmap(augment)(images, keys)


def view_images(
  images: jax.Array,
  statistics: ImageStatistics,
  view: int | jax.Array,
  crop_size: int,
) -> jax.Array:
  """One of the ten views of evaluation: uint8[B,S,S,3] -> f32[B,c,c,3].

  Views 0 to 4 are the centre and the four corners, 5 to 9 their reflections.
  """
  margin = images.shape[1] - crop_size
  middle = margin // 2
  offsets = jnp.array(
    [(middle, middle), (0, 0), (0, margin), (margin, 0), (margin, margin)]
  )
  offset = offsets[view % 5]
  x = jax.vmap(
    lambda image: _centred(image, statistics.mean_image, offset, crop_size)
  )(images)
  return jnp.where(view >= 5, x[:, :, ::-1], x)


def _centred(image, mean_image, offset, crop_size):
  """A crop of the image minus the same crop of the mean image."""
  start = (offset[0], offset[1], 0)
  size = (crop_size, crop_size, 3)
  crop = lax.dynamic_slice(image, start, size).astype(jnp.float32)
  return crop - lax.dynamic_slice(mean_image, start, size)
