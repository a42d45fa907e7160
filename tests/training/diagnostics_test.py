"""What is said of a plateau, on networks whose state is known."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.analysis import figures
from alexnet_jax.data.augment import ImageStatistics
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet, param_specs
from alexnet_jax.model.network import Network
from alexnet_jax.training import diagnostics, step
from alexnet_jax.training.optimizer import momentum_sgd

NETWORK = Network(num_classes=7, width=1 / 16, crop_size=96)
MEAN = np.full((100, 100, 3), 100, np.float32)


def images(count=8, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (count, 100, 100, 3), np.uint8)


def measure(net, velocity=None, mesh_shape=(1, 2), pixels=None, weight=None):
  mesh = sharding.make_mesh(*mesh_shape)
  pixels = images() if pixels is None else pixels
  weight = np.ones(len(pixels), np.float32) if weight is None else weight
  batch = jax.device_put(
    {"image": pixels, "weight": weight}, sharding.batch_sharding(mesh)
  )
  seen = ImageStatistics(MEAN, np.zeros((3, 3), np.float32))
  seen = sharding.place(seen, sharding.REPLICATED, mesh)
  placed = [
    sharding.place(tree, param_specs(net), mesh)
    for tree in (net, net if velocity is None else velocity)
  ]
  look = diagnostics.Diagnostics(NETWORK, mesh, batch, seen)
  return look(*placed), (placed[0], batch, seen, mesh)


@pytest.fixture(scope="module")
def net():
  """Narrow layers with larger weights, or rounding would drown the signal."""
  return jax.tree.map_with_path(
    lambda path, leaf: leaf * (6.0 if path[-2].name == "kernel" else 1.0),
    AlexNet(NETWORK, jax.random.key(0)),
  )


def test_spread_and_correlation_by_hand(net):
  found, (placed, batch, seen, mesh) = measure(net)
  hidden = figures.make_features(placed, mesh)(placed, batch["image"], seen)
  hidden = np.asarray(hidden, np.float64)
  scores = hidden @ np.asarray(net.towers.fc8.kernel[...]).reshape(-1, 7)
  pairs = np.corrcoef(hidden)[np.triu_indices(8, 1)]
  assert found["score_spread"] == pytest.approx(
    scores.std(axis=0).mean(), rel=1e-3
  )
  assert found["fc7_correlation"] == pytest.approx(pairs.mean(), rel=1e-4)


def test_layers_that_are_not_there_are_not_spoken_of(net):
  """Every layer but the last may be dead, and no sixth convolution."""
  found, _ = measure(net)
  layers = [key[13:] for key in found if key.startswith("update_ratio_")]
  dead = {key[5:] for key in found if key.startswith("dead_")}
  assert dead == {*layers} - {"fc8"} and "conv6" not in dead


def test_every_mesh_says_the_same(net):
  first, _ = measure(net, mesh_shape=(1, 1))
  for shape in ((2, 1), (2, 2)):
    other, _ = measure(net, mesh_shape=shape)
    assert other == pytest.approx(first, rel=1e-3, abs=1e-5)


def test_equal_images_are_equal_and_fillers_do_not_count(net):
  pixels = images()
  pixels[1:6] = pixels[0]
  weight = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
  found, _ = measure(net, pixels=pixels, weight=weight)
  assert found["score_spread"] == pytest.approx(0, abs=1e-6)
  assert found["fc7_correlation"] == pytest.approx(1)


def test_dead_units_are_counted():
  """Of living units, three of fc6's 256 and one of conv1's 6 are killed."""
  net = AlexNet(NETWORK, jax.random.key(0))
  before, _ = measure(net)
  assert before["dead_fc6"] == before["dead_conv1"] == 0
  fc6, conv1 = net.towers.fc6.bias, net.towers.conv1.bias
  fc6[...] = fc6[...].at[0, :2].set(-1e9).at[1, 5].set(-1e9)
  conv1[...] = conv1[...].at[1, 2].set(-1e9)
  found, _ = measure(net)
  assert found["dead_fc6"] == pytest.approx(3 / 256)
  assert found["dead_conv1"] == pytest.approx(1 / 6)


def test_update_ratios_are_lengths(net):
  """And a layer that did not move, conv1, has none."""
  velocity = jax.tree.map_with_path(
    lambda path, leaf: jnp.float32(-0.25 * (path[1].name != "conv1")) * leaf,
    net,
  )
  found, _ = measure(net, velocity)
  ratios = {k: v for k, v in found.items() if k.startswith("update_ratio")}
  names = ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
  assert set(ratios) == {f"update_ratio_{name}" for name in names}
  assert list(ratios.values()) == pytest.approx([0.25] * 7, rel=1e-5)


def test_no_exchange_is_added(net):
  """Three gathers, as in any forward pass; not even fc8's sum."""
  mesh = sharding.make_mesh(2, 2)
  state = step.abstract_state(NETWORK, momentum_sgd(), mesh)
  seen = ImageStatistics(
    jax.ShapeDtypeStruct(MEAN.shape, jnp.float32),
    jax.ShapeDtypeStruct((3, 3), jnp.float32),
  )
  pixels = jax.ShapeDtypeStruct(
    (8, 100, 100, 3), jnp.uint8, sharding=sharding.batch_sharding(mesh)
  )
  probe = diagnostics._make_probe(NETWORK, mesh)
  programs = [probe.lower(state.net, pixels, seen)]
  norms = jax.jit(diagnostics._squared_norms)
  programs.append(norms.lower(state.net, state.optimizer_state))
  kinds = r"= \S+ (all-gather|all-reduce|reduce-scatter|all-to-all|"
  kinds += r"collective-permute)(?:-start)?\("
  found = [re.findall(kinds, p.compile().as_text()) for p in programs]
  assert found == [["all-gather"] * 3, []]


def test_the_messages_on_a_plateau():
  detector = diagnostics.PlateauDetector(10)
  for _ in range(99):
    detector.add_loss(math.log(10))
  assert detector.message() == ""  # too early
  detector.add_loss(math.log(10))
  assert detector.message() == "on the plateau"
  for spread in (1.0, 1.1, 1.0, 1.1, 1.15):
    detector.add_spread(spread)
  assert detector.message().startswith("stalled")
  detector.add_spread(1.33)  # a fifth more than the 1.1 five readings ago
  assert detector.message() == "on the plateau, signal growing"
  for _ in range(100):
    detector.add_loss(math.log(10) - 0.06)
  assert detector.message() == ""
