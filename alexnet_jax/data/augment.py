"""Data augmentation on the device (section 4.1): stored pixels to inputs.

Stored images are uint8[B,256,256,3]. The network's input is f32[B,224,224,3]:
RGB 0 to 255 minus the mean image, not scaled. Random values of an example
depend only on (seed, epoch, example index), so they are the same on any mesh,
at any batch size, and after resuming.
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
  """Random changes of training images.

  Attributes:
    crop: crop at a random position (33 x 33 for 224 in 256), else the centre.
    flip: mirror half of the images left to right.
    lighting: standard deviation of the coefficients of the RGB principal
      components; 0 for no lighting noise.
    lighting_divisor: divides the image after lighting; 1.1 in the 2012 source.
    lighting_until: epoch from which there is neither lighting noise nor
      division; 0 for never.
    shared_by: number of consecutive images with the same crop and flip; 32 in
      the 2012 source.
  """

  crop: bool = True
  flip: bool = True
  lighting: float = 0.1
  lighting_divisor: float = 1.0
  lighting_until: float = 0.0
  shared_by: int = 1

  def check(self, batch_size: int, image_size: int, crop_size: int) -> None:
    """Checks that the values are consistent.

    Args:
      batch_size: images per device and step.
      image_size: side of the stored images.
      crop_size: side of the network's input.

    Raises:
      UserError: they are not.
    """
    if crop_size > image_size:
      raise UserError(
        f"network.crop_size={crop_size} is larger than"
        f" image_size={image_size}: choose a smaller crop."
      )
    if self.shared_by < 1 or batch_size % self.shared_by:
      raise UserError(
        f"augmentation.shared_by={self.shared_by} does not divide the"
        f" {batch_size} images per device and step. Choose another batch_size,"
        " mesh.data or shared_by."
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
        "augmentation.lighting=0 makes lighting_divisor and lighting_until"
        " useless: set augmentation.lighting_divisor=1 and lighting_until=0."
      )


class ImageStatistics(NamedTuple):
  """Statistics of the training images, on the device.

  Attributes:
    mean_image: f32[256,256,3], 0 to 255; the part under a crop is subtracted
      from it. Or f32[224,224,3], the centre of the mean image, which is
      subtracted from every crop after it is flipped (2012 source).
    components: f32[3,3]; column i is an eigenvector of the RGB covariance times
      the square root of its eigenvalue. (The paper says "eigenvalue", whose
      unit would be wrong; the 2012 source has the square root.)
  """

  mean_image: jax.Array
  components: jax.Array


def example_keys(
  key: jax.Array, epoch: jax.Array, index: jax.Array
) -> jax.Array:
  """One key per example and epoch: (key[], i32[B], i32[B]) -> key[B]."""
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
  channels: int = 3,
) -> jax.Array:
  """Crops, flips and lights each image at random.

  Args:
    images: uint8[B,S,S,3].
    keys: key[B].
    statistics: of the training images.
    augmentation: the random changes.
    crop_size: side of the result.
    epoch: i32[B], of each example.
    channels: of the result: 3 for RGB, 1 for grey.

  Returns:
    f32[B,crop_size,crop_size,channels].
  """
  margin = images.shape[1] - crop_size

  def augment(image, key, shared_key, epoch):
    crop_key, flip_key, _ = jax.random.split(shared_key, 3)
    lighting_key = jax.random.split(key, 3)[2]
    offset = (margin // 2, margin // 2)
    if augmentation.crop:
      offset = jax.random.randint(crop_key, (2,), 0, margin + 1)
    flip = jax.random.bernoulli(flip_key) if augmentation.flip else False
    x = _crop_and_centre(image, statistics.mean_image, offset, crop_size, flip)
    if augmentation.lighting:
      strengths = augmentation.lighting * jax.random.normal(lighting_key, (3,))
      lit = x + (statistics.components @ strengths).reshape(1, 1, 3)
      lit = lit / augmentation.lighting_divisor
      until = augmentation.lighting_until
      x = jnp.where(epoch.astype(jnp.float32) < until, lit, x) if until else lit
    return x

  # A group has the crop and flip of its first image.
  shared = jnp.repeat(keys[:: augmentation.shared_by], augmentation.shared_by)
  augmented = jax.vmap(augment)(images, keys, shared, epoch)
  return _with_channels(augmented, channels)


def view_images(
  images: jax.Array,
  statistics: ImageStatistics,
  view: int | jax.Array,
  crop_size: int,
  channels: int = 3,
) -> jax.Array:
  """One of the ten views of evaluation: uint8[B,S,S,3] -> f32[B,c,c,channels].

  Views 0 to 4 are the centre and the four corners, 5 to 9 their reflections.
  Grey inputs (`channels` 1) are the brightness of RGB.
  """
  margin = images.shape[1] - crop_size
  middle = margin // 2
  offsets = jnp.array(
    [(middle, middle), (0, 0), (0, margin), (margin, 0), (margin, margin)]
  )
  offset = offsets[view % 5]
  mean = statistics.mean_image
  views = jax.vmap(
    lambda image: _crop_and_centre(image, mean, offset, crop_size, view >= 5)
  )(images)
  return _with_channels(views, channels)


def _with_channels(images: jax.Array, channels: int) -> jax.Array:
  """f32[B,H,W,3] -> f32[B,H,W,channels]; grey as in ITU-R BT.601."""
  if channels == 3:
    return images
  weights = jnp.array([0.299, 0.587, 0.114], images.dtype)
  return (images @ weights)[..., None]


def _crop_and_centre(image, mean_image, offset, crop_size, flip):
  """A crop of the image minus the mean image, mirrored if `flip`."""
  start = (offset[0], offset[1], 0)
  size = (crop_size, crop_size, 3)
  crop = lax.dynamic_slice(image, start, size).astype(jnp.float32)
  if mean_image.shape == size:  # the same for every crop, and never mirrored
    return _mirror(crop, flip) - mean_image
  return _mirror(crop - lax.dynamic_slice(mean_image, start, size), flip)


def _mirror(x, flip):
  return jnp.where(flip, x[:, ::-1], x)
