"""The grouped layout: by index, bit for bit, in PyTorch, and mistaken."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alexnet_jax import weights
from alexnet_jax.model import alexnet as model
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.runtime import config
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import optimizer, step
from alexnet_jax.training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).resolve().parents[1]


def make(name, width=1 / 8, num_classes=10):
  values = config.load(str(ROOT / "configs" / f"{name}.py"))
  values.network.width *= width
  network = networks.from_dict(values.network.to_dict(), num_classes)
  net = model.AlexNet(network, jax.random.key(0))
  key = jax.random.key(1)
  leaves, structure = jax.tree.flatten(net)
  drawn = [
    0.1 * jax.random.normal(jax.random.fold_in(key, i), leaf.shape)
    for i, leaf in enumerate(leaves)
  ]
  return jax.tree.unflatten(structure, drawn), network


def test_shapes_are_those_of_the_published_layout():
  network = networks.Network()
  abstract = jax.eval_shape(lambda: model.AlexNet(network, jax.random.key(0)))
  net = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract)
  shapes = {k: v.shape for k, v in weights.to_grouped(net, network).items()}
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
  arrays = weights.to_grouped(net, network)
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
  "name", ["paper", "columns_apart_150", "conv6", "torchvision", "cifar_18pct"]
)
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_there_and_back_is_lossless(name, channels):
  net, network = make(name)
  arrays = weights.to_grouped(net, network, channels)
  back = weights.from_grouped(arrays, network, channels)
  assert jax.tree.structure(back) == jax.tree.structure(net)
  jax.tree.map(np.testing.assert_array_equal, back, net)


def test_bgr_reverses_what_conv1_reads_and_nothing_else():
  net, network = make("paper")
  rgb = weights.to_grouped(net, network)
  bgr = weights.to_grouped(net, network, "bgr")
  np.testing.assert_array_equal(
    bgr.pop("conv1.weight")[:, 0], rgb.pop("conv1.weight")[:, 2]
  )
  for name, array in bgr.items():
    np.testing.assert_array_equal(array, rgb[name])


def test_local_layers_have_no_such_layout():
  net, network = make("cifar_13pct")
  with pytest.raises(UserError, match="conv3 is a local layer"):
    weights.to_grouped(net, network)


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
  arrays = weights.to_grouped(net, network)
  theirs = names["AlexNet"]({k: torch.tensor(v) for k, v in arrays.items()})(
    torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)
  )
  error = np.abs(np.asarray(ours) - theirs.numpy()).max()
  assert error < 1e-4 * np.abs(theirs.numpy()).max()


@pytest.fixture
def run(tmp_path):
  """A workdir with a checkpoint of step 3 and a velocity that is not zero."""
  values = config.load(str(ROOT / "configs/paper.py"))
  values.network.width, values.num_classes = 1 / 32, 5
  network = networks.from_dict(values.network.to_dict(), 5)
  mesh = sharding.make_mesh(1, 1)
  state = step.init_state(network, optimizer.momentum_sgd(), 0, mesh)
  state = state._replace(step=jnp.int32(3), optimizer_state=state.net)
  (tmp_path / "config.json").write_text(json.dumps(config.to_json(values)))
  checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
  checkpoints.save(3, step.to_dict(state), {"of": "the run"})
  checkpoints.wait()
  checkpoints.close()
  return tmp_path, network, mesh


def test_a_run_exports_and_imports(run, capsys):
  workdir, network, mesh = run
  file = str(workdir / "out.safetensors")
  weights.export_weights(str(workdir), file)
  assert "after step 3" in capsys.readouterr().out
  changed = {name: array + 1 for name, array in load_file(file).items()}
  save_file(changed, str(workdir / "in.safetensors"))
  weights.import_weights(str(workdir), str(workdir / "in.safetensors"))
  weights.export_weights(str(workdir), file)
  for name, array in load_file(file).items():
    np.testing.assert_array_equal(array, changed[name])
  # What the run goes on from: a step further, at rest, its metadata kept.
  checkpoints = Checkpoints(str(workdir / "checkpoints"), read_only=True)
  abstract = step.abstract_state(network, optimizer.momentum_sgd(), mesh)
  values, metadata = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  assert int(values["step"]) == 4
  assert metadata == {"of": "the run"}
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(values["velocity"]))


def test_a_wrong_file_is_named_and_changes_nothing(run):
  workdir = run[0]
  file = workdir / "out.safetensors"
  weights.export_weights(str(workdir), str(file))
  arrays = load_file(file)
  arrays["conv9.weight"] = arrays.pop("conv2.weight")
  arrays["fc6.weight"] = arrays["fc6.weight"].T.copy()
  arrays["fc7.bias"] = arrays["fc7.bias"].astype(np.float64)
  save_file(arrays, file)
  before = sorted((workdir / "checkpoints").rglob("*"))
  with pytest.raises(UserError) as error:
    weights.import_weights(str(workdir), str(file))
  for said in (
    "conv2.weight is missing",
    "conv9.weight is unknown",
    "fc6.weight is [288, 128], not [128, 288]",
    "fc7.bias holds float64, not float32",
  ):
    assert said in str(error.value)
  assert sorted((workdir / "checkpoints").rglob("*")) == before


def test_other_mistakes_are_told(run, tmp_path):
  workdir = str(run[0])
  with pytest.raises(UserError, match="no such file"):
    weights.import_weights(workdir, str(tmp_path / "none.safetensors"))
  (tmp_path / "text").write_text("no weights")
  with pytest.raises(UserError, match="no safetensors file"):
    weights.import_weights(workdir, str(tmp_path / "text"))
