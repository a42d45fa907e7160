"""Local response normalisation and max-pooling in one pass, for GPUs.

On a GPU both are limited by the memory that they move, and max-pooling hands
on a quarter of the units. So the powers of the normalisation are needed again,
in the backward pass, at the units alone that are the largest of a window. With

  y = a s^-beta,  s = k + alpha sum_j a_j^2,  p = y of the largest unit,

the derivative of p in the direction d is, at that unit,

  dp = s^-beta d - beta p / s ds,  ds = 2 alpha sum_j a_j d_j.

The transpose of this, the gradient, multiplies maps of the pooled size by
s^-beta and p / s, gives both products to the units that were the largest, and
sums the second over neighbouring maps. docs/performance.md has what it saves.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.model import kernels
from alexnet_jax.model.kernels import at_least_float32
from alexnet_jax.model.shapes import count_windows


def normalise_and_pool(
  x: jax.Array,
  norm: tuple[float, int, float, float],
  pool: tuple[int, int, bool],
) -> jax.Array:
  """`layers.local_response_norm`, then `layers.max_pool`.

  Args:
    x: f32[B,H,W,C], the maps of one tower.
    norm: k, n, alpha and beta of the normalisation.
    pool: size, stride and overhang of the pooling.

  Returns:
    f32[B,H',W',C].
  """

  def in_turn(x):
    return kernels.max_pool(kernels.local_response_norm(x, *norm), *pool)

  size, stride, overhang = pool
  for length in x.shape[1:3]:
    windows = count_windows(length, size, stride, overhang)
    if stride * (windows - 1) + size > length:  # the last one overhangs
      return in_turn(x)
  at_once = functools.partial(in_one_pass, norm=norm, window=(size, stride))
  return lax.platform_dependent(x, cuda=at_once, default=in_turn)


def in_one_pass(
  x: jax.Array,
  norm: tuple[float, int, float, float],
  window: tuple[int, int],
) -> jax.Array:
  """`normalise_and_pool` where no window, (size, stride), overhangs."""
  return _largest(x, norm, window)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _largest(x, norm, window):
  """Of each window the largest y, and s at the same unit, in the dtype of x."""
  return _compare(x, norm, window)[:2]


# Compiled by itself, it is traced once, and not for every derivative.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _compare(x, norm, window):
  """The largest y, s at its unit, and which unit of the window that is.

  Of equal ones the first, by row and then by column. The barriers here keep the
  compiler from storing wider numbers instead, from which it would round these
  wherever they are read.
  """
  size, stride = window
  k, n, alpha, beta = norm
  places = (
    unit
    for row in kernels.places(x, 1, size, stride, overhang=False)
    for unit in kernels.places(row, 2, size, stride, overhang=False)
  )
  # Each place of the windows is computed by itself: sums of the whole map,
  # which several windows share, would be written to memory.
  for place, a in enumerate(map(at_least_float32, places)):
    s = k + alpha * _sum_neighbours(a * a, n)
    y = a * kernels.power(s, beta)
    if place == 0:
      top, s_of_top = y, s
      winner = jnp.zeros(y.shape, np.min_scalar_type(size * size))
    else:
      won = y > top
      winner = jnp.where(won, np.array(place, winner.dtype), winner)
      s_of_top = jnp.where(won, s, s_of_top)
      top = jnp.maximum(top, y)
  return lax.optimization_barrier(
    (top.astype(x.dtype), s_of_top.astype(x.dtype), winner)
  )


@_largest.defjvp
def _largest_derivative(norm, window, primals, tangents):
  (x,), (d,) = primals, tangents
  _, n, alpha, beta = norm
  size, stride = window
  top, s = _largest(x, norm, window)
  _, _, winner = _compare(lax.stop_gradient(x), norm, window)
  a, d = at_least_float32(x), at_least_float32(d)
  # One window more on each side, which nothing wins: the backward pass reads
  # up to `further` windows before and after without asking whether they exist.
  further = -(-size // stride) - 1
  edge = ((0, 0, 0), *[(further, further, 0)] * 2, (0, 0, 0))
  nothing = np.array(size * size, winner.dtype)
  edged = lax.optimization_barrier(lax.pad(winner, nothing, edge))

  def at_winner(maps):
    """The units of `maps` that won; rounded, as is the gradient that enters."""
    picked = _pick(maps, edged, size, stride)
    picked = lax.optimization_barrier(picked.astype(x.dtype))
    inner = [slice(further, further + count) for count in top.shape[1:3]]
    return at_least_float32(picked[:, *inner])

  sums = _sum_neighbours(a * d, n).astype(x.dtype)
  sums = at_least_float32(lax.optimization_barrier(sums))
  ds = 2 * alpha * at_winner(sums)
  p, wide = at_least_float32(top), at_least_float32(s)
  dp = kernels.power(wide, beta) * at_winner(d) - beta * p / wide * ds
  return (top, s), (dp.astype(x.dtype), ds.astype(x.dtype))


def _sum_neighbours(x, n):
  """`kernels.sum_neighbours` over maps as n shifted additions."""
  config = ((0, 0, 0),) * 3 + ((n // 2, n - 1 - n // 2, 0),)
  padded = lax.pad(x, np.zeros((), x.dtype), config)
  shifted = [padded[..., i : i + x.shape[-1]] for i in range(n)]
  return functools.reduce(jnp.add, shifted)


def _pick(x, winner, size, stride):
  """`kernels.pick`, of a `winner` with windows beyond the edges.

  There are ceil(size / stride) - 1 of these on each side, and in the result.
  """
  further = -(-size // stride) - 1
  blocks = [count - further for count in winner.shape[1:3]]
  x = kernels.window(x, 1, 0, stride * blocks[0])
  x = kernels.window(x, 2, 0, stride * blocks[1])
  x = x.reshape(-1, blocks[0], stride, blocks[1], stride, x.shape[-1])
  picked = []
  for back in itertools.product(range(further + 1), repeat=2):
    row = stride * back[0] + np.arange(stride)[:, None]
    column = stride * back[1] + np.arange(stride)
    inside = np.maximum(row, column) < size
    place = np.where(inside, size * row + column, size**2 + 1)
    place = place.astype(winner.dtype).reshape(1, 1, stride, 1, stride, 1)
    first = [further - b for b in back]
    rows, columns = (
      slice(start, start + count)
      for start, count in zip(first, blocks, strict=True)
    )
    won = winner[:, rows, None, columns, None] == place
    unit = jnp.where(won, x, np.zeros((), x.dtype)).sum((2, 4))
    before_and_after = [(start, further - start, 0) for start in first]
    config = ((0, 0, 0), *before_and_after, (0, 0, 0))
    picked.append(lax.pad(unit, np.zeros((), x.dtype), config))
  return functools.reduce(jnp.add, picked)
