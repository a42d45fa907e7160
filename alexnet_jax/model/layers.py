"""The layers as the paper defines them (sections 3 and 4), on one device."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from alexnet_jax.model import kernels, norm_pool, sharding
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.model.shapes import count_windows


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`jax.random.normal`: the same values, and XLA compiles it much faster."""
  return jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)


class Conv(nnx.Module):
  """A convolution, NHWC.

  Attributes:
    kernel: f32[size, size, in_features / groups, features], normal.
    bias: f32[features], constant.
  """

  precision = lax.Precision.HIGHEST  # of the products; see `make_layer`

  def __init__(self, inputs: tuple[int, ...], layer: Layer, key: jax.Array):
    in_features = inputs[-1] // layer.groups
    shape = (layer.size, layer.size, in_features, layer.features)
    self.kernel = nnx.Param(layer.std * normal(key, shape))
    self.bias = nnx.Param(jnp.full(layer.features, layer.bias, jnp.float32))
    self.layer = layer

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,H,W,in_features] -> f32[B,H',W',features]."""
    stride, padding = self.layer.stride, self.layer.padding
    groups, precision = self.layer.groups, self.precision
    y = kernels.convolve(
      x, self.kernel[...], stride, padding, groups, precision
    )
    return kernels.add_bias(y, self.bias[...].reshape(1, 1, 1, -1))


class LocalConv(nnx.Module):
  """Like `Conv`, but every position has kernels and biases of its own.

  `local` of cuda-convnet, in the "four-layer" networks of section 3.3.

  Attributes:
    kernel: f32[H',W',size,size,in_features,features], normal.
    bias: f32[H',W',features], constant.
  """

  precision = lax.Precision.HIGHEST  # of the products; see `make_layer`

  def __init__(self, inputs: tuple[int, ...], layer: Layer, key: jax.Array):
    height, width = [
      (length + sum(layer.padding) - layer.size) // layer.stride + 1
      for length in inputs[:2]
    ]
    window = (layer.size, layer.size, inputs[-1])
    shape = (height, width, *window, layer.features)
    self.kernel = nnx.Param(layer.std * normal(key, shape))
    bias = jnp.full((height, width, layer.features), layer.bias, jnp.float32)
    self.bias = nnx.Param(bias)
    self.layer = layer

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,H,W,in_features] -> f32[B,H',W',features]."""
    height, width = self.bias.shape[:2]
    stride, padding = self.layer.stride, self.layer.padding
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    y = self.bias[...][jnp.newaxis]
    kernel = kernels.cast_like(x, self.kernel[...])
    for i, j in np.ndindex(self.layer.size, self.layer.size):
      units = x[:, i::stride, j::stride][:, :height, :width]
      part = kernel[:, :, i, j]
      product = jnp.einsum(
        "bhwc,hwcf->bhwf", units, part, precision=self.precision
      )
      y = y + kernels.at_least_float32(product)
    return y.astype(x.dtype)


class Linear(nnx.Module):
  """A fully connected layer.

  Attributes:
    kernel: f32[in_features, features], normal.
    bias: f32[features], constant; absent when the layer has no bias.
  """

  precision = lax.Precision.HIGHEST  # of the products; see `make_layer`

  def __init__(self, inputs: tuple[int, ...], layer: Layer, key: jax.Array):
    shape = (*inputs, layer.features)
    self.kernel = nnx.Param(layer.std * normal(key, shape))
    if layer.bias is not None:
      self.bias = nnx.Param(jnp.full(layer.features, layer.bias, jnp.float32))

  def __call__(self, x: jax.Array) -> jax.Array:
    """f32[B,...], of in_features units -> f32[B,features]."""
    x = x.reshape(x.shape[0], -1)
    kernel = kernels.cast_like(x, self.kernel[...])
    y = jnp.matmul(x, kernel, precision=self.precision)
    if hasattr(self, "bias"):
      y = kernels.add_bias(y, self.bias[...].reshape(1, -1))
    return y


