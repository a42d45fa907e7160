"""The update rule against float64 NumPy, the schedules against a table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.command import UserError
from alexnet_jax.model import AlexNet
from alexnet_jax.network import Network
from alexnet_jax.optimizer import (
  Piecewise,
  Plateau,
  make_schedule,
  momentum_sgd,
)

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


@pytest.mark.parametrize(
  "epoch, rate",
  [(0, 0.01), (24.99, 0.01), (25, 1e-3), (50, 1e-3), (51, 1e-4), (80, 1e-5)],
)
def test_piecewise_follows_the_log_of_the_recorded_run(epoch, rate):
  assert Piecewise().rate(epoch) == pytest.approx(rate, rel=1e-12)


def test_plateau_divides_three_times_and_no_more():
  schedule = Plateau(learning_rate=0.01, patience=2, drops=3)
  rates = []
  for error in [0.9, 0.8, 0.81, 0.8, 0.7, 0.7, 0.7, 0.71, 0.72, *[0.7] * 9]:
    schedule.observe(error)
    rates.append(schedule.rate(0))
  # 0.81 and 0.8 are no new best: first drop; 0.7 is; then every two.
  expected = [2, 2, 2, 3, 3, 3, 4, 4, 5] + [5] * 9
  assert rates == pytest.approx([10.0**-exponent for exponent in expected])


def test_unknown_schedule_is_refused_by_name():
  with pytest.raises(UserError, match=r"cosine.*piecewise.*plateau"):
    make_schedule(
      name="cosine", learning_rate=0.1, boundaries=(), patience=1, drops=1
    )
