"""Sizes and parameter counts, compared with those worked out by hand."""

import math

import jax
import pytest

from alexnet_jax.model import alexnet as model
from alexnet_jax.model.network import Layer, Network, from_dict
from alexnet_jax.model.shapes import count_windows, shapes
from alexnet_jax.runtime.command import UserError


def count(network):
  """The number of parameters; no values are computed."""
  net = model.abstract_net(network)
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(net))


def test_parameters_of_the_papers_network():
  # Two towers' kernels and biases, layer by layer, and one bias for fc8.
  kernels = (
    2 * 11 * 11 * 3 * 48
    + 2 * 5 * 5 * 48 * 128
    + 2 * 3 * 3 * 256 * 192
    + 2 * 3 * 3 * 192 * 192
    + 2 * 3 * 3 * 192 * 128
    + 2 * 9216 * 2048
    + 2 * 4096 * 2048
    + 2 * 2048 * 1000
  )
  biases = 2 * (48 + 128 + 192 + 192 + 128 + 2048 + 2048) + 1000
  assert (kernels, biases) == (60_954_656, 10_568)
  assert count(Network()) == 60_965_224


def test_map_sizes_of_the_papers_network():
  net = {shape.name: shape for shape in shapes(Network())}
  sides = [net[f"conv{i}"].convolved[0] for i in range(1, 6)]
  assert sides == [55, 27, 13, 13, 13]
  assert net["conv5"].outputs == (6, 6, 128)
  inputs = [shape.inputs[-1] for shape in net.values()]
  # What each layer of a tower reads: conv3 and fc6 to fc7 read both towers.
  assert inputs == [3, 48, 256, 192, 192, 9216, 4096, 2048]


def test_sixth_convolution_has_the_pretrained_networks_count():
  network = Network(
    conv6=Layer(128, size=3, padding=(1, 1), std=0.03, bias=1.0),
    exchanges=("conv3", "conv6", "fc6", "fc7", "fc8"),
  )
  assert count(network) == 61_555_304


@pytest.mark.parametrize("overhang", [True, False])
@pytest.mark.parametrize("stride", range(1, 8))
@pytest.mark.parametrize("size", range(1, 6))
def test_the_number_of_windows_is_that_of_pytorch(size, stride, overhang):
  torch = pytest.importorskip("torch")
  for length in range(size, 20):
    maps = torch.zeros(1, 1, length, length)
    pool = torch.nn.MaxPool2d(size, stride, ceil_mode=overhang)
    found = count_windows(length, size, stride, overhang)
    assert found == pool(maps).shape[-1], length


def test_a_crop_that_is_too_small_is_rejected():
  with pytest.raises(UserError, match=r"crop_size=30"):
    shapes(Network(crop_size=30))


def test_an_impossible_exchange_is_rejected():
  with pytest.raises(UserError, match="'conv6'"):
    shapes(Network(exchanges=("conv6", "fc8")))
  with pytest.raises(UserError, match="must contain 'fc8'"):
    shapes(Network(exchanges=("conv3",)))


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"channels": 2}, r"network\.channels must be 3.*got 2"),
    ({"towers": 1}, r"single tower cannot.*set network\.exchanges=\(\)"),
    ({"fc6": Layer(8, then=("pool",))}, "network.fc6.*'pool' needs maps"),
    ({"fc6": Layer(8, stride=2)}, "network.fc6.*stride.*need a convolution"),
    ({"fc7": Layer(8, local=True)}, "network.fc7.*local needs a convolution"),
    ({"fc7": Layer(8, size=3)}, "network.fc7.*cannot follow a fully"),
    (
      {"conv2": Layer(8, size=-1)},
      r"network.conv2.size must be an integer from 0 .*\(got -1",
    ),
    (
      {"conv2": Layer(8, size=3, stride=0)},
      r"network.conv2.stride must be an integer from 1 .*\(got 0",
    ),
    ({"conv4": Layer(192, size=3, groups=5)}, "network.conv4.*groups=5"),
    (
      {"conv3": Layer(-3, size=3)},
      r"network\.conv3\.features must be .*got -3",
    ),
    ({"conv3": Layer(8, size=3, padding=(0, 3))}, r"conv3.*padding=\(0, 3\)"),
    (
      {"conv4": Layer(192, size=3, groups=2, local=True)},
      "network.conv4.*local.*cannot have groups",
    ),
  ],
)
def test_an_invalid_network_is_rejected_with_the_reason(changes, message):
  with pytest.raises(UserError, match=message):
    shapes(Network(**changes))


@pytest.mark.parametrize(
  "key, bad, good",
  [
    ("towers", 0, 2),
    ("lrn_n", 0, 1),
    ("within_map_n", -1, 1),
    ("pool_size", -1, 1),
    ("pool_stride", 0, 1),
    ("width", 0.0, 0.01),
    ("width", float("inf"), 2.0),
    ("dropout_rate", 1.0, 0.99),
    ("dropout_rate", -0.1, 0.0),
    ("compute_dtype", "float8", "bfloat16"),
  ],
)
def test_an_invalid_value_is_rejected(key, bad, good):
  assert shapes(Network(**{key: good}))
  with pytest.raises(UserError, match=rf"network\.{key} must be .*got '?{bad}"):
    shapes(Network(**{key: bad}))


def test_an_unknown_step_is_named():
  values = {"conv1": {"features": 8, "size": 3, "then": ["relu", "norm"]}}
  network = from_dict(values, num_classes=10)
  with pytest.raises(UserError, match=r"network\.conv1.*unknown step 'norm'"):
    shapes(network)


def test_an_unknown_key_is_named():
  layer = {"conv1": {"features": 8, "sise": 3}}
  with pytest.raises(UserError, match=r"unknown key network\.conv1\.sise"):
    from_dict(layer, num_classes=10)
  with pytest.raises(UserError, match=r"unknown key network\.crop_op_size"):
    from_dict({"crop_op_size": 64}, num_classes=10)
