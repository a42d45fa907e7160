"""The towers talk where they are said to, in the compiled program itself."""

import collections
import dataclasses
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import pytest
from jax import lax

from alexnet_jax import audit
from alexnet_jax.analysis import chips, collectives
from alexnet_jax.analysis.collectives import Traffic
from alexnet_jax.model import kernels, layers, sharding
from alexnet_jax.model.network import Layer, Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.recipe import Recipe

ROOT = pathlib.Path(__file__).resolve().parents[1]
NARROW = Network(width=1 / 16, num_classes=10)
BATCH_SIZE = 8

# Section 3.5 and Figure 2: what all towers together hand on, per image.
PAPER_NUMBERS = {
  "conv3": 13 * 13 * 256,
  "fc6": 6 * 6 * 256,
  "fc7": 4096,
  "fc8": 1000,
}


def run_audit(network, data, model):
  return audit.audit(
    Recipe(network, BATCH_SIZE),
    sharding.make_mesh(data, model, towers=network.towers),
  )


@functools.cache
def audit_of_the_paper(data, model):
  return run_audit(Network(), data, model)


def between_towers(result, program, phase):
  return [
    item
    for item in result.collectives
    if (item.program, item.phase) == (program, phase) and "model" in item.axes
  ]


@pytest.mark.parametrize(("data", "model"), [(1, 2), (2, 2)])
def test_papers_network_exchanges_four_times_forward_three_backward(
  data, model
):
  result = audit_of_the_paper(data, model)
  assert result.findings == []
  images = BATCH_SIZE // data
  for program in ("train", "evaluate"):
    forward = between_towers(result, program, "forward")
    # On CPU the bytes are the formula's, exactly: float32, all towers' maps.
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


def test_gradients_are_summed_over_images_and_counted_apart():
  result = audit_of_the_paper(2, 2)
  gradients = [item for item in result.collectives if item.axes == ("data",)]
  # fidelity: 60,965,224 parameters, of which fc8's 1,000 biases are on both.
  on_one_device = (60_965_224 - 1000) // 2 + 1000
  assert [
    (item.phase, item.layer, item.bytes)
    for item in gradients
    if item.layer == "gradients"
  ] == [("update", "gradients", 4 * on_one_device)]
  rest = [item for item in gradients if item.layer != "gradients"]
  # loss, both errors and the count of images
  assert sum(item.numbers for item in rest) == 4
  assert {item.layer for item in rest} == {"metrics"}


@pytest.mark.parametrize(("data", "model"), [(1, 1), (2, 1)])
def test_one_device_with_both_towers_exchanges_nothing(data, model):
  result = run_audit(NARROW, data, model)
  assert result.findings == []
  assert all("model" not in item.axes for item in result.collectives)
  # What crosses "data" is every parameter's gradient, and loss, errors, count.
  sums = collections.Counter()
  for item in result.collectives:
    sums[item.layer] += item.numbers
  state, *_ = Recipe(NARROW, BATCH_SIZE).abstract(sharding.make_mesh(1, 1))
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.net))
  expected = {"gradients": parameters, "metrics": 4} if data > 1 else {}
  assert dict(sums) == expected


def test_a_sixth_convolution_and_fewer_exchanges_are_as_declared():
  conv6 = Layer(128, size=3, padding=(1, 1), bias=1.0)
  more = Network(
    width=1 / 16,
    num_classes=10,
    conv6=conv6,
    exchanges=("conv3", "conv6", "fc6", "fc7", "fc8"),
  )
  result = run_audit(more, 1, 2)
  assert result.findings == []
  backward = between_towers(result, "train", "backward")
  assert {item.layer for item in backward} == {"conv3", "conv6", "fc6", "fc7"}

  column_150 = Network(width=1 / 16, num_classes=10, exchanges=("fc8",))
  result = run_audit(column_150, 1, 2)
  assert result.findings == []
  assert [
    item.layer for item in between_towers(result, "train", "forward")
  ] == ["fc8"]
  assert between_towers(result, "train", "backward") == []


def test_normalising_across_towers_is_found(monkeypatch):
  inside_a_tower = layers.local_response_norm

  def across_towers(x, **options):
    both = lax.all_gather(x, "model", axis=3, tiled=True)
    own = lax.axis_index("model") * x.shape[3]
    normed = inside_a_tower(both, **options)
    return lax.dynamic_slice_in_dim(normed, own, x.shape[3], axis=3)

  monkeypatch.setattr(kernels, "local_response_norm", across_towers)
  result = run_audit(NARROW, 1, 2)
  text = "\n".join(result.findings)
  assert "train: undeclared all-gather" in text
  assert "evaluate: undeclared all-gather" in text
  assert "conv1" in text
  assert "backward pass, conv2" in text


