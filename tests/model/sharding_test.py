"""Meshes that fit, meshes that do not, and the exchange between towers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from alexnet_jax.model import sharding
from alexnet_jax.runtime.command import UserError


@pytest.mark.parametrize(
  "asked, towers, found",
  [
    ((0, 0), 2, (4, 2)),  # the tests have 8 devices
    ((0, 1), 2, (8, 1)),
    ((1, 0), 2, (1, 2)),
    ((8, 0), 2, (8, 1)),
    ((0, 0), 1, (8, 1)),
    ((2, 2), 2, (2, 2)),
  ],
)
def test_axes_of_size_zero_are_chosen(asked, towers, found):
  mesh = sharding.make_mesh(*asked, towers=towers)
  assert (mesh.shape["data"], mesh.shape["model"]) == found


@pytest.mark.parametrize(
  "asked, towers, message",
  [
    ((8, 2), 2, r"needs 16 devices, but there are 8 .*mesh\.model=1"),
    ((1, 3), 2, r"mesh\.model=3 does not divide.*2 tower.*divisor of 2"),
    ((1, 2), 1, r"mesh\.model=2.*1 tower"),
    ((-1, 1), 2, r"mesh\.data .*at least 0 \(got -1"),
  ],
)
def test_an_impossible_mesh_is_rejected(asked, towers, message):
  with pytest.raises(UserError, match=message):
    sharding.make_mesh(*asked, towers=towers)


def test_a_batch_that_does_not_divide_is_rejected():
  mesh = sharding.make_mesh(4, 2)
  sharding.check_batch_size(128, mesh)
  with pytest.raises(UserError, match=r"multiple of 4.*got 130"):
    sharding.check_batch_size(130, mesh)
  with pytest.raises(UserError, match=r"batch_size.*got 0"):
    sharding.check_batch_size(0, mesh)


@pytest.mark.parametrize("devices", [1, 2])
def test_exchange_puts_tower_0_first_whatever_the_mesh(devices):
  mesh = sharding.make_mesh(1, devices)
  parts = np.arange(24, dtype=np.float32).reshape(2, 3, 4)  # [tower,B,C]

  def on_device(local):
    both = sharding.exchange([local[i] for i in range(local.shape[0])])
    return both[None]  # one copy a device

  result = sharding.on_each_device(on_device, mesh, (P("model"),), P("model"))(
    sharding.place(parts, P("model"), mesh)
  )
  expected = np.concatenate([parts[0], parts[1]], axis=-1)
  for copy in np.asarray(result):
    np.testing.assert_array_equal(copy, expected)


def test_the_exchange_sums_the_gradients_of_each_towers_maps():
  """d/dpart of sum(weights * exchange) is that part's weights, summed over
  the two devices that read it."""
  mesh = sharding.make_mesh(1, 2)
  weights = np.arange(16, dtype=np.float32).reshape(2, 1, 8)  # [device,B,2C]

  def loss(parts, weights):
    both = sharding.exchange([parts[0]])
    return jax.lax.psum(jnp.sum(both * weights[0]), "model")

  mapped = sharding.on_each_device(loss, mesh, (P("model"), P("model")), P())
  gradient = jax.jit(jax.grad(mapped))(
    *sharding.place((jnp.zeros((2, 1, 4)), weights), P("model"), mesh)
  )
  summed = weights.sum(0)
  np.testing.assert_array_equal(
    gradient, np.stack([summed[:, :4], summed[:, 4:]])
  )
