"""Data augmentation on the device (section 4.1): stored pixels to inputs.

Stored images are uint8[B,256,256,3]. The network's input is f32[B,224,224,3]:
RGB 0 to 255 minus the mean image, and then as `Pixels` says (in the paper: not
scaled). Random values of an example depend only on (seed, epoch, example
index), so they are the same on any mesh, at any batch size, and after resuming.
So the host can find where the device will crop an image, and send that part.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.data.pixels import Pixels
from alexnet_jax.runtime import values
from alexnet_jax.runtime.command import UserError

VIEWS = (1, 10)
GREY = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
OWN_SHARE = 0.75  # of a mixed image in itself, in the 2012 source


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Random changes of training images."""

  crop: bool = True  # at a random position (33 x 33 for 224 in 256), or central
  flip: bool = True  # mirror half of the images left to right
  # Standard deviation of the coefficients of the RGB principal components; 0
  # for no lighting noise.
  lighting: float = 0.1
  lighting_divisor: float = 1.0  # divides the lit image; 1.1 in the 2012 source
  # Epoch from which there is neither noise nor division; 0 for never.
  lighting_until: float = 0.0
  # Strength s of a random brightness, contrast and saturation, each a factor
  # from 1 - s to 1 + s; 0 for none. Not in the paper.
  colour: float = 0.0
  # Number of consecutive images with the same crop and flip; 32 in the 2012
  # source.
  shared_by: int = 1
  # Share of the images into which another one is faded; .05 in the authors' run
  # #170 "fade". Not in the paper.
  mixing: float = 0.0

  @property
  def reads_crops_only(self) -> bool:
    """Whether no pixel outside of an image's crop matters."""
    return not self.colour  # the contrast is that of the whole image

  def check(self, batch_size: int, image_size: int, crop_size: int) -> None:
    """Raises UserError if a value is wrong or contradicts another one.

    `batch_size` counts the images per device and step.
    """
    values.check(dataclasses.asdict(self), "augmentation")
    if crop_size > image_size:
      raise UserError(
        f"network.crop_size={crop_size} is larger than"
        f" image_size={image_size}: choose a smaller crop."
      )
    if batch_size % self.shared_by:
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
    if self.mixing and batch_size % (2 * self.shared_by):
      raise UserError(
        f"augmentation.mixing={self.mixing} takes images from neighbours of the"
        f" batch: the {batch_size} images per device and step must be a"
        f" multiple of {2 * self.shared_by}, twice augmentation.shared_by."
        " Choose another batch_size, mesh.data or shared_by."
      )
    divided_or_ended = self.lighting_divisor != 1 or self.lighting_until
    if not self.lighting and divided_or_ended:
      raise UserError(
        "augmentation.lighting=0 makes lighting_divisor and lighting_until"
        " useless: set augmentation.lighting_divisor=1 and lighting_until=0."
      )


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ImageStatistics:
  """Statistics of the training images on the device, and how to use them."""

  # f32[256,256,3], 0 to 255; the part under a crop is subtracted from it. Or
  # f32[224,224,3], the centre of the mean image, which is subtracted from every
  # crop after it is flipped (2012 source).
  mean_image: jax.Array
  # f32[3,3]; column i is an eigenvector of the RGB covariance times the square
  # root of its eigenvalue. (The paper says "eigenvalue", whose unit would be
  # wrong; the 2012 source has the square root.)
  components: jax.Array
  # Not an array: a program is compiled for it.
  pixels: Pixels = dataclasses.field(
    default=Pixels(), metadata={"static": True}
  )


def example_keys(
  key: jax.Array, epoch: jax.Array, index: jax.Array
) -> jax.Array:
  """One key per example and epoch: (key[], i32[B], i32[B]) -> key[B]."""
  fold_in = jax.random.fold_in
  return jax.vmap(lambda e, i: fold_in(fold_in(key, e), i))(epoch, index)


def training_images(
  images: jax.Array,
  keys: jax.Array,
  statistics: ImageStatistics,
  augmentation: Augmentation,
  crop_size: int,
  epoch: jax.Array,
  channels: int = 3,
) -> jax.Array:
  """Crops, flips, mixes and lights: uint8[B,S,S,3] -> f32[B,c,c,channels].

  `keys` key[B] and `epoch` i32[B] belong to the images, c is `crop_size`. The
  images may be uint8[B,c,c,3], cropped at `crop_offsets` already. Grey inputs
  (`channels` 1) are the brightness of RGB.
  """
  margin = _margin(images, statistics, crop_size)

  def crop_and_flip(image, key, offset, flip_key):
    half = np.float32(0.5)  # the type decides how many bits are drawn
    flip = jax.random.bernoulli(flip_key, half) if augmentation.flip else False
    if augmentation.colour:
      # A split into three uses the numbers 0 to 2 of this key.
      colour_key = jax.random.fold_in(key, 3)
      image = _jitter_colours(image, colour_key, augmentation.colour)
    return _crop_and_centre(
      image, statistics.mean_image, offset, crop_size, flip
    )

  def light_and_scale(x, lighting_key, epoch):
    if augmentation.lighting:
      normal = jax.random.normal(lighting_key, (3,), jnp.float32)
      strengths = augmentation.lighting * normal
      shift = _exact_product(statistics.components, strengths)
      lit = x + shift.reshape(1, 1, 3)
      lit = lit / augmentation.lighting_divisor
      until = augmentation.lighting_until
      x = jnp.where(epoch.astype(jnp.float32) < until, lit, x) if until else lit
    return statistics.pixels.scale(x)

  crop, flip, lighting = _split(keys)
  offsets = _draw_offsets(crop, augmentation, margin)
  flip = _shared(flip, augmentation)
  x = jax.vmap(crop_and_flip)(images, keys, offsets, flip)
  if augmentation.mixing:
    x = _mix(x, keys, augmentation)
  x = jax.vmap(light_and_scale)(x, lighting, epoch)
  return _with_channels(x, channels)


