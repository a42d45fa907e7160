"""The grouped layout: by index, bit for bit, and in PyTorch."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model import alexnet as model
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.grouped import from_grouped, to_grouped
from alexnet_jax.runtime import config
from alexnet_jax.runtime.command import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make(name, width=1 / 8, num_classes=10):
  """A configuration's network, and random parameters for it."""
  values = config.load(str(ROOT / "configs" / f"{name}.py"))
  values.network.width *= width
  network = networks.from_dict(values.network.to_dict(), num_classes)
  random = np.random.default_rng(0)
  return _like(network, lambda x: random.normal(0, 0.1, x.shape)), network


def _like(network, values):
  shapes = jax.eval_shape(lambda: model.AlexNet(network, jax.random.key(0)))
  return jax.tree.map(lambda x: values(x).astype(np.float32), shapes)


def test_shapes_are_those_of_the_published_layout():
  network = networks.Network()
  net = _like(network, lambda x: np.zeros(x.shape, np.float32))
  shapes = {k: v.shape for k, v in to_grouped(net, network).items()}
  assert shapes == {
    "conv1.weight": (96, 3, 11, 11),
    "conv1.bias": (96,),
    "conv2.weight": (256, 48, 5, 5),
    "conv2.bias": (256,),
    "conv3.weight": (384, 256, 3, 3),
    "conv3.bias": (384,),
    "conv4.weight": (384, 192, 3, 3),
    "conv4.bias": (384,),
    "conv5.weight": (256, 192, 3, 3),
    "conv5.bias": (256,),
    "fc6.weight": (4096, 9216),
    "fc6.bias": (4096,),
    "fc7.weight": (4096, 4096),
    "fc7.bias": (4096,),
    "fc8.weight": (1000, 4096),
    "fc8.bias": (1000,),
  }


def test_every_weight_lies_where_the_layout_says():
  net, network = make("paper")
  arrays = to_grouped(net, network)
  towers = net.towers
  # One tower at 1/8: conv1 6, conv2 16, conv5 16 maps; fc6, fc7 256 units.
  conv2 = np.asarray(towers.conv2.kernel[...])
  assert arrays["conv2.weight"][16 + 3, 5, 1, 4] == conv2[1, 1, 4, 5, 3]
  assert arrays["conv2.bias"][16 + 3] == towers.conv2.bias[1, 3]
  conv3 = np.asarray(towers.conv3.kernel[...])  # reads both towers' 32 maps
  assert arrays["conv3.weight"][2, 31, 0, 2] == conv3[0, 0, 2, 31, 2]
  fc6 = np.asarray(towers.fc6.kernel[...])
  row, column, channel = 4, 2, 29
  ours = (row * 6 + column) * 32 + channel
  theirs = channel * 36 + row * 6 + column
  assert arrays["fc6.weight"][256 + 7, theirs] == fc6[1, ours, 7]
  fc8 = np.asarray(towers.fc8.kernel[...])
  assert arrays["fc8.weight"][9, 256 + 11] == fc8[1, 11, 9]


@pytest.mark.parametrize(
  "name",
  [
    "paper",
    "columns_apart_150",
    "conv6",
    "torchvision",
    "cifar_18pct",
    "batch_norm",
  ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_there_and_back_is_lossless(name, reverse):
  net, network = make(name)
  arrays = to_grouped(net, network, reverse)
  back = from_grouped(arrays, network, reverse)
  assert jax.tree.structure(back) == jax.tree.structure(net)
  jax.tree.map(np.testing.assert_array_equal, back, net)


def test_bgr_reverses_what_conv1_reads_and_nothing_else():
  net, network = make("paper")
  rgb = to_grouped(net, network)
  bgr = to_grouped(net, network, reverse_colours=True)
  np.testing.assert_array_equal(
    bgr.pop("conv1.weight")[:, 0], rgb.pop("conv1.weight")[:, 2]
  )
  for name, array in bgr.items():
    np.testing.assert_array_equal(array, rgb[name])


def test_every_array_that_does_not_fit_is_named():
  net, network = make("paper", width=1 / 32)
  arrays = to_grouped(net, network)
  arrays["conv9.weight"] = arrays.pop("conv2.weight")
  arrays["fc6.weight"] = arrays["fc6.weight"].T
  arrays["fc7.bias"] = arrays["fc7.bias"].astype(np.float64)
  with pytest.raises(UserError) as error:
    from_grouped(arrays, network)
  for message in (
    "conv2.weight is missing",
    "conv9.weight is unknown",
    "fc6.weight has shape [288, 128], expected [128, 288]",
    "fc7.bias has type float64, expected float32",
  ):
    assert message in str(error.value)


def test_local_layers_have_no_such_layout():
  net, network = make("cifar_13pct")
  with pytest.raises(UserError, match="conv3 is a local layer"):
    to_grouped(net, network)


def test_the_documented_pytorch_module_gives_the_same_scores():
  torch = pytest.importorskip(
    "torch", reason="torch is absent (pip install torch==2.13.0)"
  )
  net, network = make("paper")
  images = np.random.default_rng(0).normal(0, 70, (2, 224, 224, 3))
  mesh = sharding.make_mesh(1, 1)
  specs = model.param_specs(net)
  scores = sharding.on_each_device(
    model.forward, mesh, (specs, sharding.BATCH), sharding.BATCH
  )
  ours = jax.jit(scores)(
    *sharding.place(
      (net, jnp.asarray(images, jnp.float32)), (specs, sharding.BATCH), mesh
    )
  )
  text = (ROOT / "docs" / "weights.md").read_text()
  (snippet,) = re.findall(r"```python\n(import torch\n.*?)```", text, re.S)
  names = {}
  exec(snippet, names)
  arrays = to_grouped(net, network)
  theirs = names["AlexNet"]({k: torch.tensor(v) for k, v in arrays.items()})(
    torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)
  )
  error = np.abs(np.asarray(ours) - theirs.numpy()).max()
  assert error < 1e-4 * np.abs(theirs.numpy()).max()
