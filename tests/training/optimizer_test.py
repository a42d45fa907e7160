"""The update rule against float64 NumPy, the schedules against a table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.optimizer import (
  Piecewise,
  Plateau,
  Rates,
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


# (epoch, weights, biases, conv1's weights, conv1's biases): notes kept with
# the layer files of net #145 and, for dexp, of #170 (95 epochs, F = 250).
RECORDED = {
  "log145_2012": [
    (24.9, 1e-2, 0.02, 1e-2, 0.02),
    (25, 1e-3, 0.02, 1e-3, 0.02),
    (51, 1e-4, 0.02, 1e-4, 0.02),
    (67, 1e-4, 0.02, 1e-5, 0.02),
    (72, 1e-4, 0.02, 0, 0),
    (79, 1e-5, 0.02, 0, 0),
    (90, 1e-5, 0.02, 0, 0),
  ],
  "log145_2010": [
    (22.9, 1e-2, 0.02, 1e-2, 0.02),
    (23, 1e-3, 0.002, 1e-3, 0.002),
    (51, 1e-4, 0.002, 1e-4, 0.002),
    (68, 1e-4, 0.002, 1e-5, 0.002),
    (72, 1e-4, 0.002, 0, 0),
    (78, 1e-5, 0.002, 0, 0),
  ],
  "dexp": [
    (23.7, 0.01, 0.02, 0.01, 0.02),
    (23.8, 0.0015874, 0.02, 0.0015874, 0.02),
    (47.4, 0.0015874, 0.02, 0.0015874, 0.02),
    (47.6, 0.00025198, 0.002, 0.00025198, 0.002),
    (71.3, 0.00004, 0.002, 0.00004, 0.002),
    (74, 0.00004, 0.002, 0, 0),
  ],
}


def _schedule(name, **changes):
  options = {
    "boundaries": (25.0, 51.0, 79.0),
    "patience": 3,
    "drops": 3,
    "total_epochs": 95,
  }
  return make_schedule(name=name, **options, **changes)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_schedules(name):
  schedule = _schedule(
    name,
    bias_learning_rate=0.02,
    bias_drops="never" if name == "log145_2012" else "once",
    conv1_frozen_from=74.0 if name == "dexp" else 72.0,
  )
  for epoch, *rates in RECORDED[name]:
    np.testing.assert_allclose(schedule.rates(epoch), rates, rtol=1e-4)


@pytest.mark.parametrize("name", ["piecewise", "plateau", *RECORDED])
def test_by_default_all_rates_are_equal_until_the_logs_lower_conv1(name):
  for epoch in (0, 26, 52, 60):
    rates = _schedule(name).rates(epoch)
    assert len(set(map(float, rates))) == 1


def test_biases_can_follow_the_plateau_once():
  schedule = _schedule("plateau", bias_learning_rate=0.02, bias_drops="once")
  for drops in range(4):
    expected = [0.01 / 10**drops, 0.002 if drops else 0.02]
    np.testing.assert_allclose(schedule.rates(0)[:2], expected, rtol=1e-6)
    for error in (0.5, 0.5, 0.5) if drops else (0.5, 0.5, 0.5, 0.5):
      schedule.observe(error)


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


def test_what_cannot_hold_is_refused_by_name(case):
  with pytest.raises(UserError, match=r"cosine.*piecewise.*plateau"):
    _schedule("cosine")
  with pytest.raises(UserError, match=r"bias_drops='twice'"):
    _schedule("dexp", bias_drops="twice")
  with pytest.raises(UserError, match=r"conv9"):
    momentum_sgd(layer_weight_decay=(("conv9", 1.0),)).init(case[0])


def test_a_resumed_schedule_keeps_what_it_saw_and_nothing_else():
  before = Plateau(learning_rate=0.01, patience=2, drops=3)
  for error in [0.5, 0.6, 0.6, 0.6]:
    before.observe(error)
  after = Plateau(learning_rate=0.02, patience=7, drops=1)
  after = after.resumed(dataclasses.asdict(before))
  assert (after.best_error, after.waited, after.dropped) == (0.5, 1, 1)
  assert (after.learning_rate, after.patience, after.drops) == (0.02, 7, 1)
  boundaries = Piecewise(boundaries=(9.0,)).resumed(
    dataclasses.asdict(Piecewise(boundaries=(1.0,)))
  )
  assert boundaries.boundaries == (9.0,)
