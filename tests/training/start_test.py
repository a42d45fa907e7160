"""A run that begins with trained weights: of a run, and of a file."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny_runs
from safetensors.numpy import save_file
from sample_data import ROOT

from alexnet_jax.data.pixel_statistics import Statistics
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import abstract_net
from alexnet_jax.model.grouped import to_grouped
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.model.published import TORCHVISION
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import run_config, runs, start, step
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.run_data import RunData
from alexnet_jax.training.start import Start

PLAIN = Network(num_classes=5, width=1 / 16)
SIXTH = Network(
  num_classes=3,
  width=1 / 16,
  conv6=Layer(128, size=3, padding=(1, 1)),
  exchanges=("conv3", "conv6", "fc6", "fc7", "fc8"),
)
MEAN = np.random.default_rng(0).uniform(0, 255, (72, 72, 3)).astype(np.float32)


def random_like(tree, seed):
  """All leaves random, biases too: no two trees have one in common."""
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype), tree
  )


def random_net(network, seed):
  return random_like(abstract_net(network), seed)


@pytest.fixture(scope="module")
def plain():
  return random_net(PLAIN, 1)


@pytest.fixture(scope="module")
def sixth():
  return random_net(SIXTH, 2)


def layers(net):
  """All arrays of each layer, by the names of exported weights."""
  found = {}
  for name, array in to_grouped(net, net.towers.network).items():
    found.setdefault(name.split(".")[0], {})[name] = array
  return found


def same(one, other):
  return one.keys() == other.keys() and all(
    np.array_equal(one[name], other[name]) for name in one
  )


def test_the_named_layers_are_copied_and_no_others(plain, sixth):
  names = [f"conv{i}" for i in range(1, 7)]
  net = Start("x", plain, None, None).copy_layers(sixth, names)
  after, before, theirs = map(layers, (net, sixth, plain))
  for name in names[:5]:
    assert same(after[name], theirs[name])
    assert not same(after[name], before[name])
  for name in ("conv6", "fc6", "fc7", "fc8"):
    assert same(after[name], before[name])


def test_fc8_is_copied_with_its_bias_where_the_classes_agree(plain):
  net = random_net(PLAIN, 3)
  copied = Start("x", plain, None, None).copy_layers(net, ["fc8"])
  assert same(layers(copied)["fc8"], layers(plain)["fc8"])
  assert same(layers(copied)["fc7"], layers(net)["fc7"])


def test_stride_and_padding_stay_those_of_the_network(plain, sixth):
  wide = dataclasses.replace(
    PLAIN, conv1=dataclasses.replace(PLAIN.conv1, padding=(7, 7))
  )
  other = random_net(wide, 1)
  net = Start("x", other, None, None).copy_layers(sixth, ["conv1"])
  assert net.towers.conv1.layer == sixth.towers.conv1.layer
  assert net.towers.conv1.layer != other.towers.conv1.layer


@pytest.mark.parametrize(
  "names, message",
  [
    (["fc8"], r"fc8 of x has 5 classes, this network has 3\. Remove fc8"),
    (["conv9"], "no such layer"),
    (["conv6"], r"x has none of start_layers=.*it has conv1, "),
  ],
)
def test_a_layer_that_does_not_fit_is_an_error(plain, sixth, names, message):
  with pytest.raises(UserError, match=message):
    Start("x", plain, None, None).copy_layers(sixth, names)


def finetune(**changes):
  """A configuration that fine-tunes a network as in tests/tiny_runs.py."""
  config = configs.load(str(ROOT / "configs" / "finetune.py") + ":quickstart")
  config.update_from_flattened_dict(tiny_runs.CHANGES | changes)
  return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run of seven classes with a checkpoint and a mean image; no training."""
  workdir = str(tmp_path_factory.mktemp("start") / "run")
  config = configs.load(str(ROOT / "configs" / "quickstart.py"))
  config.update_from_flattened_dict(tiny_runs.CHANGES | {"num_classes": 7})
  run_config.write_config(workdir, configs.to_json(config))
  recipe = Recipe.from_config(config.to_dict())
  mesh = sharding.make_mesh(1, 2)
  abstract = step.abstract_state(recipe.network, recipe.optimizer, mesh)
  net = random_net(recipe.network, 5)
  state = step.TrainState(np.int32(9), net, random_like(net, 6))
  places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  state = jax.device_put(state, places)
  statistics = Statistics(MEAN, np.ones(3), np.eye(3), 40)
  RunData("x", "x:train:1", tuple("abcdefg"), statistics).save(workdir)
  checkpoints = runs.open_checkpoints(workdir)
  metadata = {"data": {"train": "x:train:1"}}
  checkpoints.save(9, step.to_dict(state), metadata)
  checkpoints.wait()
  checkpoints.close()
  return workdir


def test_a_run_gives_its_layers_and_its_mean_image(run):
  config = finetune(start_from=run)
  found = start.read(configs.to_json(config), sharding.make_mesh(1, 1))
  network = networks.from_dict(config.network.to_dict(), 7)
  assert layers(found.net).keys() == layers(random_net(network, 5)).keys()
  for name, arrays in layers(random_net(network, 5)).items():
    assert same(layers(found.net)[name], arrays)
  np.testing.assert_array_equal(found.mean_image, MEAN)
  summary = found.summary(configs.to_json(config))
  assert summary.splitlines() == [
    f"starts from {run}, checkpoint 9: conv1, conv2, conv3, conv4, conv5, fc6,"
    " fc7; the other layers have initial weights",
    f"mean image: that of {run}, checkpoint 9",
    "fc8: 10 times the learning rate",
  ]


