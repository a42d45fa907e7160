"""Each layer and its gradient, against the float64 formulas of 2012."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import formulas

from alexnet_jax.model import layers
from alexnet_jax.model.alexnet import Tower
from alexnet_jax.model.local import LocalConv
from alexnet_jax.model.network import Network

# Float32 sums of some hundred terms of size 1.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}


def maps(*shape, scale=1.0, seed=0):
  return scale * np.random.default_rng(seed).normal(size=shape)


def assert_same(ours, reference, *arguments, **tolerance):
  """Output and every gradient agree in float64, and within float32 bounds."""
  expected, backward = reference(*arguments)
  cotangent = maps(*expected.shape, seed=9)
  gradients = backward(cotangent)
  if not isinstance(gradients, tuple):
    gradients = (gradients,)
  for dtype, bounds in (
    (jnp.float64, {"rtol": 1e-10, "atol": 1e-10}),
    (jnp.float32, tolerance or FLOAT32),
  ):
    with jax.enable_x64(dtype == jnp.float64):
      values = [jnp.asarray(a, dtype) for a in arguments]
      y, vjp = jax.vjp(ours, *values)
      assert y.dtype == dtype
      np.testing.assert_allclose(y, expected, **bounds)
      ours_back = vjp(jnp.asarray(cotangent, dtype))
      for got, want in zip(ours_back, gradients, strict=True):
        np.testing.assert_allclose(got, want, **bounds)


def run_layer(layer, x, kernel, bias):
  layer.kernel, layer.bias = nnx.Param(kernel), nnx.Param(bias)
  return layer(x)


@pytest.mark.parametrize(
  "size, stride, padding, groups",
  [(11, 4, (0, 3), 1), (5, 1, (2, 2), 2), (3, 1, (1, 1), 1), (3, 1, (0, 0), 2)],
)
def test_convolution(size, stride, padding, groups):
  options = {"stride": stride, "padding": padding, "groups": groups}

  def ours(x, kernel, bias):
    layer = layers.Conv(4, 6, size=size, **options, key=jax.random.key(0))
    return run_layer(layer, x, kernel, bias)

  assert_same(
    ours,
    functools.partial(formulas.conv, **options),
    maps(2, 28, 28, 4),
    maps(size, size, 4 // groups, 6, scale=0.1),
    maps(6),
    rtol=1e-4,
    atol=1e-4,
  )


def test_the_first_convolution_pads_below_and_to_the_right_only():
  # Section 3.5 with 224 pixels: position 55 begins at pixel 216, ends at 227.
  layer = layers.Conv(
    1, 1, size=11, stride=4, padding=(0, 3), key=jax.random.key(0)
  )
  layer.kernel[...] = jnp.ones((11, 11, 1, 1))
  counts = layer(jnp.ones((1, 224, 224, 1)))[0, :, :, 0]
  expected = np.minimum(11, 224 - 4 * np.arange(55))
  np.testing.assert_array_equal(counts, np.outer(expected, expected))


def test_linear():
  def ours(x, kernel, bias):
    layer = layers.Linear(20, 6, key=jax.random.key(0))
    return run_layer(layer, x, kernel, bias)

  assert_same(ours, formulas.linear, maps(3, 20), maps(20, 6), maps(6))


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("count, n", [(48, 5), (3, 5), (7, 9)])
def test_local_response_norm(scale, count, n):
  constants = {"k": 2.0, "n": n, "alpha": 1e-4, "beta": 0.75}
  assert_same(
    functools.partial(layers.local_response_norm, **constants),
    functools.partial(formulas.lrn, **constants),
    maps(2, 3, 3, count, scale=scale),
    rtol=1e-4,
    atol=1e-4 * scale,
  )


def test_local_response_norm_has_the_papers_constants():
  x = jnp.full((1, 1, 1, 48), 100.0)
  # Inside, five neighbours: 2 + 1e-4 * 5 * 100^2 = 7; at the edge three: 5.
  expected = np.full(48, 100 / 7**0.75)
  expected[[0, -1]] = 100 / 5**0.75
  expected[[1, -2]] = 100 / 6**0.75
  got = layers.local_response_norm(x)[0, 0, 0]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("side", [55, 27, 13, 12])
def test_max_pool(side):
  assert_same(layers.max_pool, formulas.max_pool, maps(2, side, side, 3))


@pytest.mark.parametrize("side, expected", [(55, 28), (13, 7), (8, 4)])
def test_pooling_without_overlap_keeps_the_last_incomplete_window(
  side, expected
):
  pool = functools.partial(layers.max_pool, size=2, stride=2)
  assert pool(jnp.zeros((1, side, side, 1))).shape == (1, expected, expected, 1)
  reference = functools.partial(formulas.max_pool, size=2, stride=2)
  assert_same(pool, reference, maps(1, side, side, 2))


def test_max_pool_gives_the_gradient_of_a_tie_once():
  # After ReLU whole windows are zero; the first of equals gets it all.
  rng = np.random.default_rng(3)
  x = rng.integers(0, 2, (2, 13, 13, 4)).astype(float)
  assert_same(layers.max_pool, formulas.max_pool, x)


def test_max_pool_of_negative_maps_never_sees_the_padding():
  x = -1 - np.abs(maps(1, 12, 12, 2))
  assert_same(layers.max_pool, formulas.max_pool, x)


def test_dropout_is_not_inverted():
  x = jnp.asarray(maps(4, 4096), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 4)
  y = layers.dropout(x, keys)
  kept = y != 0
  # Kept units pass unchanged; 16,384 fair coins: 4 standard deviations.
  np.testing.assert_array_equal(jnp.where(kept, y, x), x)
  assert abs(float(kept.mean()) - 0.5) < 4 * 0.5 / np.sqrt(kept.size)
  evaluated = layers.dropout(x, None)
  np.testing.assert_array_equal(evaluated, 0.5 * x)


def test_dropout_of_an_example_depends_on_its_own_key_alone():
  x = jnp.ones((3, 64))
  keys = jax.random.split(jax.random.key(0), 3)
  together = layers.dropout(x, keys)
  reordered = layers.dropout(x, keys[jnp.array([2, 0, 1])])
  np.testing.assert_array_equal(together[jnp.array([2, 0, 1])], reordered)
  assert not jnp.array_equal(together[0], together[1])


def test_dropped_units_have_no_gradient():
  x = jnp.asarray(maps(2, 50), jnp.float32)
  keys = jax.random.split(jax.random.key(1), 2)
  y, vjp = jax.vjp(lambda x: layers.dropout(x, keys), x)
  (gradient,) = vjp(jnp.ones_like(y))
  np.testing.assert_array_equal(gradient, (y != 0).astype(jnp.float32))


@pytest.mark.parametrize("size", [5, 3])
def test_within_map_norm(size):
  constants = {"k": 1.0, "n": size, "alpha": 1e-3 / 25, "beta": 0.75}
  assert_same(
    functools.partial(layers.within_map_norm, **constants),
    functools.partial(formulas.within_map_norm, **constants),
    maps(2, 7, 7, 3, scale=100.0),
    rtol=1e-4,
    atol=1e-2,
  )


@pytest.mark.parametrize("side, size, stride", [(32, 3, 2), (28, 2, 2)])
def test_average_pool_counts_places_inside_the_map_only(side, size, stride):
  options = {"size": size, "stride": stride}
  assert_same(
    functools.partial(layers.avg_pool, **options),
    functools.partial(formulas.avg_pool, **options),
    maps(1, side, side, 2),
  )


@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_pooling_of_whole_windows_only(pool):
  # PyTorch's rounding: 54 -> 26 -> 12 -> 5 in the textbook network.
  ours = functools.partial(getattr(layers, pool), overhang=False)
  reference = functools.partial(getattr(formulas, pool), overhang=False)
  assert ours(jnp.zeros((1, 54, 54, 1))).shape == (1, 26, 26, 1)
  assert_same(ours, reference, maps(1, 12, 12, 2))


@pytest.mark.parametrize("unit", ["relu", "tanh", "sigmoid"])
def test_units(unit):
  tower = types.SimpleNamespace(network=Network())  # no unit reads its sizes

  def ours(x):
    return Tower._then(tower, unit, x, None, 0)

  assert_same(ours, getattr(formulas, unit), np.array([[-2.0, 0.0, 0.5, 3.0]]))


def test_inverted_dropout_scales_in_training_and_not_in_evaluation():
  x = jnp.asarray(maps(2, 50), jnp.float32)
  keys = jax.random.split(jax.random.key(1), 2)
  plain = layers.dropout(x, keys)
  inverted = layers.dropout(x, keys, inverted=True)
  np.testing.assert_array_equal(inverted, 2 * plain)
  np.testing.assert_array_equal(layers.dropout(x, None, inverted=True), x)


@pytest.mark.parametrize("stride, padding", [(1, (1, 1)), (2, (0, 1))])
def test_local_layer(stride, padding):
  """As a convolution made anew, with its own kernel, at every place."""
  options = {"stride": stride, "padding": padding}
  side = (6 + sum(padding) - 3) // stride + 1
  x, bias = maps(2, 6, 6, 4), maps(side, side, 5)
  kernel = maps(side, side, 3, 3, 4, 5, scale=0.1)

  def reference(x, kernel, bias):
    y = np.zeros((2, side, side, 5))
    backs = {}
    for i in range(side):
      for j in range(side):
        whole, backs[i, j] = formulas.conv(
          x, kernel[i, j], bias[i, j], **options
        )
        y[:, i, j] = whole[:, i, j]

    def backward(dy):
      dx = np.zeros_like(x)
      d_kernel, d_bias = np.zeros_like(kernel), np.zeros_like(bias)
      for (i, j), back in backs.items():
        only = np.zeros_like(dy)
        only[:, i, j] = dy[:, i, j]
        more, d_kernel[i, j], d_bias[i, j] = back(only)
        dx += more
      return dx, d_kernel, d_bias

    return y, backward

  def ours(x, kernel, bias):
    layer = LocalConv((6, 6, 4), 5, size=3, **options, key=jax.random.key(0))
    return run_layer(layer, x, kernel, bias)

  assert_same(ours, reference, x, kernel, bias)
