"""The counts, compared with those worked out by hand and with the network."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import pytest
from flax import nnx

from alexnet_jax.model import alexnet as model
from alexnet_jax.model import network as networks
from alexnet_jax.model.shapes import layer_counts
from alexnet_jax.runtime import config

ROOT = pathlib.Path(__file__).resolve().parents[1]

# (parameters, multiply-adds or None where nobody published them)
TOTALS = {
  "paper": (60_965_224, 724_406_816),
  "original2012": (60_965_224, 724_406_816),
  "one_tower": (62_378_344, 1_135_256_096),
  "half": (59_798_312, 391_514_384),
  "conv6": (61_555_304, None),
  "batch_norm": (60_984_360, 724_406_816),
  "columns_apart_150": (60_714_408, None),
  "caffe_alexnet": (60_965_224, 724_406_816),
  "caffenet": (60_965_224, 724_406_816),
  "torchvision": (61_100_840, 714_188_480),
  "blog_port": (58_367_381, None),
  "d2l": (46_764_746, None),
  "lenet5": (61_706, 416_520),
  "cifar_80sec": (145_578, None),
  "cifar_18pct": (89_578, None),
  "cifar_13pct": (1_116_490, None),
  "cifar_11pct": (2_112_970, None),
}

# Layer by layer, two towers: parameters and multiply-adds of one image.
PAPER = {
  "conv1": ([55, 55, 48], 34_944, 105_415_200),
  "conv2": ([27, 27, 128], 307_456, 223_948_800),
  "conv3": ([13, 13, 192], 885_120, 149_520_384),
  "conv4": ([13, 13, 192], 663_936, 112_140_288),
  "conv5": ([13, 13, 128], 442_624, 74_760_192),
  "fc6": ([2048], 37_752_832, 37_748_736),
  "fc7": ([2048], 16_781_312, 16_777_216),
  "fc8": ([1000], 4_097_000, 4_096_000),
}


def load(name):
  values = config.load(str(ROOT / "configs" / f"{name}.py"))
  return networks.from_dict(values.network.to_dict(), values.num_classes)


@pytest.mark.parametrize("name", TOTALS)
def test_totals(name):
  parameters, macs = TOTALS[name]
  totals = layer_counts(load(name))["totals"]
  assert totals["parameters"] == parameters
  assert macs is None or totals["macs"] == macs


def test_the_papers_layers():
  for layer in layer_counts(load("paper"))["layers"]:
    shape, parameters, macs = PAPER[layer["name"]]
    assert layer["output_shape"] == shape
    assert (layer["parameters"], layer["macs"]) == (parameters, macs)
    assert layer["towers"] == 2
    assert layer["parameter_bytes"] == 4 * parameters
    assert layer["activation_bytes"] == 4 * 2 * math.prod(shape)


@pytest.mark.parametrize(
  "path", sorted((ROOT / "configs").glob("[a-z]*.py")), ids=lambda p: p.stem
)
def test_counts_are_those_of_the_network_that_is_built(path):
  network = load(path.stem)
  net = model.abstract_net(network)
  parameters = jax.tree.leaves(nnx.state(net, nnx.Param))
  built = sum(math.prod(leaf.shape) for leaf in parameters)
  assert layer_counts(network)["totals"]["parameters"] == built


def test_the_command_prints_a_table_and_writes_json(tmp_path):
  arguments = [
    "--config=configs/paper.py",
    "--config.network.width=0.5",
    "--beside=configs/lenet5.py",
    f"--json={tmp_path / 'paper.json'}",
  ]
  result = subprocess.run(
    [sys.executable, "-m", "alexnet_jax.describe", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert (result.returncode, result.stderr) == (0, "")
  found = json.loads((tmp_path / "paper.json").read_text())
  assert [layer["name"] for layer in found["layers"]] == list(PAPER)
  assert f"{found['totals']['parameters']:,}" in result.stdout
  assert "all towers" in result.stdout
  ratio = found["totals"]["parameters"] / 61_706
  assert f"{ratio:,.4g} times the parameters" in result.stdout
