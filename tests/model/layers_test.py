"""Every layer and its gradient, compared with float64 formulas in NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import formulas

from alexnet_jax.model import layers
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.model.shapes import shapes

POOL = {"size": 3, "stride": 2, "overhang": True}  # section 3.4
DROPOUT = {"rate": 0.5, "inverted": False}  # section 4.2

# Float32 sums of some hundred terms of size 1.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}


def maps(*shape, scale=1.0, seed=0):
  return scale * np.random.default_rng(seed).normal(size=shape)


def assert_same(ours, reference, *arguments, **tolerance):
  """Compares output and gradients in float64 and, within bounds, float32."""
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


def make_layer(inputs, layer):
  return layers.make_layer(inputs, layer, Network(), jax.random.key(0))


def apply_step(step, x, keys=None):
  """A step without parameters, with the paper's constants."""
  return layers.apply_step(step, x, layer=None, network=Network(), keys=keys)


def layer_function(inputs, layer):
  """A layer as a function of (x, kernel, bias)."""

  def run(x, kernel, bias):
    module = make_layer(inputs, layer)
    module.kernel, module.bias = nnx.Param(kernel), nnx.Param(bias)
    return module(x)

  return run


@pytest.mark.parametrize(
  "size, stride, padding, groups",
  [(11, 4, (0, 3), 1), (5, 1, (2, 2), 2), (3, 1, (1, 1), 1), (3, 1, (0, 0), 2)],
)
def test_convolution(size, stride, padding, groups):
  options = {"stride": stride, "padding": padding, "groups": groups}
  assert_same(
    layer_function((28, 28, 4), Layer(6, size=size, **options)),
    functools.partial(formulas.conv, **options),
    maps(2, 28, 28, 4),
    maps(size, size, 4 // groups, 6, scale=0.1),
    maps(6),
    rtol=1e-4,
    atol=1e-4,
  )


def test_the_first_convolution_pads_below_and_to_the_right_only():
  # Section 3.5 with 224 pixels: position 55 begins at pixel 216, ends at 227.
  conv1 = Layer(1, size=11, stride=4, padding=(0, 3))
  module = make_layer((224, 224, 1), conv1)
  module.kernel[...] = jnp.ones((11, 11, 1, 1))
  counts = module(jnp.ones((1, 224, 224, 1)))[0, :, :, 0]
  expected = np.minimum(11, 224 - 4 * np.arange(55))
  np.testing.assert_array_equal(counts, np.outer(expected, expected))


def test_initial_weights_do_not_depend_on_how_they_are_drawn():
  key, shape = jax.random.key(5), (3, 2, 5, 4)
  np.testing.assert_array_equal(
    layers.normal(key, shape), jax.random.normal(key, shape)
  )


def test_linear():
  ours = layer_function((20,), Layer(6))
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
  got = apply_step("lrn", x)[0, 0, 0]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


max_pool = functools.partial(layers.max_pool, **POOL)


@pytest.mark.parametrize("side", [55, 27, 13, 12])
def test_max_pool(side):
  assert_same(max_pool, formulas.max_pool, maps(2, side, side, 3))


@pytest.mark.parametrize("side, expected", [(55, 28), (13, 7), (8, 4)])
def test_pooling_without_overlap_keeps_the_last_incomplete_window(
  side, expected
):
  pool = functools.partial(layers.max_pool, size=2, stride=2, overhang=True)
  assert pool(jnp.zeros((1, side, side, 1))).shape == (1, expected, expected, 1)
  reference = functools.partial(formulas.max_pool, size=2, stride=2)
  assert_same(pool, reference, maps(1, side, side, 2))


def test_max_pool_gives_the_gradient_of_a_tie_once():
  # After ReLU whole windows are zero; the first of equals gets it all.
  rng = np.random.default_rng(3)
  x = rng.integers(0, 2, (2, 13, 13, 4)).astype(float)
  assert_same(max_pool, formulas.max_pool, x)


def test_max_pool_of_negative_maps_ignores_the_padding():
  x = -1 - np.abs(maps(1, 12, 12, 2))
  assert_same(max_pool, formulas.max_pool, x)


def test_dropout_is_not_inverted():
  x = jnp.asarray(maps(4, 4096), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 4)
  y = layers.dropout(x, keys, **DROPOUT)
  kept = y != 0
  # Kept units pass unchanged; 16,384 fair coins: 4 standard deviations.
  np.testing.assert_array_equal(jnp.where(kept, y, x), x)
  assert abs(float(kept.mean()) - 0.5) < 4 * 0.5 / np.sqrt(kept.size)
  evaluated = layers.dropout(x, None, **DROPOUT)
  np.testing.assert_array_equal(evaluated, 0.5 * x)


def test_dropout_of_an_example_depends_on_its_own_key_only():
  x = jnp.ones((3, 64))
  keys = jax.random.split(jax.random.key(0), 3)
  together = layers.dropout(x, keys, **DROPOUT)
  reordered = layers.dropout(x, keys[jnp.array([2, 0, 1])], **DROPOUT)
  np.testing.assert_array_equal(together[jnp.array([2, 0, 1])], reordered)
  assert not jnp.array_equal(together[0], together[1])


def test_dropped_units_have_no_gradient():
  x = jnp.asarray(maps(2, 50), jnp.float32)
  keys = jax.random.split(jax.random.key(1), 2)
  y, vjp = jax.vjp(lambda x: layers.dropout(x, keys, **DROPOUT), x)
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
def test_average_pool_counts_positions_inside_the_map_only(side, size, stride):
  options = {"size": size, "stride": stride, "overhang": True}
  assert_same(
    functools.partial(layers.avg_pool, **options),
    functools.partial(formulas.avg_pool, **options),
    maps(1, side, side, 2),
  )


def test_global_average_pooling_leaves_one_position():
  x = maps(2, 6, 6, 3)
  y = apply_step("global_avg_pool", jnp.asarray(x, jnp.float32))
  assert y.shape == (2, 1, 1, 3)
  expected = x.reshape(2, 36, 3).sum(axis=1) / 36
  np.testing.assert_allclose(y[:, 0, 0], expected, rtol=1e-4, atol=1e-6)
  conv5 = dataclasses.replace(Network().conv5, then=("relu", "global_avg_pool"))
  network = Network(conv5=conv5, fc6=None, fc7=None, exchanges=("conv3", "fc8"))
  *_, last = shapes(network)
  assert last.inputs == (128,)  # of its own tower
  net = jax.eval_shape(lambda: AlexNet(network, jax.random.key(0)))
  assert net.towers.fc8.kernel.shape == (2, 128, 1000)


@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_pooling_of_whole_windows_only(pool):
  # PyTorch's rounding: 54 -> 26 -> 12 -> 5 in the textbook network.
  options = POOL | {"overhang": False}
  ours = functools.partial(getattr(layers, pool), **options)
  reference = functools.partial(getattr(formulas, pool), **options)
  assert ours(jnp.zeros((1, 54, 54, 1))).shape == (1, 26, 26, 1)
  assert_same(ours, reference, maps(1, 12, 12, 2))


def test_the_mean_of_dropout_is_half_in_training_too():
  x = jnp.asarray(maps(2, 50), jnp.float32)
  keys = jax.random.split(jax.random.key(1), 2)
  trained = apply_step("dropout_mean", x, keys=keys)
  np.testing.assert_array_equal(trained, np.asarray(x) / 2)
  np.testing.assert_array_equal(apply_step("dropout_mean", x), trained)


@pytest.mark.parametrize("step", ["relu", "tanh", "sigmoid"])
def test_nonlinearities(step):
  def ours(x):
    return apply_step(step, x)

  assert_same(ours, getattr(formulas, step), np.array([[-2.0, 0.0, 0.5, 3.0]]))


def test_inverted_dropout_scales_in_training_and_not_in_evaluation():
  x = jnp.asarray(maps(2, 50), jnp.float32)
  keys = jax.random.split(jax.random.key(1), 2)
  plain = layers.dropout(x, keys, rate=0.5, inverted=False)
  inverted = layers.dropout(x, keys, rate=0.5, inverted=True)
  np.testing.assert_array_equal(inverted, 2 * plain)
  evaluated = layers.dropout(x, None, rate=0.5, inverted=True)
  np.testing.assert_array_equal(evaluated, x)


@pytest.mark.parametrize("stride, padding", [(1, (1, 1)), (2, (0, 1))])
def test_local_layer(stride, padding):
  """The same as one convolution per position, each with its own kernel."""
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

  ours = layer_function((6, 6, 4), Layer(5, size=3, local=True, **options))
  assert_same(ours, reference, x, kernel, bias)
