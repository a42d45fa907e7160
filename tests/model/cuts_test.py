"""Cuts: the network without an exchange or a tower.

The probabilities of cut networks are compared with float64 NumPy in
tests/training/classifier_test.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model import cuts
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.runtime.command import UserError

SMALL = Network(
  num_classes=4,
  crop_size=64,
  width=1 / 16,
  conv3=Layer(96, size=3, padding=(1, 1), std=0.1),
)
LAYERS = ("conv2", "conv5", "fc6", "fc7")  # the last ones before exchanges


def silenced(net, tower):
  """The network with a tower whose own units are all zero."""

  def leaf(path, value):
    names = [key.name for key in path]
    if names[0] == "towers" and names[1] in LAYERS:
      return value.at[tower].set(0.0)
    return value

  return jax.tree.map_with_path(leaf, net)


@pytest.mark.parametrize("change", [{}, {"groups": 2}, {"local": True}])
def test_a_cut_tower_is_one_whose_units_are_all_zero(change):
  """With every kind of layer after an exchange."""
  conv3 = dataclasses.replace(SMALL.conv3, **change)
  network = dataclasses.replace(SMALL, conv3=conv3)
  net = AlexNet(network, jax.random.key(0))
  images = 50 * jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
  for tower in (0, 1):
    found = cuts.cut(net, towers=[tower])(images)
    np.testing.assert_allclose(found, silenced(net, tower)(images), atol=1e-6)
    assert jnp.abs(found - net(images)).max() > 1e-4


def test_what_cannot_be_cut_is_a_user_error():
  net = AlexNet(SMALL, jax.random.key(0))
  with pytest.raises(UserError, match=r"'conv2' cannot.*conv3, fc6, fc7"):
    cuts.cut(net, exchanges=["conv2"])
  with pytest.raises(UserError, match="'fc8' cannot be cut"):
    cuts.cut(net, exchanges=["fc8"])
  with pytest.raises(UserError, match="no tower 2; its towers are 0 to 1"):
    cuts.cut(net, towers=[2])
  with pytest.raises(UserError, match="leave at least one"):
    cuts.cut(net, towers=[0, 1])
