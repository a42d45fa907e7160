"""Faster forms of the expensive layers.

`layers.py` has the definitions. These functions return the same values and
gradients; tests compare them. docs/performance.md says what each of them saves,
and what else was tried.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model import sharding

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
) -> jax.Array:
  """A convolution: f32[B,H,W,C], f32[n,n,C/groups,F] -> f32[B,H',W',F].

  H' = 1 + floor((H + sum(padding) - n) / stride). The result has the dtype of
  x; the kernel may have a wider one.
  """
  kernel = cast_like(x, kernel)
  if groups > 1 or -(-kernel.shape[0] // stride) > _MAX_POSITIONS:
    return _convolve_definition(x, kernel, stride, padding, groups)
  # The hand-written gradients of x and kernel both differ between devices along
  # the axes of either, so shard_map wants both arguments to differ along them.
  axes = sharding.varying(x) | sharding.varying(kernel)
  x, kernel = (sharding.vary(a, axes) for a in (x, kernel))
  return _convolve(x, kernel, stride, padding)


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
  return (at_least_float32(y) + bias).astype(y.dtype)


def _convolve_definition(x, kernel, stride, padding, groups=1):
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=(padding, padding),
    feature_group_count=groups,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _window(x, axis, start, length):
  """x[start : start + length] along an axis, with 0 beyond its ends."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (-start, start + length - x.shape[axis], 0)
  return lax.pad(x, np.zeros((), x.dtype), config)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x, kernel, stride, padding):
  def definition(x, kernel):
    return _convolve_definition(x, kernel, stride, padding)

  def with_fourth_channel(x, kernel):
    # Three channels do not fill the processor's vectors.
    return definition(_window(x, 3, 0, 4), _window(kernel, 2, 0, 4))

  if x.shape[3] != 3:
    return definition(x, kernel)
  return lax.platform_dependent(
    x, kernel, cpu=with_fourth_channel, default=definition
  )


def _convolve_forward(x, kernel, stride, padding):
  return _convolve(x, kernel, stride, padding), (x, kernel)


