"""The layers as the paper defines them (sections 3 and 4), on one device."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from alexnet_jax.model import kernels
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.model.sharding import DATA


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`jax.random.normal`, drawn along one axis and reshaped.

  The values are the same. For CPUs XLA compiles the drawing of a kernel's four
  axes up to ten times longer.
  """
  return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


class Conv(nnx.Module):
  """A convolution, NHWC.

  Attributes:
    kernel: f32[size, size, in_features / groups, features], normal.
    bias: f32[features], constant.
  """

  def __init__(self, inputs: tuple[int, ...], layer: Layer, key: jax.Array):
    """Draws the initial weights.

    Args:
      inputs: (height, width, in_features).
      layer: the sizes and the initial values.
      key: key<fry>[], for the weights.
    """
    in_features = inputs[-1] // layer.groups
    shape = (layer.size, layer.size, in_features, layer.features)
    self.kernel = nnx.Param(layer.std * normal(key, shape))
    self.bias = nnx.Param(jnp.full(layer.features, layer.bias, jnp.float32))
    self.layer = layer

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,H,W,in_features] -> f32[B,H',W',features]."""
    y = kernels.convolve(
      x,
      self.kernel[...],
      stride=self.layer.stride,
      padding=self.layer.padding,
      groups=self.layer.groups,
    )
    return kernels.add_bias(y, self.bias[...].reshape(1, 1, 1, -1))


class LocalConv(nnx.Module):
  """Like `Conv`, but every position has kernels and biases of its own.

  `local` of cuda-convnet, which trained the "four-layer" networks of section
  3.3 with it.

  Attributes:
    kernel: f32[H',W',size,size,in_features,features], normal.
    bias: f32[H',W',features], constant.
  """

  def __init__(self, inputs: tuple[int, ...], layer: Layer, key: jax.Array):
    """Draws the initial weights; arguments as `Conv`."""
    height, width = [
      (length + sum(layer.padding) - layer.size) // layer.stride + 1
      for length in inputs[:2]
    ]
    shape = (layer.size, layer.size, inputs[-1], layer.features)
    shape = (height, width, *shape)
    self.kernel = nnx.Param(layer.std * normal(key, shape))
    bias = jnp.full((height, width, layer.features), layer.bias, jnp.float32)
    self.bias = nnx.Param(bias)
    self.layer = layer

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,H,W,in_features] -> f32[B,H',W',features]."""
    height, width = self.bias.shape[:2]
    size, stride, padding = (
      self.layer.size,
      self.layer.stride,
      self.layer.padding,
    )
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    y = self.bias[...][jnp.newaxis]
    kernel = kernels.cast_like(x, self.kernel[...])
    for i in range(size):
      for j in range(size):
        rows = slice(i, i + stride * (height - 1) + 1, stride)
        columns = slice(j, j + stride * (width - 1) + 1, stride)
        product = jnp.einsum(
          "bhwc,hwcf->bhwf", x[:, rows, columns], kernel[:, :, i, j]
        )
        y = y + kernels.at_least_float32(product)
    return y.astype(x.dtype)


