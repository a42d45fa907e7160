"""Activations in bfloat16: compared with float64, and sums in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from model_test import (
  FLOAT32,
  SMALL,
  inputs,
  make_net,
  masks,
  on_mesh,
  to_reference,
)
from reference import alexnet as reference

# At the paper's 224 pixels: with smaller maps, rounding changes more.
BFLOAT16 = dataclasses.replace(SMALL, crop_size=224, compute_dtype="bfloat16")
# Bounds of the relative distance. A bfloat16 number has 8 bits. Rounding also
# changes which unit of a pooling window is the largest and which units are
# below 0; the gradients of convolutions add these changes up.
SCORES, CONNECTED, CONVOLUTIONS = 0.01, 0.02, 0.5


def run(data, models):
  images = jnp.asarray(inputs(BFLOAT16.crop_size)[0], jnp.float32)
  return on_mesh(BFLOAT16, data, models)(make_net(BFLOAT16), images)


def distance(got, want):
  """Length of the difference, relative to the length of `want`."""
  got, want = (np.ravel(x).astype(float) for x in (got, want))
  return np.linalg.norm(got - want) / np.linalg.norm(want)


def test_near_the_float64_reference():
  """One training pass with dropout; less exact than float32 would be."""
  images, labels, keys = inputs(BFLOAT16.crop_size)
  weights = to_reference(make_net(BFLOAT16))
  keep = masks(SMALL, keys)
  expected, _ = reference.run(weights, images, keep)
  _, gradients = reference.loss_and_gradients(weights, images, labels, keep)
  _, scores, ours = run(1, 2)
  assert FLOAT32 < distance(scores, expected) < SCORES
  for name, towers in to_reference(ours).items():
    bound = CONVOLUTIONS if name.startswith("conv") else CONNECTED
    for tower, leaves in enumerate(towers):
      for leaf, want in zip(leaves, gradients[name][tower], strict=True):
        assert distance(leaf, want) < bound, name


@pytest.mark.slow
def test_devices_add_up_the_same_gradients():
  """Two devices along "data" and one: the same to float32 rounding."""
  value, scores, gradients = run(2, 2)
  expected_value, expected_scores, expected = run(1, 2)
  np.testing.assert_allclose(value, expected_value, rtol=1e-6)
  np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
  for leaf, want in zip(
    jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True
  ):
    assert leaf.dtype == want.dtype == np.float32
    assert distance(leaf, want) < CONNECTED


def test_products_are_bfloat16_and_sums_float32():
  """Reads the traced program: the operand dtypes of each primitive."""
  seen = {}
  for equation in equations(jax.make_jaxpr(lambda: run(2, 2))().jaxpr):
    for operand in equation.invars:
      seen.setdefault(equation.primitive.name, set()).add(
        str(operand.aval.dtype)
      )
  for name in ("conv_general_dilated", "dot_general"):
    assert seen[name] == {"bfloat16"}, name
  for name in ("all_gather", "reduce_scatter"):
    assert seen[name] == {"bfloat16"}, name
  for name in ("reduce_window_sum", "rsqrt", "exp", "log", "psum_invariant"):
    assert seen[name] == {"float32"}, name
  assert seen["reduce_sum"] == {"float32"}


def equations(jaxpr):
  """All equations of a program and of the programs inside it."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in core.jaxprs_in_params(equation.params):
      yield from equations(inner)
