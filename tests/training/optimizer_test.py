"""The update rule against float64 NumPy; optax's own rules in the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet, param_specs
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import layer_counts
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.job import Recipe
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


def test_l1_pulls_every_kernel_towards_0_at_the_same_speed(case):
  """By the slope of l1 times the sum of absolute values, in float64."""
  net, gradients = case
  optimizer = momentum_sgd(momentum=0.9, weight_decay=0.0, l1=0.2)
  updates, _ = jax.jit(optimizer.update)(
    gradients[0], optimizer.init(net), net, learning_rate=np.float32(0.5)
  )
  moved, before, g = (leaves(tree) for tree in (updates, net, gradients[0]))
  for name, update in moved.items():
    w, h = before[name], 1e-9
    slope = 0.2 * (np.abs(w + h) - np.abs(w - h)) / (2 * h)
    pull = slope if name.endswith("kernel") else 0.0
    np.testing.assert_allclose(
      update, -0.5 * (g[name] + pull), rtol=1e-4, atol=1e-6
    )
  with pytest.raises(UserError, match="l1 must be at least 0"):
    momentum_sgd(l1=-1.0)


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


def test_layers_move_at_a_fraction_of_the_rate_or_not_at_all(case):
  """The factor also scales the decay, which is part of the rate's step."""
  net, gradients = case[0], case[1][0]
  rates = Rates(*map(np.float32, (0.01, 0.02, 0.01, 0.02)))
  optimizer = momentum_sgd(
    weight_decay=DECAY,
    layer_rates=(("conv1", 0.0), ("conv2", 0.125), ("fc8", 10.0)),
  )
  updates, _ = jax.jit(optimizer.update)(
    gradients, optimizer.init(net), net, learning_rate=rates
  )
  for name, rate, decay in (
    ("conv1.kernel", 0.0, DECAY),
    ("conv1.bias", 0.0, 0.0),
    ("conv2.kernel", 0.01 / 8, DECAY),
    ("conv2.bias", 0.02 / 8, 0.0),
    ("conv3.kernel", 0.01, DECAY),
    ("fc8.kernel", 0.1, DECAY),
    ("fc8_bias", 0.2, 0.0),
  ):
    w, g = leaves(net)[name], leaves(gradients)[name]
    np.testing.assert_allclose(
      leaves(updates)[name],
      -rate * (g + decay * w),
      rtol=1e-6,
      atol=rate * 1e-6,
    )


def test_optax_gives_the_same_bits_while_no_rate_is_zero():
  """On a tree that is no network of this package."""
  random = np.random.default_rng(0)
  params = {"conv1": {"kernel": random.normal(size=(999,)).astype(np.float32)}}

  def minus_rate(updates, state, params=None, *, learning_rate, **_):
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  scale = optax.GradientTransformationExtraArgs(
    optax.init_empty_state, minus_rate
  )
  chain = optax.chain(optax.add_decayed_weights(DECAY), scale, optax.trace(0.9))

  def train(optimizer):
    net, state, update = (
      params,
      optimizer.init(params),
      jax.jit(optimizer.update),
    )
    for rate in RATES:
      gradients = jax.tree.map(lambda w: np.float32(9) * np.sin(w), net)
      updates, state = update(
        gradients, state, net, learning_rate=np.float32(rate)
      )
      net = optax.apply_updates(net, updates)
    return net

  one, other = train(momentum_sgd(0.9, DECAY)), train(chain)
  jax.tree.map(np.testing.assert_array_equal, one, other)
  assert np.abs(one["conv1"]["kernel"] - params["conv1"]["kernel"]).max() > 0.1


@pytest.mark.parametrize("key", ["layer_weight_decay", "layer_rates"])
def test_an_unknown_layer_is_refused_by_name(case, key):
  with pytest.raises(UserError, match=rf"{key} names conv9"):
    momentum_sgd(**{key: (("conv9", 1.0),)}).init(case[0])
  with pytest.raises(UserError, match=rf"{key}=.*not a tuple of pairs"):
    momentum_sgd(**{key: ("fc8", 1.0)})
  with pytest.raises(UserError, match=rf"{key}=.*not a tuple of pairs"):
    momentum_sgd(**{key: (("fc8", "1"),)})


def test_a_negative_factor_is_refused():
  with pytest.raises(UserError, match="negative"):
    momentum_sgd(layer_rates=(("fc8", -1.0),))


def test_a_frozen_layer_costs_no_update():
  """Counted by XLA: of an update of two layers, that of one is left."""
  params = {
    name: {"kernel": np.ones((64, 64), np.float32)} for name in ("fc6", "fc7")
  }
  flops = {}
  for frozen in ((), ("fc6",), ("fc6", "fc7")):
    optimizer = momentum_sgd(layer_rates=tuple((name, 0.0) for name in frozen))

    def update(net, velocity, gradients, optimizer=optimizer):
      rate = np.float32(0.01)
      updates, velocity = optimizer.update(
        gradients, velocity, net, learning_rate=rate
      )
      return optax.apply_updates(net, updates), velocity

    compiled = jax.jit(update).lower(params, params, params).compile()
    flops[len(frozen)] = compiled.cost_analysis().get("flops", 0.0)
  assert flops[0] == 2 * flops[1] > 0 == flops[2]