class Linear(nnx.Module):
  """A fully connected layer.

  Attributes:
    kernel: f32[in_features, features], normal.
    bias: f32[features], constant; absent when the layer has no bias.
  """

  def __init__(self, inputs: tuple[int, ...], layer: Layer, key: jax.Array):
    """Draws the initial weights; `inputs` is (in_features,), see `Conv`."""
    shape = (*inputs, layer.features)
    self.kernel = nnx.Param(layer.std * normal(key, shape))
    if layer.bias is not None:
      self.bias = nnx.Param(jnp.full(layer.features, layer.bias, jnp.float32))

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,in_features] -> f32[B,features]."""
    y = x @ kernels.cast_like(x, self.kernel[...])
    if hasattr(self, "bias"):
      y = kernels.add_bias(y, self.bias[...].reshape(1, -1))
    return y


class BatchNorm(nnx.Module):
  """Batch normalisation (Ioffe and Szegedy, 2015) inside one tower.

    y = scale * (x - mean) / sqrt(variance + epsilon) + offset

  Mean and variance belong to one map (over images, rows and columns) or one
  unit (over images). In training they are those of the whole batch, whichever
  devices it is on; in evaluation they are running averages. The variance is
  the biased one in both. Placeholders for images that could not be decoded
  count as images.

  Attributes:
    scale, offset: f32[features], parameters; initially 1 and 0.
    mean, variance: f32[features], running averages; initially 0 and 1.
  """

  def __init__(self, features: int, network: Network):
    self.scale = nnx.Param(jnp.ones(features, jnp.float32))
    self.offset = nnx.Param(jnp.zeros(features, jnp.float32))
    self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
    self.variance = nnx.BatchStat(jnp.ones(features, jnp.float32))
    self.momentum = network.batch_norm_momentum
    self.epsilon = network.batch_norm_epsilon

  def __call__(self, x: jax.Array, training: bool) -> jax.Array:
    """f32[B,...,features] -> the same; in training it updates the averages."""
    a = kernels.at_least_float32(x)
    if training:
      # Over "data" only: no tower needs to know another tower's statistics.
      axes = tuple(range(x.ndim - 1))
      mean = lax.pmean(a.mean(axes), DATA)
      centred = a - self._like(a, mean)
      variance = lax.pmean(jnp.square(centred).mean(axes), DATA)
      self._update(self.mean, mean)
      self._update(self.variance, variance)
    else:
      centred = a - self._like(a, self.mean[...])
      variance = self.variance[...]
    factor = self.scale[...] * lax.rsqrt(variance + self.epsilon)
    y = centred * self._like(a, factor) + self._like(a, self.offset[...])
    return y.astype(x.dtype)

  def _like(self, x, vector):
    return vector.reshape(*[1] * (x.ndim - 1), -1)

  def _update(self, average, value):
    kept = self.momentum * average[...]
    average[...] = kept + (1 - self.momentum) * lax.stop_gradient(value)


# The steps that have parameters or running averages: a class each, made from
# (features, network) and called with (x, training). Parameters are `nnx.Param`,
# running averages `nnx.BatchStat`, both f32[features].
STEP_MODULES = {"batch_norm": BatchNorm}


def make_layer(
  inputs: tuple[int, ...], layer: Layer, network: Network, key: jax.Array
) -> Conv | LocalConv | Linear:
  """A layer with initial weights, and the modules of the steps that follow it.

  Args:
    inputs: (height, width, in_features), or (in_features,) of a `Linear`.
    layer: the sizes and the initial values.
    network: the constants of the steps.
    key: key<fry>[], for the weights.

  Returns:
    The layer; a step with parameters is its attribute, such as `batch_norm`.
  """
  kind = LocalConv if layer.local else Conv if layer.size else Linear
  module = kind(inputs, layer, key)
  for step in layer.then:
    if step in STEP_MODULES:
      setattr(module, step, STEP_MODULES[step](layer.features, network))
  return module


def apply_step(
  step: str,
  x: jax.Array,
  *,
  layer: Conv | LocalConv | Linear,
  network: Network,
  keys: jax.Array | None,
) -> jax.Array:
  """Runs one step that follows a layer of a tower.

  Args:
    step: such as "relu".
    x: f32[B,H,W,C] or f32[B,units], of one tower.
    layer: the layer that the step follows, with the step's parameters.
    network: the constants of the step.
    keys: key<fry>[B], for dropout; None in evaluation.
  """
  match step:
    case "relu":
      return jax.nn.relu(x)
    case "tanh":
      return jnp.tanh(x)
    case "sigmoid":
      return jax.nn.sigmoid(x)
    case "lrn":
      return kernels.local_response_norm(
        x,
        k=network.lrn_k,
        n=network.lrn_n,
        alpha=network.lrn_alpha,
        beta=network.lrn_beta,
      )
    case "within_map_norm":
      return within_map_norm(
        x,
        k=network.within_map_k,
        n=network.within_map_n,
        alpha=network.within_map_alpha,
        beta=network.within_map_beta,
      )
    case "pool" | "avg_pool":
      pool = kernels.max_pool if step == "pool" else avg_pool
      return pool(
        x,
        size=network.pool_size,
        stride=network.pool_stride,
        overhang=network.pool_overhang,
      )
    case "dropout":
      return dropout(
        x, keys, rate=network.dropout_rate, inverted=network.dropout_inverted
      )
  return getattr(layer, step)(x, training=keys is not None)


def local_response_norm(
  x: jax.Array, *, k: float, n: int, alpha: float, beta: float
) -> jax.Array:
  """Section 3.3: divides each map by the activity of its n neighbours.

    b = a / (k + alpha * sum_j a_j^2)^beta

  where j runs over the n maps centred on a's own, as far as they exist. The sum
  is not divided by n.

  Args:
    x: f32[B,H,W,C], the maps of one tower.

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
  """Like `local_response_norm`, but over n x n positions of the same map.

  Not in the paper; `rnorm` of the 2012 source, whose alpha is the configured
  scale divided by n^2. Positions outside the map count as 0.

  Args:
    x: f32[B,H,W,C].

  Returns:
    f32[B,H,W,C].
  """
  around = (n // 2, n - 1 - n // 2)
  a = kernels.at_least_float32(x)
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
  x: jax.Array, *, size: int, stride: int, overhang: bool
) -> jax.Array:
  """Section 3.4: overlapping max-pooling, f32[B,H,W,C] -> f32[B,H',W',C].

  With `overhang` the last window may extend beyond the edge, as in the 2012
  source: H' = 1 + ceil((H - size) / stride); without, it is floor. For maps of
  55, 27 and 13 with 3/2 both are the same.
  """
  return _pool(x, -np.inf, lax.max, size, stride, overhang)


def avg_pool(
  x: jax.Array, *, size: int, stride: int, overhang: bool
) -> jax.Array:
  """The mean of each window's positions inside the map; see `max_pool`."""
  sums = _pool(x, 0, lax.add, size, stride, overhang)
  positions = np.ones((1, *x.shape[1:3], 1), x.dtype)
  return sums / _pool(positions, 0, lax.add, size, stride, overhang)


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
  x: jax.Array, keys: jax.Array | None, *, rate: float, inverted: bool
) -> jax.Array:
  """Section 4.2: sets units to 0 in training, scales all down in evaluation.

  Args:
    x: f32[B,...].
    keys: key<fry>[B], one per example; None in evaluation.
    rate: the share of units that are set to 0.
    inverted: scale up in training instead, and leave evaluation alone.

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
