"""The update rule against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.optimizer import Rates, momentum_sgd

RATES = [0.01, 0.01, 0.01, 0.001, 0.001]  # a drop in the middle
DECAY = 0.05  # the paper's 5e-4 would drown in float32's rounding


def _run(net, gradients):
  """Five updates by the package."""
  optimizer = momentum_sgd(momentum=0.9, weight_decay=DECAY)
  velocity = optimizer.init(net)
  for rate, gradient in zip(RATES, gradients, strict=True):
    updates, velocity = optimizer.update(
      gradient, velocity, net, learning_rate=jnp.float32(rate)
    )
    net = optax.apply_updates(net, updates)
  return net


@pytest.fixture(scope="module")
def case():
  net = AlexNet(Network(width=1 / 32, num_classes=7), jax.random.key(3))
  keys = jax.random.split(jax.random.key(4), len(RATES))

  def random_like(key):
    leaves, structure = jax.tree.flatten(net)
    keys = jax.random.split(key, len(leaves))
    values = [
      jax.random.normal(key, leaf.shape)
      for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)

  return net, [random_like(key) for key in keys]


def _expected(w, gradients, decay):
  """Section 5, in float64, with the rate inside the velocity."""
  w, v = np.float64(w), 0.0
  for rate, gradient in zip(RATES, gradients, strict=True):
    v = 0.9 * v - decay * rate * w - rate * np.float64(gradient)
    w = w + v
  return w


def test_five_updates_across_a_drop_of_the_rate(case):
  net, gradients = case
  result = _run(net, gradients)
  for name in ("conv1", "conv4", "fc6", "fc8"):
    np.testing.assert_allclose(
      getattr(result.towers, name).kernel[...],
      _expected(
        getattr(net.towers, name).kernel[...],
        [getattr(g.towers, name).kernel[...] for g in gradients],
        DECAY,
      ),
      rtol=1e-6,
      atol=1e-7,
    )


def test_biases_are_not_decayed(case):
  net, gradients = case
  result = _run(net, gradients)
  np.testing.assert_allclose(
    result.towers.conv2.bias[...],
    _expected(
      net.towers.conv2.bias[...],
      [g.towers.conv2.bias[...] for g in gradients],
      0.0,
    ),
    rtol=5e-7,
  )
  np.testing.assert_allclose(
    result.fc8_bias[...],
    _expected(net.fc8_bias[...], [g.fc8_bias[...] for g in gradients], 0.0),
    rtol=1e-6,
    atol=1e-8,
  )


def test_each_group_moves_at_its_own_rate_and_a_frozen_one_not_at_all(case):
  net, gradients = case
  rates = Rates(*map(jnp.float32, (0.01, 0.02, 0.0, 0.0)))
  optimizer = momentum_sgd(
    momentum=0.9, weight_decay=DECAY, layer_weight_decay=(("fc8", 1.0),)
  )
  velocity = jax.tree.map(jnp.ones_like, optimizer.init(net))  # in full motion
  updates, _ = optimizer.update(
    gradients[0], velocity, net, learning_rate=rates
  )
  result = optax.apply_updates(net, updates)

  def moved(layer, leaf, rate, decay):
    w, g, now = (
      np.float64(getattr(getattr(tree.towers, layer), leaf)[...])
      for tree in (net, gradients[0], result)
    )
    expected = w + 0.9 - decay * rate * w - rate * g
    np.testing.assert_allclose(now, expected, rtol=1e-6)

  moved("conv2", "kernel", 0.01, DECAY)
  moved("conv2", "bias", 0.02, 0.0)
  moved("fc8", "kernel", 0.01, 1.0)
  for leaf in ("kernel", "bias"):
    before, after = (
      getattr(tree.towers.conv1, leaf)[...] for tree in (net, result)
    )
    np.testing.assert_array_equal(before, after)


def test_biases_decay_if_asked_to(case):
  net, gradients = case
  optimizer = momentum_sgd(weight_decay=DECAY, decay_biases=True)
  velocity = optimizer.init(net)
  _, velocity = optimizer.update(
    gradients[0], velocity, net, learning_rate=jnp.float32(0.01)
  )
  b, g = (np.float64(t.towers.conv2.bias[...]) for t in (net, gradients[0]))
  np.testing.assert_allclose(
    velocity.towers.conv2.bias[...], -0.01 * (g + DECAY * b), rtol=1e-6
  )


def test_a_decay_of_an_unknown_layer_is_refused_by_name(case):
  with pytest.raises(UserError, match=r"conv9"):
    momentum_sgd(layer_weight_decay=(("conv9", 1.0),)).init(case[0])
  with pytest.raises(UserError, match=r"not a tuple of pairs"):
    momentum_sgd(layer_weight_decay=("fc8", 1.0))
