"""The compiled programs have the collectives that the network declares."""

import collections
import functools

import jax
import pytest
from jax import lax

from alexnet_jax.analysis import programs
from alexnet_jax.model import kernels, layers, sharding
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.job import Recipe

NARROW = Network(width=1 / 16, num_classes=10)
BATCH_SIZE = 8

# Section 3.5 and Figure 2: activations of both towers that a layer reads, per
# image.
PAPER_NUMBERS = {
  "conv3": 13 * 13 * 256,
  "fc6": 6 * 6 * 256,
  "fc7": 4096,
  "fc8": 1000,
}


def run_audit(network, data, model, names=programs.PROGRAMS):
  return programs.audit(
    Recipe(network, BATCH_SIZE),
    sharding.make_mesh(data, model, towers=network.towers),
    names,
  )


@functools.cache
def audit_of_the_paper(data, model):
  return run_audit(Network(), data, model)


def train_audit(network, data, model):
  """Of the training step alone, which takes most of the compilation."""
  return run_audit(network, data, model, ["train"])


def between_towers(result, program, phase):
  return [
    item
    for item in result.collectives
    if (item.program, item.phase) == (program, phase) and "model" in item.axes
  ]


@pytest.mark.parametrize(
  ("data", "model"), [pytest.param(1, 2, marks=pytest.mark.slow), (2, 2)]
)
def test_papers_network_exchanges_four_times_forward_three_backward(
  data, model
):
  result = audit_of_the_paper(data, model)
  assert result.findings == []
  images = BATCH_SIZE // data
  for program in ("train", "evaluate"):
    forward = between_towers(result, program, "forward")
    # On CPU the bytes are exactly those of both towers' float32 activations.
    assert [(item.layer, item.bytes) for item in forward] == [
      (layer, 4 * images * numbers) for layer, numbers in PAPER_NUMBERS.items()
    ]
    assert {item.dtype for item in forward} == {"f32"}
    assert {item.axes for item in forward} == {("model",)}
  backward = between_towers(result, "train", "backward")
  assert sorted((item.layer, item.bytes) for item in backward) == [
    (layer, 4 * images * PAPER_NUMBERS[layer] // 2)
    for layer in ("conv3", "fc6", "fc7")
  ]
  assert between_towers(result, "evaluate", "backward") == []
  assert between_towers(result, "train", "update") == []


def test_gradients_are_summed_over_data_and_counted_apart():
  result = audit_of_the_paper(2, 2)
  gradients = [item for item in result.collectives if item.axes == ("data",)]
  # Of 60,965,224 parameters fc8's 1,000 biases are on both devices.
  on_one_device = (60_965_224 - 1000) // 2 + 1000
  assert [
    (item.phase, item.layer, item.bytes)
    for item in gradients
    if item.layer == "gradients"
  ] == [("update", "gradients", 4 * on_one_device)]
  rest = [item for item in gradients if item.layer != "gradients"]
  # Loss, both errors and the number of images.
  assert sum(item.numbers for item in rest) == 4
  assert {item.layer for item in rest} == {"metrics"}


@pytest.mark.slow
@pytest.mark.parametrize(("data", "model"), [(1, 1), (2, 1)])
def test_one_device_with_both_towers_exchanges_nothing(data, model):
  result = train_audit(NARROW, data, model)
  assert result.findings == []
  assert all("model" not in item.axes for item in result.collectives)
  # Over "data": the gradient of each parameter; loss, errors, image count.
  sums = collections.Counter()
  for item in result.collectives:
    sums[item.layer] += item.numbers
  state, *_ = Recipe(NARROW, BATCH_SIZE).abstract_arguments(
    sharding.make_mesh(1, 1)
  )
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.net))
  expected = {"gradients": parameters, "metrics": 4} if data > 1 else {}
  assert dict(sums) == expected


@pytest.mark.slow
def test_a_sixth_convolution_and_fewer_exchanges_are_as_declared():
  conv6 = Layer(128, size=3, padding=(1, 1), bias=1.0)
  more = Network(
    width=1 / 16,
    num_classes=10,
    conv6=conv6,
    exchanges=("conv3", "conv6", "fc6", "fc7", "fc8"),
  )
  result = train_audit(more, 1, 2)
  assert result.findings == []
  backward = between_towers(result, "train", "backward")
  assert {item.layer for item in backward} == {"conv3", "conv6", "fc6", "fc7"}

  column_150 = Network(width=1 / 16, num_classes=10, exchanges=("fc8",))
  result = train_audit(column_150, 1, 2)
  assert result.findings == []
  assert [
    item.layer for item in between_towers(result, "train", "forward")
  ] == ["fc8"]
  assert between_towers(result, "train", "backward") == []


def test_normalising_across_towers_is_found(monkeypatch):
  inside_a_tower = layers.local_response_norm

  def across_towers(x, *constants):
    both = lax.all_gather(x, "model", axis=3, tiled=True)
    own = lax.axis_index("model") * x.shape[3]
    normed = inside_a_tower(both, *constants)
    return lax.dynamic_slice_in_dim(normed, own, x.shape[3], axis=3)

  monkeypatch.setattr(kernels, "local_response_norm", across_towers)
  result = run_audit(NARROW, 1, 2)
  text = "\n".join(result.findings)
  assert "train: undeclared all-gather" in text
  assert "evaluate: undeclared all-gather" in text
  assert "conv1" in text
  assert "backward pass, conv2" in text


@pytest.mark.slow
def test_a_missing_exchange_is_found(monkeypatch):
  def without_exchange(parts, dtype):
    return jax.numpy.concatenate([*parts, *parts], axis=-1)

  monkeypatch.setattr("alexnet_jax.model.alexnet.exchange", without_exchange)
  findings = train_audit(NARROW, 1, 2).findings
  assert "train: no exchange at conv3, forward pass" in findings
  assert "train: no exchange at fc7, backward pass" in findings


@pytest.mark.slow
def test_a_diagnostic_over_towers_is_found(monkeypatch):
  from alexnet_jax.training import step

  sums = step._sums

  def with_a_diagnostic(scores, label, weight):
    """Adds a sum of the scores over both axes."""
    own = lax.pcast(scores.sum(), "model", to="varying")
    both = lax.psum(lax.psum(own, "model"), "data")
    results = sums(scores, label, weight)
    return results | {"top1_error": results["top1_error"] + both}

  monkeypatch.setattr(step, "_sums", with_a_diagnostic)
  findings = train_audit(NARROW, 1, 2).findings
  assert any("over model, forward pass, unknown" in f for f in findings)


@pytest.mark.slow
def test_half_precision_exchanges_have_half_the_bytes():
  whole = audit_of_the_paper(1, 2)
  half = run_audit(Network(exchange_dtype="float16"), 1, 2)
  assert half.findings == []
  assert {item.dtype for item in half.collectives} == {"f16"}
  assert [2 * item.bytes for item in half.collectives] == [
    item.bytes for item in whole.collectives
  ]
  assert len(half.collectives) == 4 + 3 + 4


@pytest.mark.parametrize("text", ["data", "data:1,data:2", "data:x", "a:1"])
def test_malformed_meshes_are_rejected(text):
  with pytest.raises(UserError, match="--mesh="):
    programs.parse_mesh(text)
