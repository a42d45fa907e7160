"""How the pixels of an image become the inputs of a network.

The paper subtracts the mean image and does nothing else. Published weights of
other programs expect other inputs; `configs/torchvision.py` and
`configs/caffe_alexnet.py` say which.
"""

import dataclasses

import jax
import numpy as np

from alexnet_jax.data.images import RESCALE
from alexnet_jax.runtime import values
from alexnet_jax.runtime.command import UserError

ORDERS = ("rgb", "bgr")


@dataclasses.dataclass(frozen=True)
class Pixels:
  """The `pixels` group of a configuration.

    input = (pixel / divisor - mean) / deviation

  Mean and deviation have one value for red, green and blue each, in this order
  whatever `order` is.
  """

  rescale: str = "crop"  # how an image gets its fixed size, of `images.RESCALE`
  order: str = "rgb"  # in which the first layer reads the colours, or "bgr"
  divisor: float = 1.0
  mean: tuple[float, ...] = ()  # empty: the mean image of the training images
  deviation: tuple[float, ...] = ()  # empty: 1

  def check(self, channels: int) -> None:
    """Raises UserError if a value is wrong; `channels` are the network's."""
    values.check(dataclasses.asdict(self), "pixels")
    if self.rescale not in RESCALE:
      raise UserError(
        f"pixels.rescale={self.rescale!r} is unknown; choose one of"
        f" {', '.join(RESCALE)}."
      )
    if self.order not in ORDERS:
      raise UserError(
        f"pixels.order={self.order!r} is unknown; choose rgb or bgr."
      )
    if self.order == "bgr" and channels != 3:
      raise UserError(
        f"pixels.order=bgr needs three colours, but network.channels={channels}"
        ": set pixels.order=rgb."
      )

  def mean_image(self, size: int) -> np.ndarray:
    """What is subtracted from each pixel, 0 to 255: f32[size,size,3] RGB.

    Only if there is a mean for each channel.
    """
    colour = np.array(self.mean) * self.divisor
    return np.tile(colour.astype(np.float32), (size, size, 1))

  def scale(self, centred: jax.Array) -> jax.Array:
    """Divides, and orders the colours: f32[...,3] RGB -> f32[...,3].

    `centred` is 0 to 255 minus the mean.
    """
    factor = self.divisor * np.array(self.deviation or (1.0, 1.0, 1.0))
    if np.any(factor != 1):
      row = (*[1] * (centred.ndim - 1), 3)
      centred = centred / factor.astype(centred.dtype).reshape(row)
    return centred[..., ::-1] if self.order == "bgr" else centred