def test_an_exchange_left_out_is_found(monkeypatch):
  def alone(parts, dtype):
    return jax.numpy.concatenate([*parts, *parts], axis=-1)

  monkeypatch.setattr("alexnet_jax.model.alexnet.exchange", alone)
  findings = run_audit(NARROW, 1, 2).findings
  assert "train: no exchange at conv3, forward pass" in findings
  assert "train: no exchange at fc7, backward pass" in findings


def test_diagnostics_inside_the_step_are_audited(monkeypatch):
  from alexnet_jax.training import step

  sums = step._sums

  def with_a_diagnostic(scores, label, weight):
    """Adds, say, a score averaged over the towers."""
    own = lax.pcast(scores.sum(), "model", to="varying")
    both = lax.psum(lax.psum(own, "model"), "data")
    results = sums(scores, label, weight)
    return results | {"top1_error": results["top1_error"] + both}

  monkeypatch.setattr(step, "_sums", with_a_diagnostic)
  findings = run_audit(NARROW, 1, 2).findings
  assert any("over model, forward pass, unknown" in f for f in findings)


def test_half_precision_exchanges_are_half_the_bytes():
  whole, half = (
    run_audit(dataclasses.replace(NARROW, exchange_dtype=dtype), 1, 2)
    for dtype in ("float32", "float16")
  )
  assert whole.findings == half.findings == []
  assert {item.dtype for item in half.collectives} == {"f16"}
  assert [2 * item.bytes for item in half.collectives] == [
    item.bytes for item in whole.collectives
  ]
  assert len(half.collectives) == 4 + 3 + 4


def test_more_traffic_than_the_arithmetic_is_found():
  mesh = sharding.make_mesh(1, 2)
  declared = [Traffic("forward", "conv3", "all-gather", 100)]
  line = (
    "  %a = f32[10,10]{1,0} all-gather(%x), replica_groups={{0,1}},"
    ' metadata={op_name="jit(f)/conv3/all_gather"}\n'
  )
  once, twice = (
    audit.compare(
      collectives.find(text, "train", mesh, declared, set()),
      declared,
      "train",
      mesh,
    )
    for text in (line, 2 * line)
  )
  assert once == []
  assert twice == [
    "train: conv3, forward pass, moves 200 numbers where 100 would do"
  ]


SIX = (
  Traffic("forward", "conv3", "all-gather", 43264),
  Traffic("forward", "fc6", "all-gather", 9216),
  Traffic("forward", "fc8", "all-reduce", 1000),
  Traffic("backward", "conv3", "reduce-scatter", 21632),
  Traffic("backward", "fc6", "reduce-scatter", 4608),
)
LINES = {
  # TPU: asynchronous, bfloat16, tiled layouts.
  "%all-gather.1 = bf16[1,13,13,256]{3,0,2,1:T(8,128)(2,1)S(1)} all-gather(%f),"
  ' replica_groups={{0,1},{2,3}}, metadata={op_name="jit(t)/jvp()/shard_map/'
  'conv3/all_gather"}': [
    ("forward", "conv3", "all-gather", ("model",), "bf16", 86528)
  ],
  # TPU: a reduce-scatter that became an all-reduce and lost its name.
  "%all-reduce.2 = f32[1,6,6,256]{3,2,1,0} all-reduce(%f),"
  " replica_groups=[2,2]<=[4]": [
    ("backward", "fc6", "all-reduce", ("model",), "f32", 36864)
  ],
  # GPU: a started collective returns its operands too.
  "%all-gather-start = ((f32[1,4608]{1,0}, f32[1,21632]{1,0}),"
  " (f32[1,9216]{1,0}, f32[1,43264]{1,0})) all-gather-start(%a, %b),"
  ' replica_groups={{0,1},{2,3}}, metadata={op_name="jit(t)/jvp()/fc6/x"}': [
    ("forward", "fc6", "all-gather", ("model",), "f32", 36864),
    ("forward", "conv3", "all-gather", ("model",), "f32", 173056),
  ],
  "%all-gather-done = f32[1,9216]{1,0} all-gather-done(%all-gather-start)": [],
  # Everybody with everybody.
  "%r = f32[] all-reduce(%x), replica_groups={}": [
    ("forward", "unknown", "all-reduce", ("data", "model"), "f32", 4)
  ],
  # Over "data": groups written as a transposed range.
  "%r = (f32[3,3]{1,0}, f32[]) all-reduce(%x, %y),"
  " replica_groups=[2,2]<=[2,2]T(1,0),"
  ' metadata={op_name="jit(t)/transpose(jvp())/shard_map/psum"}': [
    ("update", "gradients", "all-reduce", ("data",), "f32", 36),
    ("forward", "metrics", "all-reduce", ("data",), "f32", 4),
  ],
  # To itself.
  "%r = f32[7] all-reduce(%x), replica_groups={{0},{1},{2},{3}}": [],
  "%p = bf16[1,21632]{1,0} collective-permute(%x),"
  " source_target_pairs={{0,1},{1,0},{2,3},{3,2}},"
  ' metadata={op_name="jit(t)/transpose(jvp())/conv3/x"}': [
    ("backward", "conv3", "collective-permute", ("model",), "bf16", 43264)
  ],
  "%n = f32[4] add(%all-reduce.2, %all-gather.1)": [],
}


