"""The network on every mesh, compared with NumPy and with a single tower.

Networks are 1/16 wide and read 96 pixels; the rest is the paper's: all layers,
both towers, dropout. At 96 pixels, too, conv1's last position extends beyond
the edge by 3 pixels.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from reference import alexnet as reference

from alexnet_jax.model import alexnet as model
from alexnet_jax.model import layers, sharding
from alexnet_jax.model.network import LAYERS, Network, from_dict
from alexnet_jax.model.sharding import BATCH, REPLICATED
from alexnet_jax.runtime import config
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.schedule import make_schedule

ROOT = pathlib.Path(__file__).resolve().parents[2]
CROP_SIZE = 96
SMALL = Network(num_classes=7, width=1 / 16, crop_size=CROP_SIZE)
BATCH_SIZE = 4


@functools.cache
def make_net(network):
  """Initial weights, multiplied by 5 so that no layer's signal vanishes."""
  net = model.AlexNet(network, jax.random.key(3))
  return jax.tree.map_with_path(
    lambda path, x: x if "bias" in path[-2].name else x * 5, net
  )


@functools.cache
def inputs(side=CROP_SIZE):
  rng = np.random.default_rng(5)
  images = rng.normal(scale=70, size=(BATCH_SIZE, side, side, 3))
  labels = rng.integers(0, 7, BATCH_SIZE)
  return images, labels, jax.random.split(jax.random.key(8), BATCH_SIZE)


def on_mesh(network, data, models, training=True):
  """(net, images) -> (scores, gradients of the mean loss) on a mesh."""
  _, labels, keys = inputs(network.crop_size)
  mesh = sharding.make_mesh(data, models, towers=network.towers)
  specs = model.param_specs(
    jax.eval_shape(lambda: model.AlexNet(network, jax.random.key(0)))
  )

  def one_device(net, images, labels, keys):
    scores = model.forward(net, images, keys if training else None)
    own = jnp.take_along_axis(
      jax.nn.log_softmax(scores), labels[:, None], axis=1
    )
    return -lax.psum(own.sum(), "data") / BATCH_SIZE, scores

  loss = sharding.on_each_device(
    one_device, mesh, (specs, BATCH, BATCH, BATCH), (REPLICATED, BATCH)
  )

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))

  def run(net, images, keys=keys):
    batch = (images, jnp.asarray(labels), keys)
    arguments = sharding.place((net, *batch), (specs, *[BATCH] * 3), mesh)
    (value, scores), gradients = step(*arguments)
    return jax.device_get((value, scores, gradients))

  return run


@functools.cache
def small_on_mesh(data, models, training=True):
  images = jnp.asarray(inputs()[0], jnp.float32)
  return on_mesh(SMALL, data, models, training)(make_net(SMALL), images)


def masks(network, example_keys):
  """The units that dropout keeps: [layer][tower] f64[B,units] of 0 and 1."""

  def keep(name, tower):
    keys = example_keys
    for number in (tower, LAYERS.index(name)):
      keys = jax.vmap(functools.partial(jax.random.fold_in, data=number))(keys)
    units = round(getattr(network, name).features * network.width)
    ones = jnp.ones((BATCH_SIZE, units))
    return np.asarray(layers.dropout(ones, keys, rate=0.5, inverted=False))

  return {
    name: [keep(name, tower) for tower in range(network.towers)]
    for name in ("fc6", "fc7")
  }


def to_reference(net):
  """Parameters or gradients in the form that the reference uses."""
  towers = net.towers
  result = {}
  for name in LAYERS:
    if hasattr(towers, name):
      layer = getattr(towers, name)
      leaves = [layer.kernel[...]]
      if hasattr(layer, "bias"):
        leaves.append(layer.bias[...])
      result[name] = [
        [np.asarray(leaf[t], float) for leaf in leaves]
        for t in range(leaves[0].shape[0])
      ]
  result["fc8_bias"] = [[np.asarray(net.fc8_bias[...], float)]]
  return result


def assert_trees_close(got, want, tolerance):
  """Compares each array, to `tolerance` times its largest element."""
  for name, towers in want.items():
    for t, leaves in enumerate(towers):
      for i, leaf in enumerate(leaves):
        np.testing.assert_allclose(
          got[name][t][i],
          leaf,
          rtol=0,
          atol=tolerance * np.abs(leaf).max(),
          err_msg=f"{name} of tower {t}, {['kernel', 'bias'][i]}",
        )


# Float32 sums over positions and images, through eight layers and back. The
# errors of these networks were below 2e-5 of the largest element.
FLOAT32 = 1e-4
FLOAT64 = 1e-11