def crop_offsets(
  keys: jax.Array, augmentation: Augmentation, margin: int
) -> jax.Array:
  """Where `training_images` crops: key[B] -> i32[B,2], 0 to `margin`.

  The top and left of each crop in an image that is `margin` pixels larger.
  """
  return _draw_offsets(_split(keys)[0], augmentation, margin)


def _draw_offsets(keys, augmentation, margin):
  if not augmentation.crop:
    return jnp.full((len(keys), 2), margin // 2, jnp.int32)

  def draw(key):
    return jax.random.randint(key, (2,), 0, margin + 1, jnp.int32)

  return jax.vmap(draw)(_shared(keys, augmentation))


def _split(keys):
  """The keys of crop, flip and lighting: key[B] -> 3 x key[B]."""
  return jax.vmap(lambda key: tuple(jax.random.split(key, 3)))(keys)


def _shared(keys, augmentation):
  """A group has the crop and flip of its first image: key[B] -> key[B]."""
  count = augmentation.shared_by
  return jnp.repeat(keys[::count], count)


def _mix(crops, keys, augmentation):
  """Fades neighbours into a share of the crops: f32[B,c,c,3] -> the same.

  A mixed crop is OWN_SHARE of itself and the rest of its neighbour in the
  batch, which has a crop and flip of its own; its label stays its own. The
  order of an epoch is random, so a neighbour is any other image. Images that
  share a crop are mixed together, each with one of the next such group.

  As convdata_jpeg.py of the 2012 source, which took any earlier images of the
  same file instead; a neighbour is on the same device, on every mesh.
  """
  count = augmentation.shared_by
  pairs = crops.reshape(-1, 2, count, *crops.shape[1:])
  others = pairs[:, ::-1].reshape(crops.shape)
  # Numbers 0 to 3 of these keys have other uses.
  fold_in = jax.vmap(lambda key: jax.random.fold_in(key, 4))
  probability = np.float32(augmentation.mixing)
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, probability))
  chosen = draw(_shared(fold_in(keys), augmentation)).reshape(-1, 1, 1, 1)
  # A quarter of a number is exact, so every program rounds this alike.
  mixed = crops + (1 - OWN_SHARE) * (others - crops)
  return jnp.where(chosen, mixed, crops)


def _margin(images, statistics, crop_size) -> int:
  """By how much the stored images are larger than a crop, in pixels.

  Images that are cropped already do not say, and nor does a mean image that is
  the same for all crops; if both are, no offset is read.
  """
  side = max(images.shape[1], statistics.mean_image.shape[0])
  return side - crop_size


def view_images(
  images: jax.Array,
  statistics: ImageStatistics,
  view: int | jax.Array,
  crop_size: int,
  channels: int = 3,
) -> jax.Array:
  """One of the ten views of evaluation: uint8[B,S,S,3] -> f32[B,c,c,channels].

  Views 0 to 4 are the centre and the four corners, 5 to 9 their reflections.
  For view 0 the images may be uint8[B,c,c,3], their centres.
  """
  margin = _margin(images, statistics, crop_size)
  corners = [(0, 0), (0, margin), (margin, 0), (margin, margin)]
  centre = (margin // 2, margin // 2)
  offset = jnp.array([centre, *corners], jnp.int32)[view % 5]

  def crop(image):
    mean, flip = statistics.mean_image, view >= 5
    x = _crop_and_centre(image, mean, offset, crop_size, flip)
    return statistics.pixels.scale(x)

  return _with_channels(jax.vmap(crop)(images), channels)


def _jitter_colours(
  image: jax.Array, key: jax.Array, strength: float
) -> jax.Array:
  """Random brightness, contrast and saturation: [S,S,3] -> f32[S,S,3].

  Three steps, each limited to 0 to 255: a multiple of the image; a blend with
  its mean grey; a blend of each pixel with its own grey. (torchvision's
  `ColorJitter` in this order, without a change of hue.)
  """
  low, high = 1 - strength, 1 + strength
  brightness, contrast, saturation = jax.random.uniform(
    key, (3,), jnp.float32, minval=low, maxval=high
  )

  def blend(x, other, factor):
    return jnp.clip(factor * x + (1 - factor) * other, 0.0, 255.0)

  x = jnp.clip(brightness * image.astype(jnp.float32), 0.0, 255.0)
  x = blend(x, _with_channels(x, 1).mean(), contrast)
  return blend(x, _with_channels(x, 1), saturation)


def _exact_product(a: jax.Array, b: jax.Array) -> jax.Array:
  """a @ b in float32 on every platform, whatever `network.precision` is."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _with_channels(images: jax.Array, channels: int) -> jax.Array:
  """f32[B,H,W,3] -> f32[B,H,W,channels]."""
  if channels == 3:
    return images
  weights = jnp.array(GREY, images.dtype)
  return _exact_product(images, weights)[..., None]


def _crop_and_centre(image, mean_image, offset, crop_size, flip):
  """A crop of the image minus the mean image, mirrored if `flip`."""
  start = (offset[0], offset[1], np.int32(0))
  size = (crop_size, crop_size, 3)
  crop = image
  if image.shape != size:  # else it is cropped already
    crop = lax.dynamic_slice(image, start, size)
  crop = crop.astype(jnp.float32)
  same_for_all = mean_image.shape == size  # and then never mirrored
  if not same_for_all:
    crop -= lax.dynamic_slice(mean_image, start, size)
  crop = jnp.where(flip, crop[:, ::-1], crop)
  return crop - mean_image if same_for_all else crop
