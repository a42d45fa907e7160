"""The layers as the paper defines them (sections 3 and 4), one device each."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from alexnet_jax.model import kernels


class Conv(nnx.Module):
  """A convolution, NHWC.

  Attributes:
    kernel: f32[size, size, in_features / groups, features], normal.
    bias: f32[features], constant.
  """

  def __init__(
    self,
    in_features: int,
    features: int,
    *,
    size: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    std: float = 0.01,
    bias: float = 0.0,
    key: jax.Array,
  ):
    shape = (size, size, in_features // groups, features)
    self.kernel = nnx.Param(std * jax.random.normal(key, shape))
    self.bias = nnx.Param(jnp.full(features, bias, jnp.float32))
    self.stride = stride
    self.padding = padding
    self.groups = groups

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,H,W,in_features] -> f32[B,H',W',features]."""
    y = kernels.convolve(
      x,
      self.kernel[...],
      stride=self.stride,
      padding=self.padding,
      groups=self.groups,
    )
    return kernels.add_bias(y, self.bias[...].reshape(1, 1, 1, -1))


class Linear(nnx.Module):
  """A fully connected layer.

  Attributes:
    kernel: f32[in_features, features], normal.
    bias: f32[features], constant; absent when `bias` is None.
  """

  def __init__(
    self,
    in_features: int,
    features: int,
    *,
    std: float = 0.01,
    bias: float | None = 0.0,
    key: jax.Array,
  ):
    shape = (in_features, features)
    self.kernel = nnx.Param(std * jax.random.normal(key, shape))
    if bias is not None:
      self.bias = nnx.Param(jnp.full(features, bias, jnp.float32))

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,in_features] -> f32[B,features]."""
    y = x @ kernels.as_read_by(x, self.kernel[...])
    if hasattr(self, "bias"):
      y = kernels.add_bias(y, self.bias[...].reshape(1, -1))
    return y


def local_response_norm(
  x: jax.Array,
  *,
  k: float = 2.0,
  n: int = 5,
  alpha: float = 1e-4,
  beta: float = 0.75,
) -> jax.Array:
  """Section 3.3: each map divided by the activity of its n neighbours.

  b = a / (k + alpha * sum_j a_j^2)^beta, j over the n maps centred on a's own,
  clipped at the first and last map. The sum is not divided by n.

  Args:
    x: f32[B,H,W,C], one tower's maps.

  Returns:
    f32[B,H,W,C].
  """
  squares = lax.reduce_window(
    x * x,
    np.zeros((), x.dtype),
    lax.add,
    window_dimensions=(1, 1, 1, n),
    window_strides=(1, 1, 1, 1),
    padding=((0, 0), (0, 0), (0, 0), (n // 2, n - 1 - n // 2)),
  )
  return x * (k + alpha * squares) ** -beta


def within_map_norm(
  x: jax.Array, *, k: float, n: int, alpha: float, beta: float
) -> jax.Array:
  """As `local_response_norm`, but over the n x n places around in its own map.

  Not in the paper; `rnorm` of the 2012 source, whose alpha is the configured
  scale divided by n^2. Places outside the map count nothing.

  Args:
    x: f32[B,H,W,C].

  Returns:
    f32[B,H,W,C].
  """
  around = (n // 2, n - 1 - n // 2)
  a = kernels.widened(x)
  squares = lax.reduce_window(
    a * a,
    np.zeros((), a.dtype),
    lax.add,
    window_dimensions=(1, n, n, 1),
    window_strides=(1, 1, 1, 1),
    padding=((0, 0), around, around, (0, 0)),
  )
  return (a * (k + alpha * squares) ** -beta).astype(x.dtype)


def max_pool(
  x: jax.Array, *, size: int = 3, stride: int = 2, overhang: bool = True
) -> jax.Array:
  """Section 3.4: overlapping max-pooling, f32[B,H,W,C] -> f32[B,H',W',C].

  The last window may hang over the edge: H' = 1 + ceil((H - size) / stride), as
  in the 2012 source; without `overhang` it is floor. At 55, 27 and 13 with 3/2
  no window does, and the two agree.
  """
  return _pool(x, -np.inf, lax.max, size, stride, overhang)


def avg_pool(
  x: jax.Array, *, size: int = 3, stride: int = 2, overhang: bool = True
) -> jax.Array:
  """The mean of each window's places inside the map; windows as `max_pool`."""
  sums = _pool(x, 0, lax.add, size, stride, overhang)
  places = np.ones((1, *x.shape[1:3], 1), x.dtype)
  return sums / _pool(places, 0, lax.add, size, stride, overhang)


def _pool(x, empty, reduce, size, stride, overhang):
  after = [
    -(length - size) % stride if overhang else 0 for length in x.shape[1:3]
  ]
  return lax.reduce_window(
    x,
    np.array(empty, x.dtype),
    reduce,
    window_dimensions=(1, size, size, 1),
    window_strides=(1, stride, stride, 1),
    padding=((0, 0), (0, after[0]), (0, after[1]), (0, 0)),
  )


def dropout(
  x: jax.Array,
  keys: jax.Array | None,
  *,
  rate: float = 0.5,
  inverted: bool = False,
) -> jax.Array:
  """Section 4.2: units set to zero in training, scaled down in evaluation.

  Nothing is rescaled in training, unless it is "inverted" dropout: that scales
  up in training and leaves evaluation alone.

  Args:
    x: f32[B,...].
    keys: key<fry>[B], one an example; None in evaluation.

  Returns:
    f32[B,...].
  """
  if inverted:
    x = x / (1 - rate)
  if keys is None:
    return x * (1 - rate)
  kept = np.float32(1 - rate)  # the same draws in float64
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, kept, x.shape[1:]))(
    keys
  )
  return jnp.where(keep, x, jnp.zeros((), x.dtype))