def test_the_summary_names_what_differs(run):
  config = finetune(
    **{
      "start_from": run,
      "start_mean_image": False,
      "network.lrn_alpha": 0.5,
      "centre_mean": True,
      "optimizer.layer_rates": (("conv1", 0.0),),
    }
  )
  config = configs.to_json(config)
  found = start.read(config, sharding.make_mesh(1, 1))
  assert found.summary(config).splitlines()[1:] == [
    "mean image: that of this dataset",
    "network.lrn_alpha was 0.0001 there and is 0.5 here",
    "centre_mean was False there and is True here",
    "conv1: frozen",
  ]


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"network.width": 1 / 16}, r"conv1 has shape .*finetune\.py:NAME"),
    ({"start_layers": ("fc8",)}, "has 7 classes, this network has 3"),
    ({"image_size": 80}, r"72 pixels a side, but image_size=80\. Set"),
    ({"pixels.order": "bgr"}, "pixels.order was 'rgb' there and is 'bgr' here"),
    ({"centre_mean": True}, "centre_mean was False there and is True here"),
    ({"start_checkpoint": "4"}, "4"),
    ({"start_from": "nowhere"}, "start_from=nowhere does not exist"),
  ],
)
def test_what_does_not_fit_is_a_sentence(run, changes, message):
  config = configs.to_json(finetune(**{"start_from": run} | changes))
  with pytest.raises(UserError, match=message):
    start.read(config, sharding.make_mesh(1, 1))


def test_a_file_of_torchvision_gives_all_layers_but_fc8(tmp_path):
  """Of other classes than here; no mean image, because it has none."""
  config = configs.load(str(ROOT / "configs" / "finetune.py") + ":torchvision")
  config.update_from_flattened_dict(
    tiny_runs.CHANGES
    | {"network.width": 1 / 16, "start_from": str(tmp_path / "x.safetensors")}
  )
  network = networks.from_dict(config.network.to_dict(), 5)
  arrays = to_grouped(random_net(network, 8), network)
  theirs = {TORCHVISION.theirs(name): array for name, array in arrays.items()}
  assert "classifier.6.weight" in theirs
  save_file(theirs, config.start_from)
  mesh = sharding.make_mesh(1, 1, towers=1)
  found = start.read(configs.to_json(config), mesh)
  assert found.mean_image is None and found.config is None
  here = dataclasses.replace(network, num_classes=3)
  initial = random_net(here, 9)
  copied = to_grouped(found.copy_layers(initial, config.start_layers), here)
  with pytest.raises(UserError, match="start_checkpoint=best chooses"):
    wrong = configs.to_json(config) | {"start_checkpoint": "best"}
    start.read(wrong, mesh)
  with pytest.raises(UserError, match=r"classifier\.6\.bias"):
    save_file(theirs | {"classifier.6.bias": np.array(0.0)}, config.start_from)
    start.read(configs.to_json(config), mesh)
  for name, array in copied.items():
    begins = to_grouped(initial, here) if name.startswith("fc8") else arrays
    np.testing.assert_array_equal(array, begins[name], err_msg=name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  with tiny_runs.place(tmp_path_factory.mktemp("finetuned")) as folder:
    yield folder


@pytest.mark.slow
def test_fine_tuning_goes_on_without_its_start(place, run):
  """Killed after two of four steps; the start has moved away since.

  The mean image is that of the start, frozen layers keep its weights, and
  an unusable start writes nothing.
  """
  copy = place / "copy"
  shutil.copytree(run, copy)
  changes = {
    "start_from": str(copy),
    "start_layers": ("conv1", "fc6"),
    "start_mean_image": True,
    "optimizer.layer_rates": (("conv1", 0.0),),
    "log_every_steps": 1,
  }
  with pytest.raises(UserError, match="has 7 classes"):
    wrong = changes | {"start_layers": ("fc8",)}
    tiny_runs.train(place, "wrong", total_steps=2, **wrong)
  assert not (place / "wrong").exists()
  assert tiny_runs.train(place, "parts", total_steps=2, **changes)
  half = tiny_runs.arrays(place, "parts")["net"]
  tiny_runs.train(place, "whole", total_steps=4, **changes)
  shutil.rmtree(copy)
  assert tiny_runs.train(place, "parts", total_steps=4, **changes)
  parts, whole = (tiny_runs.arrays(place, name) for name in ("parts", "whole"))
  jax.tree.map(np.testing.assert_array_equal, parts, whole)
  begun = runs.load_state(run, sharding.make_mesh(1, 2))[0].net.towers
  for net in (half, whole["net"]):
    kernel = net["towers"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, begun.conv1.kernel[...])
  moved = whole["net"]["towers"]["fc6"]["kernel"] - begun.fc6.kernel[...]
  assert 0 < np.abs(moved).max() < 0.01  # from there, not from elsewhere
  data = runs.load_data(str(place / "parts"), runs.load_config(place / "parts"))
  np.testing.assert_array_equal(data.statistics.mean_image, MEAN)
  assert data.statistics.eigenvalues.max() > 1  # of the pictures, not 1
  ratios = {
    key
    for line in tiny_runs.lines(place, "parts")
    for key in line
    if key.startswith("update_ratio")
  }
  assert "update_ratio_fc6" in ratios and "update_ratio_conv1" not in ratios