class BatchNorm(nnx.Module):
  """Batch normalisation (Ioffe and Szegedy, 2015) inside one tower.

    y = scale * (x - mean) / sqrt(variance + epsilon) + offset

  Mean and variance belong to one map (over images, rows and columns) or one
  unit (over images): in training those of the whole batch, on all devices; in
  evaluation running averages. The variance is the biased one in both.
  Placeholders for images that could not be decoded count as images.

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
    axes = tuple(range(x.ndim - 1))
    row = (*[1] * len(axes), -1)  # the shape in which a vector meets x
    if training:
      # Over "data" only: no tower needs to know another tower's statistics.
      mean = sharding.batch_mean(a.mean(axes))
      centred = a - mean.reshape(row)
      variance = sharding.batch_mean(jnp.square(centred).mean(axes))
      for average, value in ((self.mean, mean), (self.variance, variance)):
        new = (1 - self.momentum) * lax.stop_gradient(value)
        average[...] = self.momentum * average[...] + new
    else:
      centred = a - self.mean[...].reshape(row)
      variance = self.variance[...]
    factor = self.scale[...] * lax.rsqrt(variance + self.epsilon)
    y = centred * factor.reshape(row) + self.offset[...].reshape(row)
    return y.astype(x.dtype)


# The steps that have parameters or running averages: a class each, made from
# (features, network) and called with (x, training). Parameters are `nnx.Param`,
# running averages `nnx.BatchStat`, both f32[features].
STEP_MODULES = {"batch_norm": BatchNorm}

# `Network.precision` as JAX calls it. HIGH is TF32 on GPUs that have it.
PRECISION = {
  "float32": lax.Precision.HIGHEST,
  "tf32": lax.Precision.HIGH,
  "default": lax.Precision.DEFAULT,
}


def make_layer(
  inputs: tuple[int, ...], layer: Layer, network: Network, key: jax.Array
) -> Conv | LocalConv | Linear:
  """A layer with initial weights; steps with parameters are its attributes.

  Args:
    inputs: (height, width, in_features), or (in_features,) of a `Linear`.
    layer: the sizes and the initial values.
    network: the constants of the steps, such as `batch_norm_epsilon`.
    key: key<fry>[], from which the weights are drawn.
  """
  kind = LocalConv if layer.local else Conv if layer.size else Linear
  module = kind(inputs, layer, key)
  single = network.compute_dtype == "float32"
  module.precision = PRECISION[network.precision if single else "default"]
  for step in layer.then:
    if step in STEP_MODULES:
      setattr(module, step, STEP_MODULES[step](layer.features, network))
  return module


def apply_layers(
  modules: Sequence[Conv | LocalConv | Linear], x: Sequence[jax.Array]
) -> list[jax.Array]:
  """The result of each tower's layer, for what that tower reads.

  On NVIDIA GPUs, convolutions that read the same maps are one convolution with
  the features of all: it reads the maps once.

  Args:
    modules: the same layer of each tower of this device.
    x: what each of them reads, f32[B,H,W,C] or f32[B,units].

  Returns:
    One result for each tower, f32[B,H',W',features] or f32[B,features].
  """
  same = all(maps is x[0] for maps in x)
  convolutions = isinstance(modules[0], Conv) and modules[0].layer.groups == 1
  if len(modules) == 1 or not same or not convolutions:
    return [module(maps) for module, maps in zip(modules, x, strict=True)]

  def one_by_one(x, *modules):
    return [module(x) for module in modules]

  def at_once(x, *modules):
    every = jax.tree.map(lambda *a: jnp.concatenate(a, axis=-1), *modules)
    return jnp.split(every(x), len(modules), axis=-1)

  # As in `kernels.convolve`, gradients are not summed inside the branches.
  axes = set().union(*map(sharding.varying, jax.tree.leaves((x[0], modules))))
  maps, modules = jax.tree.map(
    lambda a: sharding.vary(a, axes), (x[0], tuple(modules))
  )
  return lax.platform_dependent(
    maps, *modules, cuda=at_once, default=one_by_one
  )


def apply_steps(
  steps: tuple[str, ...],
  x: jax.Array,
  *,
  layer: Conv | LocalConv | Linear,
  network: Network,
  keys: jax.Array | None,
) -> jax.Array:
  """Applies the steps that follow a layer in turn, as `apply_step` does each.

  A normalisation and the pooling right after it are given to one function,
  which computes them together where that is faster.
  """
  norm = network.lrn_k, network.lrn_n, network.lrn_alpha, network.lrn_beta
  pool = network.pool_size, network.pool_stride, network.pool_overhang
  rest = list(steps)
  while rest:
    step = rest.pop(0)
    if step == "lrn" and rest[:1] == ["pool"]:
      del rest[0]
      x = norm_pool.normalise_and_pool(x, norm, pool)
    else:
      x = apply_step(step, x, layer=layer, network=network, keys=keys)
  return x


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
    layer: the layer before it, with the parameters of the step, if any.
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
        x, network.lrn_k, network.lrn_n, network.lrn_alpha, network.lrn_beta
      )
    case "within_map_norm":
      return within_map_norm(
        x,
        network.within_map_k,
        network.within_map_n,
        network.within_map_alpha,
        network.within_map_beta,
      )
    case "pool" | "avg_pool":
      pool = kernels.max_pool if step == "pool" else avg_pool
      size, stride = network.pool_size, network.pool_stride
      return pool(x, size, stride, network.pool_overhang)
    case "global_avg_pool":  # the mean of all positions (not in the paper)
      return x.mean((1, 2), keepdims=True)
    case "dropout":
      return dropout(x, keys, network.dropout_rate, network.dropout_inverted)
    case "dropout_mean":
      return dropout(x, None, network.dropout_rate, network.dropout_inverted)
  return getattr(layer, step)(x, training=keys is not None)


def local_response_norm(
  x: jax.Array, k: float, n: int, alpha: float, beta: float
) -> jax.Array:
  """Section 3.3: divides each map by the activity of its n neighbours.

    b = a / (k + alpha * sum_j a_j^2)^beta

  where j runs over the n maps centred on a's own, as far as they exist. The sum
  is not divided by n. f32[B,H,W,C], the maps of one tower -> the same.
  """
  squares = kernels.sum_neighbours(x * x, n, before=n // 2)
  return x * (k + alpha * squares) ** -beta


def within_map_norm(
  x: jax.Array, k: float, n: int, alpha: float, beta: float
) -> jax.Array:
  """Like `local_response_norm`, but over n x n positions of the same map.

  Not in the paper; `rnorm` of the 2012 source, whose alpha is the configured
  scale divided by n^2. Positions outside the map count as 0.
  """
  a = kernels.at_least_float32(x)
  squares = kernels.sum_neighbours(a * a, n, before=n // 2, axes=(1, 2))
  return (a * (k + alpha * squares) ** -beta).astype(x.dtype)


def max_pool(x: jax.Array, size: int, stride: int, overhang: bool) -> jax.Array:
  """Section 3.4: overlapping max-pooling, f32[B,H,W,C] -> f32[B,H',W',C].

  With `overhang` the last window may extend beyond the edge, as in the 2012
  source: H' = 1 + ceil((H - size) / stride); without, it is floor. For maps of
  55, 27 and 13 with 3/2 both are the same. No window lies beyond the edge.
  """
  return _pool(x, -np.inf, lax.max, size, stride, overhang)


def avg_pool(x: jax.Array, size: int, stride: int, overhang: bool) -> jax.Array:
  """The mean of each window's positions inside the map; see `max_pool`."""
  sums = _pool(x, 0, lax.add, size, stride, overhang)
  positions = np.ones((1, *x.shape[1:3], 1), x.dtype)
  return sums / _pool(positions, 0, lax.add, size, stride, overhang)


def _pool(x, empty, reduce, size, stride, overhang):
  rest = [
    stride * (count_windows(length, size, stride, overhang) - 1) + size - length
    for length in x.shape[1:3]
  ]
  padding = ((0, 0), *((0, max(0, beyond)) for beyond in rest), (0, 0))
  window, strides = (1, size, size, 1), (1, stride, stride, 1)
  empty = np.array(empty, x.dtype)
  return lax.reduce_window(x, empty, reduce, window, strides, padding)


def dropout(
  x: jax.Array, keys: jax.Array | None, rate: float, inverted: bool
) -> jax.Array:
  """Section 4.2: sets units to 0 in training, scales all down in evaluation.

  Args:
    x: f32[B,...], the shape of the result too.
    keys: key<fry>[B], one per example; None in evaluation.
    rate: the share of units that are set to 0.
    inverted: scale up in training instead, and leave evaluation alone.
  """
  if inverted:
    x = x / (1 - rate)
  if keys is None:
    return x * (1 - rate)
  kept = np.float32(1 - rate)  # the same draws in float64
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, kept, x.shape[1:]))
  return jnp.where(draw(keys), x, jnp.zeros((), x.dtype))
