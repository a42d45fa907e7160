"""A run on disk: its images, and initialisation from it."""

import dataclasses

import jax
import numpy as np
import pytest
from sample_data import write_tiny

from alexnet_jax.data import sources
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs, step

PLAIN = Network(num_classes=5, width=1 / 16)
SIXTH = Network(
  num_classes=3,
  width=1 / 16,
  conv6=Layer(128, size=3, padding=(1, 1)),
  exchanges=("conv3", "conv6", "fc6", "fc7", "fc8"),
)


@pytest.fixture
def other(monkeypatch):
  net = AlexNet(PLAIN, jax.random.key(1))
  state = step.TrainState(0, net, None)
  monkeypatch.setattr(runs, "load_state", lambda *_, **__: (state, {}))
  return net


def kernels(net):
  names = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc8")
  towers = net.towers
  return {
    name: np.asarray(getattr(towers, name).kernel[...])
    for name in names
    if hasattr(towers, name)
  }


def test_the_named_layers_are_copied_and_no_others(other):
  mesh = sharding.make_mesh(1, 1)
  before = kernels(AlexNet(SIXTH, jax.random.key(2)))
  names = [f"conv{i}" for i in range(1, 7)]
  net = AlexNet(SIXTH, jax.random.key(2))
  runs.init_from_run(net, "x", names, mesh)
  after = kernels(net)
  theirs = kernels(other)
  for name in names[:5]:
    np.testing.assert_array_equal(after[name], theirs[name])
    assert (after[name] != before[name]).any()
  for name in ("conv6", "fc6", "fc8"):
    np.testing.assert_array_equal(after[name], before[name])


def test_stride_and_padding_stay_those_of_the_network(other):
  net = AlexNet(SIXTH, jax.random.key(2))
  other.towers.conv1.layer = dataclasses.replace(SIXTH.conv1, padding=(7, 7))
  before = net.towers.conv1.layer
  runs.init_from_run(net, "x", ["conv1"], sharding.make_mesh(1, 1))
  assert net.towers.conv1.layer == before != other.towers.conv1.layer


@pytest.mark.parametrize("name, word", [("fc8", "shape"), ("conv9", "no such")])
def test_a_layer_that_does_not_fit_is_an_error(other, name, word):
  mesh = sharding.make_mesh(1, 1)
  net = AlexNet(SIXTH, jax.random.key(2))
  with pytest.raises(UserError) as error:
    runs.init_from_run(net, "x", [name], mesh)
  assert name in str(error.value)


def test_a_run_trains_on_the_examples_not_held_out(tmp_path):
  config = {
    "dataset": "tiny",
    "data_dir": write_tiny(tmp_path),
    "splits": {"train": "train"},
    "holdout": 12,
    "seed": 7,
  }
  train = sources.open_split("tiny", "train", config["data_dir"])
  rest, _ = sources.hold_out(train, 12, seed=7)
  found = runs.open_split(config, "train")
  assert [found[i] for i in range(len(found))] == [rest[i] for i in range(28)]
  assert found.fingerprint == rest.fingerprint
