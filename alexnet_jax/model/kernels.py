"""Faster forms of the expensive layers.

`layers.py` has the definitions. These functions return the same values and
gradients; tests compare them. Each has a hand-written derivative
(`jax.custom_jvp`) in a form whose transpose, from which JAX makes the gradient,
is fast on a CPU. So both modes of differentiation work, to any order.
docs/performance.md says what each of them saves, and what else was tried.
"""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from alexnet_jax.model import sharding
from alexnet_jax.model.shapes import count_windows

# The gradient of a kernel as one matrix product copies x and g once for each
# position of the kernel along an axis. More than 5 were not measured.
_MAX_POSITIONS = 5
# With fewer input channels the matrices are too narrow to be faster.
_FEW_CHANNELS = 16


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  stride: int = 1,
  padding: tuple[int, int] = (0, 0),
  groups: int = 1,
  precision: lax.Precision = lax.Precision.HIGHEST,
) -> jax.Array:
  """A convolution: f32[B,H,W,C], f32[n,n,C/groups,F] -> f32[B,H',W',F].

  H' = 1 + floor((H + sum(padding) - n) / stride). The result has the dtype of
  x; the kernel may have a wider one. The gradients have the same precision.
  """
  kernel = cast_like(x, kernel)
  if groups > 1 or -(-kernel.shape[0] // stride) > _MAX_POSITIONS:
    return _convolve_definition(x, kernel, stride, padding, precision, groups)
  # Made to differ along the same axes here: the gradients are then summed over
  # devices here, and not inside the branches of `platform_dependent`.
  axes = sharding.varying(x) | sharding.varying(kernel)
  x, kernel = (sharding.vary(a, axes) for a in (x, kernel))
  return _convolve(x, kernel, stride, padding, precision)


def cast_like(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """The kernel in the dtype of x.

  It is made each device's own before it is rounded. The gradients of several
  devices are then summed in the kernel's dtype, not in that of x.
  """
  if kernel.dtype == x.dtype:
    return kernel
  return sharding.vary(kernel, sharding.varying(x)).astype(x.dtype)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
  """y + bias in y's dtype; the bias's gradient is summed in the bias's."""
  bias = sharding.vary(bias, sharding.varying(y))
  if bias.dtype == y.dtype:
    return y + bias
  # cuDNN adds a bias to its convolution in the convolution's dtype alone.
  return lax.platform_dependent(
    y, bias, cuda=_add_rounded_bias, default=_add_wide_bias
  )


def _add_wide_bias(y, bias):
  return (at_least_float32(y) + bias).astype(y.dtype)


@jax.custom_jvp
def _add_rounded_bias(y, bias):
  return y + bias.astype(y.dtype)


@_add_rounded_bias.defjvp
def _rounded_bias_derivative(primals, tangents):
  return _add_rounded_bias(*primals), _add_wide_bias(*tangents)


def _add(parts):
  """Their sum, unlike `sum` without a 0, whose gradient would be traced too."""
  return functools.reduce(operator.add, parts)


def _convolve_definition(x, kernel, stride, padding, precision, groups=1):
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=(padding, padding),
    feature_group_count=groups,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=precision,
  )


def window(x: jax.Array, axis: int, start: int, length: int) -> jax.Array:
  """x[start : start + length] along an axis, with 0 beyond its ends."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (-start, start + length - x.shape[axis], 0)
  return lax.pad(x, np.zeros((), x.dtype), config)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolve(x, kernel, stride, padding, precision):
  def with_fourth_channel(x, kernel):
    # Three channels do not fill the processor's vectors.
    x, kernel = window(x, 3, 0, 4), window(kernel, 2, 0, 4)
    return _convolve_definition(x, kernel, stride, padding, precision)

  def definition(x, kernel):
    return _convolve_definition(x, kernel, stride, padding, precision)

  def by_blocks(x, kernel):
    return convolve_blocks(x, kernel, stride, padding, precision)

  if x.shape[3] != 3:
    return definition(x, kernel)
  # Nor do they fill the tiles of a GPU's matrix units.
  return lax.platform_dependent(
    x,
    kernel,
    cpu=with_fourth_channel,
    cuda=by_blocks if stride > 1 else definition,
    default=definition,
  )


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_derivative(stride, padding, precision, primals, tangents):
  """A convolution is linear in each argument; the kernel's part is special."""
  x, kernel = primals
  by_x, by_kernel = tangents
  sizes = stride, padding, precision
  y = _convolve(x, kernel, *sizes)
  parts = []
  if not isinstance(by_x, SymbolicZero):
    parts.append(_convolve_definition(by_x, kernel, *sizes))
  if not isinstance(by_kernel, SymbolicZero):
    parts.append(_convolve_by_matrices(x, by_kernel, *sizes))
  return y, _add(parts) if parts else jnp.zeros_like(y)


def _convolve_by_matrices(x, kernel, stride, padding, precision):
  """A convolution that JAX differentiates by the kernel faster on a CPU."""

  def definition(x, kernel):
    return _convolve_definition(x, kernel, stride, padding, precision)

  def by_matrices(x, kernel):
    out = _output_sides(x, kernel, stride, padding)
    if stride == 1:
      return _convolve_as_product(x, kernel, out, before=padding[0])
    x, kernel = _blocks(x, kernel, stride, padding)
    return _convolve_as_product(x, kernel, out, before=0)

  def by_blocks(x, kernel):
    return convolve_blocks(x, kernel, stride, padding, precision)

  if stride == 1 and x.shape[3] < _FEW_CHANNELS:
    return definition(x, kernel)
  return lax.platform_dependent(
    x,
    kernel,
    cpu=by_matrices,
    cuda=by_blocks if x.shape[3] == 3 and stride > 1 else definition,
    default=definition,
  )


def _output_sides(x, kernel, stride, padding):
  """Height and width of the result of a convolution."""
  return [
    (length + sum(padding) - kernel.shape[0]) // stride + 1
    for length in x.shape[1:3]
  ]


def convolve_blocks(
  x: jax.Array,
  kernel: jax.Array,
  stride: int,
  padding: tuple[int, int],
  precision: lax.Precision = lax.Precision.HIGHEST,
) -> jax.Array:
  """A convolution with a stride, as one over blocks of pixels without.

  f32[B,H,W,C], f32[n,n,C,F] -> f32[B,H',W',F], as `convolve` without groups.
  """
  x, kernel = _blocks(x, kernel, stride, padding)
  return _convolve_definition(x, kernel, 1, (0, 0), precision)


def _blocks(x, kernel, stride, padding):
  """The same convolution with stride 1.

  Its input has a block of stride x stride pixels at each position (224 x 224 x
  3 with stride 4 becomes 57 x 57 x 48), and its kernel is padded with zeros and
  divided likewise (11 x 11 x 3 becomes 3 x 3 x 48).
  """
  size, _, channels, features = kernel.shape
  out, before = _output_sides(x, kernel, stride, padding), padding[0]
  count = -(-size // stride)  # blocks of the kernel along an axis
  height, width = [length + count - 1 for length in out]  # of x, in blocks
  x = window(x, 1, -before, stride * height)
  x = window(x, 2, -before, stride * width)
  x = x.reshape(-1, height, stride, width, stride, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(-1, height, width, stride**2 * channels)
  for axis in (0, 1):
    kernel = window(kernel, axis, 0, stride * count)
  kernel = kernel.reshape(count, stride, count, stride, channels, features)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
  return x, kernel.reshape(count, count, stride**2 * channels, features)


def _convolve_as_product(x, kernel, out, before):
  """A convolution of stride 1 as one large matrix product.

  Copies of x shifted along a row for each column j of the kernel, side by side,
  times a size*C by size*F matrix give for each row i of the kernel its part of
  the result, which is shifted along a column. The gradient of the kernel is
  then one product too: of these copies of x and copies of the result's
  gradient, shifted for each i.
  """
  size, features = kernel.shape[0], kernel.shape[-1]
  height, width = x.shape[1], out[1]
  moved_x = jnp.concatenate(
    [window(x, 2, j - before, width) for j in range(size)], axis=-1
  )
  matrix = kernel.transpose(1, 2, 0, 3).reshape(moved_x.shape[-1], -1)
  # `by_matrices` runs on CPUs alone, which know one precision.
  product = moved_x.reshape(-1, moved_x.shape[-1]) @ matrix
  product = product.reshape(-1, height, width, size * features)
  rows = lax.split(product, [features] * size, axis=3)
  return _add(
    [window(row, 1, i - before, out[0]) for i, row in enumerate(rows)]
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def local_response_norm(
  x: jax.Array, k: float, n: int, alpha: float, beta: float
) -> jax.Array:
  """`layers.local_response_norm`, with one power where its derivative has two.

  With s = k + alpha * sum_j a_j^2, the derivative in the direction d is

    (d - 2 alpha beta a sum_j (a_j d_j) / s) s^-beta.
  """
  a = at_least_float32(x)
  s = k + alpha * sum_neighbours(a * a, n, before=n // 2)
  return (a * power(s, beta)).astype(x.dtype)


@local_response_norm.defjvp
def _norm_derivative(k, n, alpha, beta, primals, tangents):
  (x,), (d,) = primals, tangents
  y = local_response_norm(x, k, n, alpha, beta)
  a, d = at_least_float32(x), at_least_float32(d)
  s = k + alpha * sum_neighbours(a * a, n, before=n // 2)
  others = sum_neighbours(2 * alpha * beta * a * d, n, before=n // 2) / s * a
  return y, ((d - others) * power(s, beta)).astype(x.dtype)


def at_least_float32(x: jax.Array) -> jax.Array:
  """x for sums and roots, for which the 8 bits of bfloat16 are too few."""
  return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def sum_neighbours(
  x: jax.Array, n: int, before: int, axes: tuple[int, ...] = (3,)
) -> jax.Array:
  """For each unit the sum over n along `axes`, from `before` units earlier on.

  f32[B,H,W,C] -> the same. Beyond the ends of an axis there are zeros.
  """
  sizes = tuple(n if i in axes else 1 for i in range(4))
  padding = [
    (before, n - 1 - before) if i in axes else (0, 0) for i in range(4)
  ]
  zero = np.zeros((), x.dtype)
  return lax.reduce_window(x, zero, lax.add, sizes, (1, 1, 1, 1), padding)


def power(s: jax.Array, beta: float) -> jax.Array:
  """s^-beta; for the paper's 3/4 by two roots, since a power is slow."""
  if beta == 0.75:
    root = lax.rsqrt(s)
    return root * lax.sqrt(root)
  return s**-beta


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, size: int, stride: int, overhang: bool) -> jax.Array:
  """`layers.max_pool`; for its backward pass it keeps one byte per window.

  The byte says which unit of the window is the largest. If several are, the
  first of them (by row, then by column) gets the gradient, as in `layers`.
  """
  for axis in (2, 1):
    x = functools.reduce(jnp.maximum, places(x, axis, size, stride, overhang))
  return x


def places(
  x: jax.Array, axis: int, size: int, stride: int, overhang: bool
) -> list[jax.Array]:
  """Along an axis: the first units of all windows, the second units, ..."""
  windows = count_windows(x.shape[axis], size, stride, overhang)
  limit = stride * (windows - 1) + 1
  beyond = limit - 1 + size - x.shape[axis]
  if beyond > 0:
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (0, beyond, 0)
    x = lax.pad(x, np.array(-np.inf, x.dtype), config)
  return [
    lax.slice_in_dim(x, place, place + limit, stride, axis)
    for place in range(size)
  ]


@max_pool.defjvp
def _max_pool_derivative(size, stride, overhang, primals, tangents):
  (x,), (d,) = primals, tangents
  y = max_pool(x, size, stride, overhang)
  units = [
    unit
    for row in places(x, 1, size, stride, overhang)
    for unit in places(row, 2, size, stride, overhang)
  ]
  winner = jnp.zeros(y.shape, np.min_scalar_type(size * size))
  for place, unit in reversed(list(enumerate(units))):
    winner = jnp.where(unit == y, np.array(place, winner.dtype), winner)
  return y, pick(d, winner, size, stride)


def pick(x: jax.Array, winner: jax.Array, size: int, stride: int) -> jax.Array:
  """The unit of each window that `winner` names, as JAX differentiates it fast.

  Windows overlap, so a unit belongs to several. Along one axis, for size 3 and
  stride 2 (the numbers are places in a window):

    unit        0   1   2   3   4   5   6
    window 0    0   1   2
    window 1            0   1   2
    window 2                    0   1   2
    block     |   0   |   1   |   2   |     `stride` units each

  A unit of block b has, in window b, a place equal to its position in the
  block. In window b - 1 its place is `stride` higher, in window b - 2 twice
  that, and so on, while it is below `size`. The loop below picks, for all
  windows at once, the unit from the block itself, 1 block further on, and so
  on. The transpose adds up, for all units at once, the gradients of the windows
  that have picked it. (To pick from one slice of x for each of the size * size
  places is less code, and its transpose is four times slower on a CPU.)
  """
  windows = winner.shape[1:3]
  windows_of_a_unit = -(-size // stride)  # at most, along one axis
  blocks = [count + windows_of_a_unit - 1 for count in windows]
  x = window(window(x, 1, 0, stride * blocks[0]), 2, 0, stride * blocks[1])
  x = x.reshape(-1, blocks[0], stride, blocks[1], stride, x.shape[-1])

  def of_window(x, back):
    """For each block, x of the window so far back; the same for all units."""
    for axis in (1, 2):
      x = window(x, axis, -back[axis - 1], blocks[axis - 1])
    return x[:, :, None, :, None, :]  # [B,block,unit,block,unit,C]

  picked = []
  for back in itertools.product(reversed(range(windows_of_a_unit)), repeat=2):
    row = stride * back[0] + np.arange(stride)[:, None]
    column = stride * back[1] + np.arange(stride)
    inside = np.maximum(row, column) < size
    place = np.where(inside, size * row + column, size**2)  # size**2: none
    place = place.astype(winner.dtype).reshape(1, 1, stride, 1, stride, 1)
    won = of_window(winner, back) == place
    unit = jnp.where(won, x, np.zeros((), x.dtype)).sum((2, 4))
    for axis in (1, 2):
      unit = window(unit, axis, back[axis - 1], windows[axis - 1])
    picked.append(unit)
  return _add(picked)
