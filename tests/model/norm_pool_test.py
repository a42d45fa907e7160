"""Normalisation and pooling in one pass, compared with the two definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from alexnet_jax.model import layers, norm_pool

NORMS = {
  "paper": (2.0, 5, 1e-4, 0.75),
  "strong": (1.0, 5, 0.3, 0.75),
  "even": (1.0, 4, 0.3, 0.75),
  "power": (1.5, 3, 0.2, 0.5),
}


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def _random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def _definition(x, norm, window):
  y = layers.local_response_norm(x, *norm)
  return layers.max_pool(y, *window, overhang=False)


def _value_and_gradient(function):
  def both(x, g):
    y, pull_back = jax.vjp(function, x)
    return y, pull_back(g.astype(y.dtype))[0]

  return jax.jit(both)


@pytest.mark.parametrize(
  "norm,window",
  [
    ("paper", (3, 2)),
    ("even", (3, 2)),
    ("power", (3, 1)),  # a unit is in nine windows
    ("strong", (2, 3)),  # windows lie apart
  ],
)
def test_value_and_gradient_are_those_of_the_definitions(norm, window):
  """Also of negative units, and of units that tie."""
  norm, (size, stride) = NORMS[norm], window
  x = _random(2, 7, 9, 8)
  x = x.at[0].set(jnp.round(x[0]))  # many windows of the first image tie
  g = _random(2, (7 - size) // stride + 1, (9 - size) // stride + 1, 8, seed=1)
  form = functools.partial(norm_pool.in_one_pass, norm=norm, window=window)
  definition = functools.partial(_definition, norm=norm, window=window)
  y, gradient = _value_and_gradient(form)(x, g)
  expected, expected_gradient = _value_and_gradient(definition)(x, g)
  np.testing.assert_allclose(y, expected, rtol=1e-13)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12)


@pytest.mark.slow
def test_derivatives_in_both_modes_and_of_the_second_order():
  x = jnp.asarray(np.random.default_rng(0).permutation(3 * 3 * 4))
  x = 0.1 * x.reshape(1, 3, 3, 4).astype(jnp.float64)  # no unit is near a tie
  form = functools.partial(
    norm_pool.in_one_pass, norm=(1.0, 2, 0.3, 0.75), window=(2, 1)
  )
  check_grads(jax.jit(form), (x,), order=2, eps=1e-4)


def test_bfloat16_is_rounded_once_per_result():
  """Near the exact values for the rounded input, in both passes."""
  x = _random(2, 7, 7, 6).astype(jnp.bfloat16)
  g = _random(2, 3, 3, 6, seed=1).astype(jnp.bfloat16)
  options = {"norm": NORMS["strong"], "window": (3, 2)}
  form = functools.partial(norm_pool.in_one_pass, **options)
  definition = functools.partial(_definition, **options)
  y, gradient = _value_and_gradient(form)(x, g)
  expected, expected_gradient = _value_and_gradient(definition)(
    x.astype(jnp.float64), g
  )
  assert y.dtype == gradient.dtype == jnp.bfloat16
  np.testing.assert_allclose(y.astype(float), expected, rtol=2**-8)
  error = np.linalg.norm(gradient.astype(float) - expected_gradient)
  assert error < 2**-7 * np.linalg.norm(expected_gradient)


def test_a_nan_is_handed_on():
  x = _random(1, 5, 5, 6).at[0, 3, 3, 0].set(jnp.nan)
  form = jax.jit(norm_pool.in_one_pass, static_argnums=(1, 2))
  y = form(x, NORMS["paper"], (3, 2))
  np.testing.assert_array_equal(
    jnp.isnan(y), jnp.isnan(_definition(x, NORMS["paper"], (3, 2)))
  )


@pytest.mark.parametrize(
  "side,overhang,platform,fused",
  [
    (7, True, "cuda", True),
    (8, True, "cuda", False),  # the last window overhangs
    (8, False, "cuda", True),
    (7, True, "cpu", False),
    (7, True, "tpu", False),
  ],
)
def test_which_program_each_platform_gets(side, overhang, platform, fused):
  norm, pool = NORMS["paper"], (3, 2, overhang)
  function = jax.jit(lambda x: norm_pool.normalise_and_pool(x, norm, pool))
  x = jax.ShapeDtypeStruct((2, side, side, 6), jnp.float32)
  text = function.trace(x).lower(lowering_platforms=(platform,)).as_text()
  # The definition of the sum over neighbours.
  assert ("reduce_window" not in text) == fused
