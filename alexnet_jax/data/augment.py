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

from alexnet_jax.runtime.command import UserError

VIEWS = (1, 10)


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What is random in training.

  Attributes:
    crop: a random position (33 x 33 of 224 in 256), else the centre.
    flip: mirror left to right, half of the time.
    lighting: standard deviation of the coefficients of the RGB components; 0:
      none.
    lighting_divisor: of the image after lighting; the 2012 source has 1.1.
    lighting_until: epoch from which there is no lighting, and no division; 0:
      to the end.
    shared_by: so many consecutive images have one crop and flip; the 2012
      source has 32.
  """

  crop: bool = True
  flip: bool = True
  lighting: float = 0.1
  lighting_divisor: float = 1.0
  lighting_until: float = 0.0
  shared_by: int = 1

  def check(self, batch_size: int, image_size: int, crop_size: int) -> None:
    """Raises UserError for what cannot hold.

    Args:
      batch_size: images of one device.
      image_size: side of the stored images.
      crop_size: side of what the network reads.
    """
    if crop_size > image_size:
      raise UserError(
        f"network.crop_size={crop_size} is more than image_size={image_size}."
      )
    if self.shared_by < 1 or batch_size % self.shared_by:
      raise UserError(
        f"augmentation.shared_by={self.shared_by}, but a device has"
        f" {batch_size} images a step, which are no whole number of such"
        " groups. Choose another batch_size, mesh.data or shared_by."
      )
    if self.shared_by > 1 and not (self.crop or self.flip):
      raise UserError(
        f"augmentation.shared_by={self.shared_by} shares crops and flips, but"
        " both are off: set augmentation.shared_by=1."
      )
    if not self.lighting and (
      self.lighting_divisor != 1 or self.lighting_until
    ):
      raise UserError(
        "augmentation.lighting=0, so there is no lighting to divide or to end:"
        " set augmentation.lighting_divisor=1 and lighting_until=0."
      )


class ImageStatistics(NamedTuple):
  """Of the training images, on the device.

  Attributes:
    mean_image: f32[256,256,3], 0-255, of which each crop loses its own part;
      or f32[224,224,3], the centre, which each crop loses wherever it is and
      after it is flipped (2012 source; so it is if crops are whole images).
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
  epoch: jax.Array,
) -> jax.Array:
  """Random crops, reflections and lighting, each example with its own.

  Args:
    images: uint8[B,S,S,3].
    keys: key[B].
    statistics: of the training images.
    augmentation: what is random.
    crop_size: side of the result.
    epoch: i32[B], of each example.

  Returns:
    f32[B,crop_size,crop_size,3].
  """
  margin = images.shape[1] - crop_size

  def augment(image, key, shared_key, epoch):
    crop_key, flip_key, _ = jax.random.split(shared_key, 3)
    lighting_key = jax.random.split(key, 3)[2]
    offset = (margin // 2, margin // 2)
    if augmentation.crop:
      offset = jax.random.randint(crop_key, (2,), 0, margin + 1)
    flip = jax.random.bernoulli(flip_key) if augmentation.flip else False
    x = _centred(image, statistics.mean_image, offset, crop_size, flip)
    if augmentation.lighting:
      strengths = augmentation.lighting * jax.random.normal(lighting_key, (3,))
      lit = x + (statistics.components @ strengths).reshape(1, 1, 3)
      lit = lit / augmentation.lighting_divisor
      until = augmentation.lighting_until
      x = jnp.where(epoch.astype(jnp.float32) < until, lit, x) if until else lit
    return x

  # A group's crop and flip are those of its first image.
  shared = jnp.repeat(keys[:: augmentation.shared_by], augmentation.shared_by)
  return jax.vmap(augment)(images, keys, shared, epoch)


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
  mean = statistics.mean_image
  return jax.vmap(
    lambda image: _centred(image, mean, offset, crop_size, view >= 5)
  )(images)


def grey(images: jax.Array) -> jax.Array:
  """f32[B,H,W,3] -> f32[B,H,W,1]: brightness as television weighs RGB."""
  weights = jnp.array([0.299, 0.587, 0.114], images.dtype)
  return (images @ weights)[..., None]


def _centred(image, mean_image, offset, crop_size, flip):
  """A crop of the image minus the mean image, perhaps mirrored."""
  start = (offset[0], offset[1], 0)
  size = (crop_size, crop_size, 3)
  crop = lax.dynamic_slice(image, start, size).astype(jnp.float32)
  if mean_image.shape == size:  # the same for all: never cropped nor mirrored
    return _mirrored(crop, flip) - mean_image
  return _mirrored(crop - lax.dynamic_slice(mean_image, start, size), flip)


def _mirrored(x, flip):
  return jnp.where(flip, x[:, ::-1], x)
