"""Local layers: convolutions without shared weights, of the CIFAR-10 nets."""

import jax
import jax.numpy as jnp
from flax import nnx

from alexnet_jax.model import kernels


class LocalConv(nnx.Module):
  """As `layers.Conv`, but every place has kernels and biases of its own.

  `local` of cuda-convnet, which trained the "four-layer" nets of section 3.3.

  Attributes:
    kernel: f32[H',W',size,size,in_features,features], normal.
    bias: f32[H',W',features], constant.
  """

  def __init__(
    self,
    inputs: tuple[int, int, int],
    features: int,
    *,
    size: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    std: float = 0.01,
    bias: float = 0.0,
    key: jax.Array,
  ):
    height, width = [
      (length + sum(padding) - size) // stride + 1 for length in inputs[:2]
    ]
    shape = (height, width, size, size, inputs[-1], features)
    self.kernel = nnx.Param(std * jax.random.normal(key, shape))
    self.bias = nnx.Param(jnp.full((height, width, features), bias))
    self.size = size
    self.stride = stride
    self.padding = padding

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,H,W,in_features] -> f32[B,H',W',features]."""
    height, width = self.bias.shape[:2]
    x = jnp.pad(x, ((0, 0), self.padding, self.padding, (0, 0)))
    y = self.bias[...][jnp.newaxis]
    kernel = kernels.as_read_by(x, self.kernel[...])
    for i in range(self.size):
      for j in range(self.size):
        rows = slice(i, i + self.stride * (height - 1) + 1, self.stride)
        columns = slice(j, j + self.stride * (width - 1) + 1, self.stride)
        y = y + kernels.widened(
          jnp.einsum("bhwc,hwcf->bhwf", x[:, rows, columns], kernel[:, :, i, j])
        )
    return y.astype(x.dtype)
