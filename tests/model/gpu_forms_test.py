"""The program for NVIDIA GPUs, computed on a CPU: blocks, layers at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from kernels_test import CONVOLUTIONS
from model_test import (
  FLOAT64,
  assert_trees_close,
  inputs,
  make_net,
  on_mesh,
  to_reference,
)

from alexnet_jax.model import alexnet, kernels, layers
from alexnet_jax.model.network import Layer, Network

NARROW = Network(num_classes=7, width=1 / 32, crop_size=64)


def _random(*shape, seed):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def _choose_cuda(*arguments, default=None, **branches):
  return branches.get("cuda", default)(*arguments)


@pytest.mark.parametrize("name", ["conv1", "conv1_padded", "strided"])
def test_a_convolution_over_blocks_of_pixels(name):
  shape, kernel_shape, stride, padding = CONVOLUTIONS[name]

  def definition(x, kernel):
    return lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      (padding, padding),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  form = functools.partial(
    kernels.convolve_blocks, stride=stride, padding=padding
  )

  @functools.partial(jax.jit, static_argnums=0)
  def value_and_gradients(function, x, kernel):
    y, pull_back = jax.vjp(function, x, kernel)
    return y, pull_back(jnp.sin(y))

  with jax.enable_x64(True):
    arrays = _random(*shape, seed=0), _random(*kernel_shape, seed=1)
    actual = value_and_gradients(form, *arrays)
    expected = value_and_gradients(definition, *arrays)
    jax.tree.map(
      lambda a, e: np.testing.assert_allclose(a, e, atol=1e-11),
      actual,
      expected,
    )


def test_a_bias_is_added_in_bfloat16_and_its_gradient_summed_in_float32(
  monkeypatch,
):
  monkeypatch.setattr(lax, "platform_dependent", _choose_cuda)
  y = _random(257, 3, seed=0).astype(jnp.bfloat16)
  bias = jnp.array([[0.1, -1.0, 3.0]], jnp.float32)
  total, pull_back = jax.vjp(kernels.add_bias, y, bias)
  expected = np.float64(y) + np.float64(bias)
  # Two roundings to 8 bits, of the bias and of the sum.
  bound = 2.0**-8 * (np.abs(expected) + np.abs(bias))
  assert (np.abs(np.float64(total) - expected) <= bound).all()
  _, gradient = pull_back(jnp.ones_like(total))
  # bfloat16 holds 256 and 258, but not 257.
  assert (gradient.dtype, gradient.tolist()) == (jnp.float32, [[257.0] * 3])


def test_convolutions_of_the_same_maps_at_once(monkeypatch):
  """Each tower gets its own result, and each kernel its own gradient."""
  layer = Layer(4, size=3, padding=(1, 1), std=0.5, bias=0.1)
  towers = [layers.Conv((5, 5, 6), layer, jax.random.key(i)) for i in range(2)]
  x = _random(2, 5, 5, 6, seed=0).astype(jnp.float32)

  def energy(towers, x):
    first, second = layers.apply_layers(towers, [x, x])
    return jnp.sin(first).sum() + jnp.cos(second).sum()

  expected = jax.jit(jax.grad(energy, (0, 1)))(towers, x)
  monkeypatch.setattr(lax, "platform_dependent", _choose_cuda)
  actual = jax.jit(jax.grad(energy, (0, 1)))(towers, x)
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=1e-4), actual, expected
  )
  for kernel in (actual[0][0].kernel[...], actual[0][1].kernel[...]):
    assert np.abs(kernel).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("data, models", [(1, 1), (2, 2)])
def test_the_network_is_the_same(data, models, monkeypatch):
  """Loss, scores and gradients, with both towers on one device or on two."""
  with jax.enable_x64(True):
    net = jax.tree.map(
      lambda leaf: jnp.asarray(leaf, jnp.float64), make_net(NARROW)
    )
    images = jnp.asarray(inputs(NARROW.crop_size)[0], jnp.float64)
    value, scores, gradients = on_mesh(NARROW, 1, 2)(net, images)
    monkeypatch.setattr(lax, "platform_dependent", _choose_cuda)
    ours = on_mesh(NARROW, data, models)(net, images)
    np.testing.assert_allclose(ours[0], value, rtol=FLOAT64)
    np.testing.assert_allclose(ours[1], scores, atol=FLOAT64)
    assert_trees_close(
      to_reference(ours[2]), to_reference(gradients), tolerance=FLOAT64
    )


@pytest.mark.parametrize("platform, count", [("cuda", 8), ("cpu", 10)])
def test_towers_that_read_the_same_share_a_convolution(platform, count):
  """One device: conv1 and conv3 once, conv2, conv4 and conv5 for each tower."""
  images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
  traced = jax.jit(alexnet.forward).trace(alexnet.abstract_net(NARROW), images)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count("stablehlo.convolution") == count
