"""The update rule against float64 NumPy."""

import jax
import numpy as np
import optax
import pytest

from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import step
from alexnet_jax.training.optimizer import Rates, momentum_sgd

RATES = [0.01, 0.01, 0.01, 0.001, 0.001]  # a drop in the middle
DECAY = 0.05  # the paper's 5e-4 would be lost in float32's rounding


@pytest.fixture(scope="module")
def case():
  """Parameters and five gradients, all random."""
  random = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda: AlexNet(Network(width=1 / 32, num_classes=7), jax.random.key(0))
  )

  def random_like(_):
    return jax.tree.map(
      lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes
    )

  net, *gradients = map(random_like, range(1 + len(RATES)))
  return net, gradients


@pytest.fixture(scope="module")
def updated(case):
  """The parameters after five updates by the package."""
  net, gradients = case
  optimizer = momentum_sgd(momentum=0.9, weight_decay=DECAY)
  velocity = jax.jit(optimizer.init)(net)
  update = jax.jit(optimizer.update)
  for rate, gradient in zip(RATES, gradients, strict=True):
    updates, velocity = update(
      gradient, velocity, net, learning_rate=np.float32(rate)
    )
    net = jax.tree.map(np.add, net, jax.device_get(updates))
  return net


def leaves(net):
  """The parameters in float64 by name: "conv1.kernel", "fc8_bias"."""
  return {
    ".".join(key.name for key in path[:-1]).removeprefix("towers."): (
      np.float64(leaf)
    )
    for path, leaf in jax.tree.leaves_with_path(net)
  }


def expected(w, gradients, decay):
  """Section 5 in float64, with the rate inside the velocity."""
  v = 0.0
  for rate, gradient in zip(RATES, gradients, strict=True):
    v = 0.9 * v - decay * rate * w - rate * gradient
    w = w + v
  return w


@pytest.mark.parametrize(
  "name, decay",
  [
    ("conv1.kernel", DECAY),
    ("conv4.kernel", DECAY),
    ("fc6.kernel", DECAY),
    ("fc8.kernel", DECAY),
    ("conv2.bias", 0.0),
    ("fc8_bias", 0.0),
  ],
)
def test_five_updates_across_a_drop_of_the_rate(case, updated, name, decay):
  """Only kernels are decayed."""
  net, gradients = case
  np.testing.assert_allclose(
    leaves(updated)[name],
    expected(leaves(net)[name], [leaves(g)[name] for g in gradients], decay),
    rtol=1e-6,
    atol=1e-6,
  )


def test_each_group_moves_at_its_own_rate_and_a_frozen_one_not_at_all(case):
  net, gradients = case[0], case[1][0]
  rates = Rates(*map(np.float32, (0.01, 0.02, 0.0, 0.0)))
  optimizer = momentum_sgd(
    momentum=0.9, weight_decay=DECAY, layer_weight_decay=(("fc8", 1.0),)
  )
  moving = jax.tree.map(np.ones_like, net)
  updates, velocity = jax.jit(optimizer.update)(
    gradients, moving, net, learning_rate=rates
  )
  jax.tree.map(np.testing.assert_array_equal, updates, velocity)
  for name, rate, decay in (
    ("conv2.kernel", 0.01, DECAY),
    ("conv2.bias", 0.02, 0.0),
    ("fc8.kernel", 0.01, 1.0),
  ):
    w, g = leaves(net)[name], leaves(gradients)[name]
    np.testing.assert_allclose(
      leaves(updates)[name], 0.9 - decay * rate * w - rate * g, rtol=1e-6
    )
  for name in ("conv1.kernel", "conv1.bias"):
    np.testing.assert_array_equal(leaves(updates)[name], 0)


def test_biases_decay_if_asked_to(case):
  net, gradients = case[0], case[1][0]
  optimizer = momentum_sgd(weight_decay=DECAY, decay_biases=True)
  updates, _ = jax.jit(optimizer.update)(
    gradients,
    jax.tree.map(np.zeros_like, net),
    net,
    learning_rate=np.float32(0.01),
  )
  b, g = leaves(net)["conv2.bias"], leaves(gradients)["conv2.bias"]
  np.testing.assert_allclose(
    leaves(updates)["conv2.bias"], -0.01 * (g + DECAY * b), rtol=1e-6
  )


def test_a_decay_of_an_unknown_layer_is_refused_by_name(case):
  with pytest.raises(UserError, match=r"conv9"):
    momentum_sgd(layer_weight_decay=(("conv9", 1.0),)).init(case[0])
  with pytest.raises(UserError, match=r"not a tuple of pairs"):
    momentum_sgd(layer_weight_decay=("fc8", 1.0))


def test_the_state_of_any_optimiser_is_sharded_and_saved():
  """Adam's: two trees like the parameters, and a count of steps."""
  network = Network(width=1 / 32, num_classes=7)
  mesh = sharding.make_mesh(1, 2)
  shapes = step.abstract_state(network, optax.scale_by_adam(), mesh)
  for path, leaf in jax.tree.leaves_with_path(shapes.optimizer_state):
    name = jax.tree_util.keystr(path)
    spec = sharding.TOWERS if ".towers." in name else sharding.REPLICATED
    assert leaf.sharding.spec == spec, name
  random = np.random.default_rng(0)
  state = jax.tree.map(
    lambda leaf: (9 * random.normal(size=leaf.shape)).astype(leaf.dtype), shapes
  )
  saved = step.to_dict(state)
  assert saved["velocity"].mu["towers"]["conv1"]["kernel"].shape[0] == 2
  restored = step.from_dict(saved, shapes)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
