"""Batch normalisation: its formula, every mesh, checkpoints and weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from alexnet_jax.analysis import programs
from alexnet_jax.analysis.collectives import STATISTICS
from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.model import layers, sharding
from alexnet_jax.model.grouped import from_grouped, to_grouped
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.model.shapes import layer_counts, shapes
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.optimizer import momentum_sgd

# Four layers, three of them with batch normalisation, and all exchanges.
NETWORK = Network(
  num_classes=7,
  width=1 / 8,
  crop_size=32,
  conv1=Layer(
    48, size=5, stride=2, std=0.05, then=("batch_norm", "relu", "pool")
  ),
  conv2=None,
  conv3=Layer(
    64, size=3, padding=(1, 1), std=0.1, then=("batch_norm", "relu", "pool")
  ),
  conv4=None,
  conv5=None,
  fc6=Layer(128, std=0.1, then=("batch_norm", "relu", "dropout")),
  fc7=None,
  fc8_std=0.3,
  exchanges=("conv3", "fc6", "fc8"),
)
BATCH_SIZE = 8


def norm(x, scale, offset, mean, variance, epsilon):
  """The formula, in NumPy."""
  return scale * (x - mean) / np.sqrt(variance + epsilon) + offset


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (8, 6)], ids=["maps", "units"])
def test_the_formula_in_float64(shape):
  """Output, gradients and running averages, of a batch on two devices."""
  network = Network(batch_norm_momentum=0.7, batch_norm_epsilon=1e-3)
  rng = np.random.default_rng(0)
  x, g = 3 + 2 * rng.normal(size=(2, *shape))
  scale, offset, mean, variance = rng.uniform(0.5, 2, (4, 6))
  axes = tuple(range(len(shape) - 1))
  mesh = sharding.make_mesh(2, 1)

  def on_device(x, scale, offset, training):
    module = layers.BatchNorm(6, network)
    module.scale, module.offset = nnx.Param(scale), nnx.Param(offset)
    module.mean = nnx.BatchStat(jnp.asarray(mean))
    module.variance = nnx.BatchStat(jnp.asarray(variance))
    y = module(x, training=training)
    return y, (module.mean[...], module.variance[...])

  def run(training):
    specs = (sharding.BATCH, sharding.REPLICATED, sharding.REPLICATED)
    function = sharding.on_each_device(
      functools.partial(on_device, training=training),
      mesh,
      specs,
      (sharding.BATCH, sharding.REPLICATED),
    )
    arguments = sharding.place((x, scale, offset), specs, mesh)
    y, pull_back, averages = jax.vjp(
      jax.jit(function), *arguments, has_aux=True
    )
    return y, pull_back(sharding.place(g, sharding.BATCH, mesh)), averages

  with jax.enable_x64(True):
    y, gradients, averages = run(training=True)
    evaluated, _, kept = run(training=False)
  now = x.mean(axes), x.var(axes)
  expected = functools.partial(norm, epsilon=1e-3)
  np.testing.assert_allclose(
    y, expected(x, scale, offset, *now), rtol=0, atol=1e-12
  )
  np.testing.assert_allclose(
    evaluated, expected(x, scale, offset, mean, variance), rtol=0, atol=1e-12
  )
  for average, before, batch in zip(
    averages, (mean, variance), now, strict=True
  ):
    np.testing.assert_allclose(average, 0.7 * before + 0.3 * batch, rtol=1e-12)
  np.testing.assert_array_equal(kept, (mean, variance))
  # d/dx: the gradient less its mean and its part along the normalised x.
  normed = expected(x, 1, 0, *now)
  inner = g - g.mean(axes) - normed * (g * normed).mean(axes)
  wanted = (
    scale / np.sqrt(now[1] + 1e-3) * inner,
    (g * normed).sum(axes),
    g.sum(axes),
  )
  for got, want in zip(gradients, wanted, strict=True):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)


def optimizer():
  return momentum_sgd(0.9, 5e-4, decay_biases=True)


@functools.cache
def train(data, models, steps=2):
  """The state and the losses after some steps on a mesh."""
  mesh = sharding.make_mesh(data, models)
  state = step.init_state(NETWORK, optimizer(), 0, mesh)
  losses = []
  for _ in range(steps):
    state, loss = train_step(mesh)(state)
    losses.append(float(loss))
  return state, losses


@functools.cache
def train_step(mesh):
  """(state) -> (state, loss), always with the same batch."""
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.integers(0, 256, (BATCH_SIZE, 40, 40, 3), np.uint8),
    "label": np.arange(BATCH_SIZE, dtype=np.int32) % 7,
    "index": np.arange(BATCH_SIZE, dtype=np.int32),
    "epoch": np.zeros(BATCH_SIZE, np.int32),
    "weight": np.ones(BATCH_SIZE, np.float32),
  }
  batch = sharding.place(batch, sharding.BATCH, mesh)
  statistics = ImageStatistics(
    np.full((40, 40, 3), 127.0, np.float32), 50 * np.eye(3, dtype=np.float32)
  )
  statistics = sharding.place(statistics, sharding.REPLICATED, mesh)
  streams = step.make_streams("separate", 0, mesh)
  compiled = step.make_train_step(NETWORK, Augmentation(), optimizer(), mesh)

  def run(state):
    state, metrics = compiled(
      state, batch, statistics, streams, np.float32(0.01)
    )
    assert all(np.all(finite) for finite in metrics["finite"].values())
    assert "conv1.batch_norm.variance" in metrics["finite"]
    return state, metrics["loss"]

  return run


def arrays(state):
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree.leaves_with_path(step.to_dict(state))
  }


@pytest.mark.parametrize(
  "data, models",
  [
    (1, 2),
    pytest.param(2, 1, marks=pytest.mark.slow),
    pytest.param(2, 2, marks=pytest.mark.slow),
  ],
)
def test_every_mesh_trains_the_same_network(data, models):
  state, losses = train(data, models)
  expected, expected_losses = train(1, 1)
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
  wanted = arrays(expected)
  for name, got in arrays(state).items():
    # A bias in front of a batch normalisation has no gradient but rounding.
    scale = max(np.abs(wanted[name]).max(), 1e-4)
    np.testing.assert_allclose(
      got, wanted[name], rtol=0, atol=2e-4 * scale, err_msg=name
    )


def test_running_averages_move_and_have_no_velocity():
  state, _ = train(1, 2)
  for name in ("conv1", "conv3", "fc6"):
    norm = getattr(state.net.towers, name).batch_norm
    velocity = getattr(state.optimizer_state.towers, name).batch_norm
    assert norm.mean.shape[0] == 2  # the towers
    assert np.all(norm.mean[...]) and np.all(norm.variance[...] != 1)
    assert not np.any(velocity.mean[...]) and not np.any(velocity.variance[...])
    assert np.any(velocity.scale[...]) and np.any(velocity.offset[...])


def test_only_kernels_and_biases_are_decayed():
  state, _ = train(1, 2)
  zeros = jax.tree.map(jnp.zeros_like, state.net)
  velocity, _ = jax.jit(optimizer().update)(
    zeros, zeros, state.net, learning_rate=np.float32(0.1)
  )
  decayed = {
    str(path[-2].name)
    for path, leaf in jax.tree.leaves_with_path(velocity)
    if np.any(leaf)
  }
  assert decayed == {"kernel", "bias", "fc8_bias"}


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
  mesh = sharding.make_mesh(1, 2)
  state, _ = train(1, 2, steps=1)
  checkpoints = Checkpoints(str(tmp_path), 1)
  checkpoints.save(1, step.to_dict(state), {})
  checkpoints.wait()
  abstract = step.abstract_state(NETWORK, optimizer(), mesh)
  values, _ = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  resumed, _ = train_step(mesh)(step.from_dict(values, abstract))
  expected = arrays(train(1, 2)[0])
  for name, got in arrays(resumed).items():
    np.testing.assert_array_equal(got, expected[name], err_msg=name)


def test_no_further_exchange_between_towers():
  """The audit of the compiled programs; statistics cross "data" only."""
  recipe = Recipe(NETWORK, BATCH_SIZE, image_size=40)
  result = programs.audit(recipe, sharding.make_mesh(2, 2))
  assert result.findings == []
  statistics = [c for c in result.collectives if c.layer == STATISTICS]
  assert {c.axes for c in statistics} == {("data",)}
  assert {c.program for c in statistics} == {"train"}


def test_exported_weights_have_the_averages_and_come_back():
  net = jax.device_get(train(1, 2)[0].net)
  exported = to_grouped(net, NETWORK)
  norm = net.towers.conv1.batch_norm
  np.testing.assert_array_equal(
    exported["conv1.batch_norm.mean"], norm.mean[...].reshape(-1)
  )
  assert "fc6.batch_norm.variance" in exported
  imported = from_grouped(exported, NETWORK)
  for got, want in zip(
    jax.tree.leaves(imported), jax.tree.leaves(net), strict=True
  ):
    np.testing.assert_array_equal(got, want)


def test_parameters_are_counted_and_averages_are_not():
  conv3 = dataclasses.replace(NETWORK.conv3, then=("relu", "pool"))
  plain = dataclasses.replace(NETWORK, conv3=conv3)
  few, more = [
    layer_counts(net)["totals"]["parameters"] for net in (plain, NETWORK)
  ]
  assert more - few == 2 * 2 * 8  # towers, scale and offset, maps


def test_two_norms_after_one_layer_are_rejected():
  twice = Layer(8, size=3, then=("batch_norm", "batch_norm"))
  with pytest.raises(UserError, match="'batch_norm' can follow it once"):
    shapes(dataclasses.replace(NETWORK, conv2=twice))