def recipe(name, width, crop_size):
  """A configuration's network, narrow, its optimiser, and the reference's."""
  values = config.load(str(ROOT / "configs" / f"{name}.py"))
  values.network.update(width=width, crop_size=crop_size)
  network = from_dict(values.network.to_dict(), num_classes=7)
  schedule = make_schedule(**values.schedule, total_epochs=90)
  stem = {
    "paper": reference.paper_stem,
    "original2012": reference.original_stem,
  }[name]
  return network, momentum_sgd(**values.optimizer), schedule, stem


FEW = (0, 75)  # the epochs of the updates; original2012 freezes conv1 at 72
MANY = (0, 0, 0, 0, 30, 30, 30, 60, 75, 75)


@pytest.mark.parametrize(
  "name, width, crop_size, epochs",
  [
    ("paper", 1 / 32, 64, FEW),
    pytest.param("paper", 1 / 16, CROP_SIZE, MANY, marks=pytest.mark.slow),
    pytest.param(
      "original2012", 1 / 16, CROP_SIZE, MANY, marks=pytest.mark.slow
    ),
  ],
  ids=["paper", "paper_wide", "original2012"],
)
def test_the_network_is_the_float64_reference(name, width, crop_size, epochs):
  """One evaluation, then updates with dropout and falling rates.

  Compares scores in evaluation, and loss, scores, gradients and new parameters
  of the first and the last update.
  """
  images, labels, keys = inputs(crop_size)
  network, optimizer, schedule, stem = recipe(name, width, crop_size)
  net = make_net(network)
  step_keys = [
    jax.vmap(functools.partial(jax.random.fold_in, data=i))(keys)
    for i in range(len(epochs))
  ]

  weights = to_reference(net)
  velocity = reference.zeros_like(weights)
  evaluated, _ = reference.run(weights, images, stem=stem)
  expected = []
  for epoch, now in zip(epochs, step_keys, strict=True):
    keep = masks(network, now)
    scores, _ = reference.run(weights, images, keep, stem=stem)
    loss, gradients = reference.loss_and_gradients(
      weights, images, labels, keep, stem=stem
    )
    rates = schedule.rates(epoch)
    weights, velocity = reference.update(
      weights,
      velocity,
      gradients,
      rate=float(rates.weights),
      bias_rate=float(rates.biases),
      frozen=() if rates.conv1_weights else ("conv1",),
    )
    expected.append((loss, scores, gradients, weights))

  def check(dtype, tolerance):
    ours = jax.tree.map(lambda x: x.astype(dtype), net)
    pixels = jnp.asarray(images, dtype)
    _, scores, _ = on_mesh(network, 1, 2, training=False)(ours, pixels)
    spread = np.abs(evaluated).max()
    np.testing.assert_allclose(scores, evaluated, atol=tolerance * spread)
    step = on_mesh(network, 1, 2)
    motion = optimizer.init(ours)
    update = jax.jit(optimizer.update)
    for i, (epoch, now) in enumerate(zip(epochs, step_keys, strict=True)):
      loss, scores, gradients = step(ours, pixels, now)
      rates = jax.tree.map(dtype, schedule.rates(epoch))
      motion, _ = update(gradients, motion, ours, learning_rate=rates)
      ours = optax.apply_updates(ours, motion)
      if i in (0, len(epochs) - 1):
        np.testing.assert_allclose(loss, expected[i][0], rtol=tolerance)
        np.testing.assert_allclose(
          scores, expected[i][1], atol=tolerance * spread
        )
        assert_trees_close(to_reference(gradients), expected[i][2], tolerance)
        assert_trees_close(to_reference(ours), expected[i][3], tolerance)

  with jax.enable_x64(True):
    check(np.float64, FLOAT64)
  check(np.float32, FLOAT32)


@pytest.mark.parametrize(
  "data, models",
  [
    (2, 2),
    pytest.param(1, 1, marks=pytest.mark.slow),
    pytest.param(2, 1, marks=pytest.mark.slow),
    pytest.param(4, 2, marks=pytest.mark.slow),
  ],
)
def test_every_mesh_computes_the_same(data, models):
  """With dropout: its randomness belongs to examples and units, not devices."""
  value, scores, gradients = small_on_mesh(data, models)
  expected_value, expected_scores, expected = small_on_mesh(1, 2)
  np.testing.assert_allclose(value, expected_value, rtol=1e-6)
  np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
  assert_trees_close(
    to_reference(gradients), to_reference(expected), tolerance=FLOAT32
  )