@pytest.mark.slow
def test_frozen_layers_cost_no_gradient():
  """Counted by XLA in the compiled step, at least the convolutions' own."""
  network = Network(width=1 / 32, num_classes=7, crop_size=64)
  convolutions = tuple((f"conv{i}", 0.0) for i in range(1, 6))
  flops = []
  for rates in ((), convolutions):
    recipe = Recipe(network, 8, 72, optimizer=momentum_sgd(layer_rates=rates))
    mesh = sharding.make_mesh(1, 1)
    step_function = recipe.train_step(mesh)
    compiled = step_function.lower(*recipe.abstract_arguments(mesh)).compile()
    flops.append(compiled.cost_analysis()["flops"])
  macs = [
    layer["macs"]
    for layer in layer_counts(network)["layers"]
    if layer["name"].startswith("conv")
  ]
  # Gradients of kernels and of inputs; conv1 has none of its input. A
  # multiply-add counts twice.
  assert flops[0] - flops[1] > 8 * 2 * (2 * sum(macs) - macs[0])


CLIPPED_ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def test_clipping_sees_the_norm_over_all_towers(case):
  """The chain against NumPy, on parameters that lie on two devices."""
  net, gradients = case[0], case[1][0]
  mesh = sharding.make_mesh(1, 2)
  specs = param_specs(net)
  placed = [sharding.place(tree, specs, mesh) for tree in (net, gradients)]

  def update(net, gradients):
    return CLIPPED_ADAM.update(gradients, CLIPPED_ADAM.init(net), net)

  with jax.numpy_dtype_promotion("standard"):  # as in the training step
    updates, state = jax.jit(update)(*placed)
  found = leaves(gradients)
  norm = np.sqrt(sum((g**2).sum() for g in found.values()))
  assert norm > 100
  moments = leaves(state[1][0].mu)
  for name, g in found.items():
    clipped = g / norm
    np.testing.assert_allclose(moments[name], 0.1 * clipped, rtol=1e-5)
    # The first update of Adam: both moments are corrected for their start at 0.
    expected = -1e-3 * clipped / (np.abs(clipped) + 1e-8)
    np.testing.assert_allclose(leaves(updates)[name], expected, rtol=1e-4)


@pytest.mark.slow
def test_a_chain_of_optax_trains_on_each_mesh_and_resumes(tmp_path):
  """Two steps on each mesh; the second one from a checkpoint of the other."""
  network = Network(width=1 / 32, num_classes=7, crop_size=64)
  recipe = Recipe(network, 8, 72, optimizer=CLIPPED_ADAM)
  results = {}
  for model in (1, 2):
    mesh = sharding.make_mesh(1, model)
    train_step = recipe.train_step(mesh)
    state, *rest = recipe.random_arguments(mesh)
    state, _ = train_step(state, *rest)
    checkpoints = Checkpoints(str(tmp_path / str(model)))
    checkpoints.save(1, step.to_dict(state), {})
    results[model] = jax.device_get(train_step(state, *rest)[0])
    checkpoints.close()
  for (path, one), other in zip(
    jax.tree.leaves_with_path(results[1]),
    jax.tree.leaves(results[2]),
    strict=True,
  ):
    scale = np.abs(one).max() + 1e-12
    assert np.abs(one - other).max() <= 1e-4 * scale, path
  # `mesh` has two devices now; the checkpoint is that of one device.
  abstract = step.abstract_state(network, CLIPPED_ADAM, mesh)
  checkpoints = Checkpoints(str(tmp_path / "1"), read_only=True)
  restored, _ = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  resumed = train_step(step.from_dict(restored, abstract), *rest)[0]
  for one, other in zip(
    jax.tree.leaves(jax.device_get(resumed)),
    jax.tree.leaves(results[2]),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


STATES = {
  "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=16),
  "some leaves": optax.masked(
    optax.trace(0.9), lambda net: jax.tree.map(lambda leaf: leaf.ndim > 2, net)
  ),
  "a key and a flag": optax.apply_if_finite(
    optax.chain(optax.add_noise(0.1, 0.5, 1), optax.adam(1e-3)), 3
  ),
  "no state": optax.sgd(0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_any_state_of_optax_is_sharded_saved_and_restored(name, tmp_path):
  network, mesh = Network(width=1 / 32, num_classes=7), sharding.make_mesh(1, 2)
  state = step.init_state(network, STATES[name], 0, mesh)
  checkpoints = Checkpoints(str(tmp_path))
  checkpoints.save(1, step.to_dict(state), {})
  checkpoints.wait()
  abstract = step.abstract_state(network, STATES[name], mesh)
  restored, _ = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  restored = step.from_dict(restored, abstract)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  for one, other in zip(
    jax.tree.leaves(restored), jax.tree.leaves(state), strict=True
  ):
    assert one.sharding == other.sharding
    if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
      one, other = jax.random.key_data(one), jax.random.key_data(other)
    np.testing.assert_array_equal(one, other)


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