@pytest.mark.parametrize("line", LINES)
def test_reading_one_instruction(line):
  mesh = sharding.make_mesh(2, 2)
  found = collectives.find(line, "train", mesh, list(SIX), {9})
  assert [
    (c.phase, c.layer, c.op, c.axes, c.dtype, c.bytes) for c in found
  ] == LINES[line]


@pytest.mark.parametrize("text", ["data", "data:1,data:2", "data:x", "a:1"])
def test_a_mesh_written_wrongly(text):
  with pytest.raises(UserError, match="--mesh="):
    audit.parse_mesh(text)


def test_the_command_writes_json_and_answers_with_its_status(tmp_path):
  command = [
    sys.executable,
    "-m",
    "alexnet_jax.audit",
    "--config=configs/quickstart.py",
    "--config.network.width=0.0625",
    "--config.batch_size=8",
    "--mesh=data:1,model:2",
    f"--json={tmp_path}/audit.json",
  ]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "as declared" in done.stdout
  written = json.loads((tmp_path / "audit.json").read_text())
  assert written["mesh"] == {"data": 1, "model": 2}
  assert written["platform"] == "cpu"
  assert set(written["collectives"][0]) == {
    *("program", "pass", "layer", "op", "axes", "dtype", "numbers", "bytes")
  }
  count = collections.Counter(
    (item["program"], item["pass"]) for item in written["collectives"]
  )
  assert count == {
    ("train", "forward"): 4,
    ("train", "backward"): 3,
    ("evaluate", "forward"): 4,
  }
  assert written["totals"]["train"]["model_forward"] == sum(
    4 * 8 * numbers for numbers in (13 * 13 * 16, 576, 256, 10)
  )


@pytest.fixture
def tpu_compiler():
  try:
    chips._check_compiler()
  except UserError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize(
  ("topology", "data", "memory"),
  [("v4:2x2x1", 2, 34.4), ("v5e:2x4", 4, 16.0), ("v6e:2x2", 2, 32.0)],
)
def test_compiled_for_a_tpu_slice(
  topology, data, memory, tpu_compiler, tmp_path
):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "alexnet_jax.audit"),
      "--config=configs/quickstart.py",
      "--config.network.width=0.125",
      f"--topology={topology}",
      f"--json={tmp_path}/audit.json",
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert f"GB of {memory}" in done.stdout
  written = json.loads((tmp_path / "audit.json").read_text())
  assert written["platform"] == "tpu"
  assert written["mesh"] == {"data": data, "model": 2}
  found = sorted(
    (item["program"], item["pass"], item["layer"])
    for item in written["collectives"]
    if "model" in item["axes"]
  )
  forward = ["conv3", "fc6", "fc7", "fc8"]
  assert found == sorted(
    [
      (program, "forward", layer)
      for program in audit.PROGRAMS
      for layer in forward
    ]
    + [("train", "backward", layer) for layer in forward[:3]]
  )
  assert 0 < written["roofline"]["compute"] < written["roofline"]["memory"]


def test_a_machine_without_the_tpu_compiler_is_told_what_to_install(
  monkeypatch,
):
  monkeypatch.setenv("TPU_LIBRARY_PATH", "nowhere/libtpu.so")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install"):
    chips.slice_devices("v5e:2x4")
  with pytest.raises(UserError, match="is no slice"):
    chips.slice_devices("h100:8")


def test_seconds_on_a_slice_are_published_figures_and_arithmetic():
  gigabyte = chips.Chip(
    flops=1e12,
    memory=1e9,
    memory_bandwidth=1e11,
    link_bandwidth=1e9,
    source="",
  )
  result = audit.Audit(
    mesh={"data": 4, "model": 2},
    platform="tpu",
    batch_size=64,
    collectives=[
      # Two neighbours, one link: half of 2 GB.
      collective("forward", "all-gather", "model", 2 * 10**9),
      # The other one's half, 1 GB.
      collective("backward", "reduce-scatter", "model", 10**9),
      # A ring of four, two links: 2 x 3/4 x 4 GB.
      collective("update", "all-reduce", "data", 4 * 10**9),
    ],
    declared={},
    findings=[],
    memory={},
    flops=5e12,
    bytes_accessed=4e11,
  )
  roofline = audit.roofline(result, gigabyte)
  assert roofline == chips.Roofline(
    compute=5.0, memory=4.0, exchange=2.0, gradients=3.0
  )
  assert roofline.seconds(overlap=True) == 5.0
  assert roofline.seconds(overlap=False) == 10.0


def collective(phase, op, axis, size):
  return collectives.Collective(
    "train", phase, "", op, (axis,), "f32", size // 4, size
  )