def test_two_towers_are_one_network_with_grouped_convolutions():
  images, labels, keys = inputs()
  net = make_net(SMALL)
  keep = {name: np.concatenate(m, 1) for name, m in masks(SMALL, keys).items()}
  weights = merge(net)

  def loss(weights):
    scores = grouped(weights, jnp.asarray(images, jnp.float32), keep)
    own = jnp.take_along_axis(
      jax.nn.log_softmax(scores), jnp.asarray(labels)[:, None], axis=1
    )
    return -own.mean(), scores

  (value, scores), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    weights
  )
  our_value, our_scores, our_gradients = small_on_mesh(1, 2)
  np.testing.assert_allclose(our_value, value, rtol=1e-6)
  np.testing.assert_allclose(our_scores, scores, atol=1e-4)
  for name, leaf in merge(our_gradients).items():
    np.testing.assert_allclose(
      leaf,
      gradients[name],
      rtol=0,
      atol=FLOAT32 * np.abs(leaf).max(),
      err_msg=name,
    )


def merge(net):
  """The kernels of both towers side by side: conv2, 4 and 5 have groups."""
  weights = {"fc8.bias": net.fc8_bias[...]}
  for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
    layer = getattr(net.towers, name)
    weights[f"{name}.kernel"] = jnp.concatenate([*layer.kernel[...]], -1)
    weights[f"{name}.bias"] = jnp.concatenate([*layer.bias[...]])
  weights["fc8.kernel"] = jnp.concatenate([*net.towers.fc8.kernel[...]])
  return weights


def grouped(weights, x, keep):
  """A single tower of full width; each half of the maps is normed alone."""

  def conv(name, x, stride=1, padding=(1, 1), groups=1):
    x = lax.conv_general_dilated(
      x,
      weights[f"{name}.kernel"],
      (stride, stride),
      (padding, padding),
      feature_group_count=groups,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.relu(x + weights[f"{name}.bias"].reshape(1, 1, 1, -1))

  def norm(x):
    halves = jnp.split(x, 2, axis=-1)
    constants = {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75}
    normed = [layers.local_response_norm(half, **constants) for half in halves]
    return jnp.concatenate(normed, -1)

  pool = functools.partial(layers.max_pool, size=3, stride=2, overhang=True)

  def fc(name, x):
    bias = weights[f"{name}.bias"].reshape(1, -1)
    return x @ weights[f"{name}.kernel"] + bias

  x = pool(norm(conv("conv1", x, 4, (0, 3))))
  x = pool(norm(conv("conv2", x, 1, (2, 2), groups=2)))
  x = conv("conv4", conv("conv3", x), groups=2)
  x = pool(conv("conv5", x, groups=2))
  x = jax.nn.relu(fc("fc6", x.reshape(len(x), -1))) * keep["fc6"]
  x = jax.nn.relu(fc("fc7", x)) * keep["fc7"]
  return fc("fc8", x)


def test_initial_weights_are_section_5s():
  """Normal, deviation 0.01; biases 1 in conv2, conv4, conv5, fc6 and fc7."""
  net = model.AlexNet(Network(width=1 / 8), jax.random.key(0))
  for name in LAYERS:
    if name == "conv6":
      continue
    layer = getattr(net.towers, name)
    kernel = np.asarray(layer.kernel[...], float)
    # 5 standard errors of the mean and of the standard deviation.
    assert abs(kernel.mean()) < 5 * 0.01 / np.sqrt(kernel.size), name
    assert abs(kernel.std() / 0.01 - 1) < 5 / np.sqrt(2 * kernel.size), name
    # Normal: the fourth moment is three times the squared second.
    kurtosis = (kernel**4).mean() / (kernel**2).mean() ** 2
    assert abs(kurtosis - 3) < 5 * np.sqrt(96 / kernel.size), name
    if name != "fc8":
      ones = name in ("conv2", "conv4", "conv5", "fc6", "fc7")
      np.testing.assert_array_equal(layer.bias[...], float(ones))
  np.testing.assert_array_equal(net.fc8_bias[...], 0)


def test_no_two_layers_or_towers_start_with_the_same_weights():
  net = model.AlexNet(SMALL, jax.random.key(0))
  drawn = [
    np.asarray(leaf[tower]).ravel()[:8]
    for leaf in jax.tree.leaves(net.towers)
    for tower in range(2)
    if leaf.ndim > 2
  ]
  assert len({tuple(values) for values in drawn}) == len(drawn) == 16


@pytest.mark.parametrize("exchanges", [("fc8",), SMALL.exchanges])
def test_a_tower_reads_the_other_at_exchanges_only(exchanges):
  network = dataclasses.replace(SMALL, exchanges=exchanges)
  net = jax.tree.map(lambda x: x, make_net(network))
  images = jnp.asarray(inputs()[0], jnp.float32)
  # Tower 1's own class scores are 0, so all scores come from tower 0.
  net.towers.fc8.kernel[...] = net.towers.fc8.kernel[...].at[1].set(0)
  run = on_mesh(network, 1, 2, training=False)
  _, before, _ = run(net, images)
  net.towers.conv2.kernel[...] = net.towers.conv2.kernel[...].at[1].add(0.1)
  _, after, _ = run(net, images)
  assert np.array_equal(before, after) == (exchanges == ("fc8",))