def _convolve_backward(stride, padding, saved, g):
  x, kernel = saved

  def transposed(x, g):
    return jax.vjp(
      lambda x, k: _convolve_definition(x, k, stride, padding), x, kernel
    )[1](g)

  def by_matrices(x, g):
    if stride == 1:
      return _kernel_gradient(x, g, size=kernel.shape[0], before=padding[0])
    return _strided_kernel_gradient(x, g, kernel.shape, stride, padding[0])

  if stride == 1 and x.shape[3] < _FEW_CHANNELS:
    return transposed(x, g)
  return transposed(x, g)[0], lax.platform_dependent(
    x, g, cpu=by_matrices, default=lambda x, g: transposed(x, g)[1]
  )


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _strided_kernel_gradient(x, g, kernel_shape, stride, before):
  """Like `_kernel_gradient`, of a convolution with a stride.

  It is the same as a convolution of stride 1 whose input has a block of stride
  x stride pixels at each position (224 x 224 x 3 with stride 4 becomes 57 x 57
  x 48), and whose kernel is padded with zeros and divided likewise (11 x 11 x 3
  becomes 3 x 3 x 48).
  """
  size, _, channels, features = kernel_shape
  count = -(-size // stride)  # blocks of the kernel along an axis
  height, width = [length + count - 1 for length in g.shape[1:3]]  # of x
  x = _window(x, 1, -before, stride * height)
  x = _window(x, 2, -before, stride * width)
  x = x.reshape(-1, height, stride, width, stride, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(-1, height, width, stride**2 * channels)
  gradient = _kernel_gradient(x, g, size=count, before=0)
  gradient = gradient.reshape(count, count, stride, stride, channels, features)
  gradient = gradient.transpose(0, 2, 1, 3, 4, 5)
  whole = (stride * count, stride * count, channels, features)
  return gradient.reshape(whole)[:size, :size]


def _kernel_gradient(x, g, *, size, before):
  """The gradient of a kernel as one large matrix product.

  The gradient at position (i, j) of the kernel is the sum over images and
  positions (h, w) of x[h + i - before, w + j - before] * g[h, w]. Copies of x
  shifted for each j and copies of g shifted for each i, side by side, give all
  of them as one product of a size*C by a size*F matrix.
  """
  height, width = x.shape[1], g.shape[2]
  moved_x = jnp.concatenate(
    [_window(x, 2, j - before, width) for j in range(size)], axis=-1
  )
  moved_g = jnp.concatenate(
    [_window(g, 1, before - i, height) for i in range(size)], axis=-1
  )
  product = lax.dot_general(
    moved_x.reshape(-1, moved_x.shape[-1]),
    moved_g.reshape(-1, moved_g.shape[-1]),
    (((0,), (0,)), ((), ())),
  )
  product = product.reshape(size, x.shape[-1], size, g.shape[-1])
  return product.transpose(2, 0, 1, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def local_response_norm(
  x: jax.Array, k: float, n: int, alpha: float, beta: float
) -> jax.Array:
  """`layers.local_response_norm`; its backward pass keeps x and nothing else.

  The gradient, with s = k + alpha * sum_j a_j^2, is

    g s^-beta - 2 alpha beta a sum_j (g_j a_j s_j^(-beta - 1)),

  where the second sum is over the maps that have this one as a neighbour.
  """
  a = at_least_float32(x)
  s = k + alpha * sum_neighbours(a * a, n, before=n // 2)
  return (a * _power(s, beta)).astype(x.dtype)


def _norm_forward(x, k, n, alpha, beta):
  return local_response_norm(x, k, n, alpha, beta), x


def _norm_backward(k, n, alpha, beta, x, g):
  a = at_least_float32(x)
  s = k + alpha * sum_neighbours(a * a, n, before=n // 2)
  scaled = at_least_float32(g) * _power(s, beta)
  others = sum_neighbours(scaled * a / s, n, before=n - 1 - n // 2)
  return ((scaled - 2 * alpha * beta * a * others).astype(x.dtype),)


local_response_norm.defvjp(_norm_forward, _norm_backward)


def at_least_float32(x: jax.Array) -> jax.Array:
  """x for sums and roots, for which the 8 bits of bfloat16 are too few."""
  return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def sum_neighbours(
  x: jax.Array, n: int, before: int, axes: tuple[int, ...] = (3,)
) -> jax.Array:
  """For each unit the sum over n along `axes`, from `before` units earlier on.

  f32[B,H,W,C] -> the same. Beyond the ends of an axis there are zeros.
  """
  window = tuple(n if i in axes else 1 for i in range(4))
  padding = [
    (before, n - 1 - before) if i in axes else (0, 0) for i in range(4)
  ]
  zero = np.zeros((), x.dtype)
  return lax.reduce_window(x, zero, lax.add, window, (1, 1, 1, 1), padding)


def _power(s, beta):
  """s^-beta; for the paper's 3/4 by two roots, since a power is slow."""
  if beta == 0.75:
    root = lax.rsqrt(s)
    return root * lax.sqrt(root)
  return s**-beta


def max_pool(x: jax.Array, size: int, stride: int, overhang: bool) -> jax.Array:
  """`layers.max_pool`; for its backward pass it keeps one byte per window.

  The byte says which unit of the window is the largest. If several are, the
  first of them (by row, then by column) gets the gradient, as in `layers`.
  """
  return _max_pool(x, x.shape[1:3], size, stride, overhang)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x, shape, size, stride, overhang):
  del shape  # for the backward pass
  for axis in (2, 1):
    x = functools.reduce(jnp.maximum, _places(x, axis, size, stride, overhang))
  return x


def _places(x, axis, size, stride, overhang):
  """Along an axis: the first units of all windows, the second units, ..."""
  rest = x.shape[axis] - size
  if overhang:
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (0, -rest % stride, 0)
    x = lax.pad(x, np.array(-np.inf, x.dtype), config)
  windows = 1 + (-(-rest // stride) if overhang else rest // stride)
  limit = stride * (windows - 1) + 1
  return [
    lax.slice_in_dim(x, place, place + limit, stride, axis)
    for place in range(size)
  ]


def _max_pool_forward(x, shape, size, stride, overhang):
  y = _max_pool(x, shape, size, stride, overhang)
  units = [
    unit
    for row in _places(x, 1, size, stride, overhang)
    for unit in _places(row, 2, size, stride, overhang)
  ]
  winner = jnp.zeros(y.shape, np.min_scalar_type(size * size))
  for place, unit in reversed(list(enumerate(units))):
    winner = jnp.where(unit == y, np.array(place, winner.dtype), winner)
  return y, winner


def _max_pool_backward(shape, size, stride, overhang, winner, g):
  """Gives each unit the gradients of the windows in which it is the largest.

  Windows overlap, so a unit belongs to several. Along one axis, for size 3 and
  stride 2 (the numbers are places in a window):

    unit        0   1   2   3   4   5   6
    window 0    0   1   2
    window 1            0   1   2
    window 2                    0   1   2
    block     |   0   |   1   |   2   |     `stride` units each

  A unit of block b has, in window b, a place equal to its position in the
  block. In window b - 1 its place is `stride` higher, in window b - 2 twice
  that, and so on, while it is below `size`. The loop below adds up the windows
  0, 1, ... blocks back, for all blocks at once. (One padded array for each of
  the size * size places is less code, and four times slower on a CPU.)
  """
  del overhang
  windows_of_a_unit = -(-size // stride)  # at most, along one axis
  blocks = [windows + windows_of_a_unit - 1 for windows in g.shape[1:3]]

  def of_window(x, rows_back, columns_back):
    """For each block, x of the window so far back; the same for all units."""
    x = _window(x, 1, -rows_back, blocks[0])
    x = _window(x, 2, -columns_back, blocks[1])
    return x[:, :, None, :, None, :]  # [B,block,unit,block,unit,C]

  gradient = jnp.zeros((), g.dtype)
  for back in itertools.product(range(windows_of_a_unit), repeat=2):
    row = stride * back[0] + np.arange(stride)[:, None]
    column = stride * back[1] + np.arange(stride)
    inside = np.maximum(row, column) < size
    place = np.where(inside, size * row + column, size**2)  # size**2: none
    place = place.astype(winner.dtype).reshape(1, 1, stride, 1, stride, 1)
    won = of_window(winner, *back) == place
    gradient += jnp.where(won, of_window(g, *back), np.zeros((), g.dtype))
  gradient = gradient.reshape(
    g.shape[0], stride * blocks[0], stride * blocks[1], g.shape[3]
  )
  return (_window(_window(gradient, 1, 0, shape[0]), 2, 0, shape[1]),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
