"""The network as a function: one device, no mesh, both modes, float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_test import to_reference
from reference import alexnet as reference

import alexnet_jax
from alexnet_jax.model import layers
from alexnet_jax.model.network import Layer

BATCH_SIZE = 3
PAPER = alexnet_jax.Network(num_classes=7, width=1 / 32, crop_size=64)
# Every kind of layer and step that PAPER lacks.
OTHER_KINDS = dataclasses.replace(
  PAPER,
  towers=1,
  exchanges=(),
  width=1.0,
  crop_size=15,
  conv1=Layer(4, size=3, stride=2, std=0.2, then=("tanh", "avg_pool")),
  conv2=Layer(
    4, size=2, groups=2, padding=(1, 1), std=0.3,
    then=("within_map_norm", "batch_norm"),
  ),
  conv3=Layer(4, size=2, local=True, std=0.3, then=("sigmoid",)),
  conv4=None,
  conv5=None,
  fc6=Layer(6, std=0.3, bias=0.1, then=("relu", "dropout")),
  fc7=None,
  fc8_std=0.3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def _images(network):
  shape = (BATCH_SIZE, network.crop_size, network.crop_size, 3)
  return np.random.default_rng(5).normal(scale=70, size=shape)


@functools.cache
def _net(network, gain=5):
  """Initial weights in float64, large enough that no signal vanishes."""
  net = alexnet_jax.AlexNet(network, jax.random.key(3))
  return jax.tree.map_with_path(
    lambda path, x: jnp.asarray(
      x if "bias" in path[-2].name else gain * x, jnp.float64
    ),
    net,
  )


def _direction(net, seed):
  """A random tree like `net`, each array scaled as the array of `net` is."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.standard_normal(x.shape) * (jnp.abs(x).mean() + 1e-3), net
  )


def _along(net, direction, step):
  return jax.tree.map(lambda x, d: x + step * d, net, direction)


@pytest.mark.slow
def test_scores_without_a_mesh_are_those_of_the_reference():
  images = _images(PAPER)
  weights = to_reference(_net(PAPER))
  expected, _ = reference.run(weights, images, stem=reference.paper_stem)
  scores = jax.jit(lambda net, x: net(x))(_net(PAPER), jnp.asarray(images))
  np.testing.assert_allclose(scores, expected, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
  "network, training",
  [(PAPER, False), (OTHER_KINDS, True)],
  ids=["paper", "other_kinds"],
)
def test_derivatives_of_the_loss_are_its_differences(network, training):
  """First and second derivatives along a direction in weights and images."""
  images = jnp.asarray(_images(network))
  keys = jax.random.split(jax.random.key(8), BATCH_SIZE) if training else None
  labels = jnp.arange(BATCH_SIZE)[:, None]

  def loss(net, images):
    scores = jax.nn.log_softmax(net(images, keys))
    return -jnp.take_along_axis(scores, labels, axis=1).mean()

  at = (_net(network, 1 if training else 5), images)
  along = _direction(at, 9)
  value = jax.jit(loss)
  gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))

  @jax.jit
  def products(*at):
    _, slope = jax.jvp(loss, at, along)
    _, hessian_vector = jax.jvp(jax.grad(loss, argnums=(0, 1)), at, along)
    return slope, hessian_vector

  slope, hessian_vector = products(*at)
  step = 1e-6
  before, after = (_along(at, along, s) for s in (-step, step))
  difference = (value(*after) - value(*before)) / (2 * step)
  assert abs(difference) > 1e-3  # the direction changes the loss
  np.testing.assert_allclose(slope, difference, rtol=1e-6)
  differences = jax.tree.map(
    lambda x, y: (y - x) / (2 * step), gradient(*before), gradient(*after)
  )
  for (path, ours), expected in zip(
    jax.tree.leaves_with_path(hessian_vector),
    jax.tree.leaves(differences),
    strict=True,
  ):
    np.testing.assert_allclose(
      ours,
      expected,
      rtol=0,
      atol=1e-5 * np.abs(expected).max() + 1e-12,
      err_msg=jax.tree_util.keystr(path),
    )


@pytest.mark.slow
def test_transforms_of_a_model():
  """vmap over images and over models, and checkpoint, change nothing."""
  net, images = _net(PAPER), jnp.asarray(_images(PAPER))
  expected = net(images)
  one_by_one = jax.vmap(lambda image: net(image[None])[0])(images)
  np.testing.assert_allclose(one_by_one, expected, atol=1e-10)
  two = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), net)
  of_both = jax.vmap(lambda net: net(images))(two)
  np.testing.assert_allclose(of_both[0], expected, atol=1e-10)

  def energy(net):
    return jnp.square(net(images)).sum()

  plain = jax.jit(jax.grad(energy))(net)
  again = jax.jit(jax.grad(jax.checkpoint(energy)))(net)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-9), plain, again
  )
  assert isinstance(net.towers.conv1, layers.Conv)
