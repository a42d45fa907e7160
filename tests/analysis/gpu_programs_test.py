"""The collectives and kernels of programs that were compiled for GPUs."""

import collections
import math
import re

import gpu_programs
import jax
import pytest

from alexnet_jax.analysis import collectives, programs, traffic
from alexnet_jax.model import sharding

SAVED = gpu_programs.saved()
IMAGES = gpu_programs.RECIPE.batch_size // gpu_programs.DATA
# Section 3.5 and Figure 2 at 1/16 of the width: activations of both towers that
# a layer reads, per image.
NUMBERS = {"conv3": 13 * 13 * 16, "fc6": 6 * 6 * 16, "fc7": 256, "fc8": 10}


@pytest.fixture(scope="module")
def context():
  """The mesh, the declared exchanges, the sizes of the parameters."""
  recipe = gpu_programs.RECIPE
  mesh = sharding.make_mesh(gpu_programs.DATA, gpu_programs.MODEL)
  declared = collectives.declared_exchanges(
    recipe.network, mesh, recipe.batch_size, "train"
  )
  state, *_ = recipe.abstract_arguments(mesh)
  return mesh, declared, state.net


def audit(text, context):
  """The collectives in a text, and how they differ from the declaration."""
  mesh, declared, net = context
  sizes = programs.parameter_sizes(net)
  found = collectives.find(text, "train", mesh, declared, sizes)
  return found, programs.compare(found, declared, "train", mesh)


def test_programs_of_both_sets_of_versions_are_saved():
  assert sorted(SAVED) == ["0.10.2", "0.12.0.1"]


@pytest.mark.parametrize("version", SAVED)
def test_the_exchanges_are_the_declared_ones(version, context):
  found, findings = audit(SAVED[version], context)
  assert findings == []
  exchanges = {
    (item.phase, item.layer): (item.op, item.numbers)
    for item in found
    if item.axes == ("model",)
  }
  forward = {
    ("forward", layer): ("all-gather", IMAGES * numbers)
    for layer, numbers in NUMBERS.items()
  }
  backward = {
    ("backward", layer): ("reduce-scatter", IMAGES * NUMBERS[layer] // 2)
    for layer in ("conv3", "fc6", "fc7")
  }
  scores = {("forward", "fc8"): ("all-reduce", IMAGES * 10)}
  assert exchanges == forward | backward | scores


@pytest.mark.parametrize("version", SAVED)
def test_gradients_and_metrics_in_one_array_are_told_apart(version, context):
  found, _ = audit(SAVED[version], context)
  over_data = collections.Counter()
  for item in found:
    if item.axes == ("data",):
      over_data[item.phase, item.layer] += item.numbers
  # A device has one tower: half of each parameter but fc8's bias.
  net = context[2]
  half = sum(leaf.size for leaf in jax.tree.leaves(net.towers)) // 2
  assert over_data == {
    ("update", "gradients"): half + 10,
    ("forward", "metrics"): 4,  # loss, both errors, number of images
  }


PLANTED = {
  "an exchange where none is declared": (
    "  %x = f32[2,4,55,55,3]{4,3,2,1,0} all-gather(%y), dimensions={0},"
    " replica_groups=[2,2]<=[4],"
    ' metadata={op_name="jit(train_step)/jvp()/shard_map/conv1/all_gather"}',
    "train: undeclared all-gather of 72,600 f32 numbers over model, forward"
    " pass, conv1",
  ),
  "more than is declared": (
    "  %x = ((f32[1,4,6,6,8]{4,3,2,1,0}), f32[2,4,6,6,8]{4,3,2,1,0})"
    " all-gather-start(%y), dimensions={0},"
    " replica_groups=mesh['data'=2,'model'=2] {'model'},"
    ' metadata={op_name="jit(train_step)/jvp()/shard_map/fc6/all_gather"}',
    "train: the exchange at fc6, forward pass, moves 4,608 numbers; 2,304 are"
    " enough",
  ),
  "a sum over all devices": (
    "  %x = f32[] all-reduce-start(%y), replica_groups={{0,1,2,3}},"
    ' metadata={op_name="jit(train_step)/jvp()/shard_map/psum"}',
    "train: undeclared all-reduce of 1 f32 numbers over data and model, forward"
    " pass, unknown",
  ),
}


@pytest.mark.parametrize("version", SAVED)
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_exchange_is_found(version, planted, context):
  line, finding = PLANTED[planted]
  head, root, tail = SAVED[version].rpartition("\n  ROOT ")
  _, findings = audit(f"{head}\n{line}{root}{tail}", context)
  assert findings == [finding]


@pytest.mark.parametrize("version", SAVED)
def test_a_missing_exchange_is_found(version, context):
  lines = SAVED[version].splitlines()
  text = "\n".join(line for line in lines if "conv3/reduce_scatter" not in line)
  _, findings = audit(text, context)
  assert findings == ["train: no exchange at conv3, backward pass"]


@pytest.mark.parametrize("version", SAVED)
def test_kernels_and_traffic_of_a_program(version):
  text = SAVED[version]
  measured = traffic.measure(text)
  entry = text[text.index("ENTRY") :]
  kernel = (
    r" (fusion|custom-call|copy|[a-z-]+-start|all-[a-z]+|reduce-scatter)\("
  )
  assert measured.kernels == len(re.findall(kernel, entry))
  assert measured.bytes == sum(row.bytes for row in measured.layers)
  rows = {(row.phase, row.layer): row for row in measured.layers}
  # The convolution of conv2: 27 x 27 maps of its tower, 5 x 5 kernels, float32.
  sizes = (27 * 27 * 3 * IMAGES, 5 * 5 * 3 * 8, 27 * 27 * 8 * IMAGES)
  convolution = 4 * sum(sizes)
  assert convolution < rows["forward", "conv2"].bytes < 8 * convolution
  # A weight, its gradient and its momentum are read, two of them written.
  fc6 = 4 * math.prod((6 * 6 * 16, 128))
  assert 5 * fc6 <= rows["update", "fc6"].bytes < 5.1 * fc6
