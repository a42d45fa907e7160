"""The audit command: its exit status, its JSON, TPU slices and GPUs."""

import collections
import json
import pathlib
import subprocess
import sys

import pytest
from jax import lax

from alexnet_jax.analysis import programs, topologies
from alexnet_jax.model import norm_pool
from alexnet_jax.model.network import Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.job import Recipe

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run_command(json_file, *arguments):
  """The standard output and the written JSON of a command that succeeds."""
  done = subprocess.run(
    [
      *(sys.executable, "-m", "alexnet_jax.audit"),
      *("--config=configs/quickstart.py", "--config.batch_size=8"),
      *(f"--json={json_file}", *arguments),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout, json.loads(json_file.read_text())


def test_the_command_prints_a_verdict_and_writes_json(tmp_path):
  output, written = run_command(
    tmp_path / "audit.json",
    "--config.network.width=0.0625",
    "--mesh=data:1,model:2",
  )
  assert "as declared" in output
  assert written["mesh"] == {"data": 1, "model": 2}
  assert written["platform"] == "cpu"
  assert set(written["collectives"][0]) == {
    *(
      "program",
      "pass",
      "layer",
      "op",
      "axes",
      "dtype",
      "numbers",
      "bytes",
      "hosts",
    )
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
    4 * 8 * numbers for numbers in (6 * 6 * 16, 3 * 3 * 16, 256, 10)
  )


@pytest.fixture
def tpu_compiler():
  try:
    topologies._check_tpu_compiler()
  except UserError as error:
    pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("topology", "data", "memory"),
  [("v4:2x2x1", 2, 34.4), ("v5e:2x4", 4, 16.0), ("v6e:2x2", 2, 32.0)],
)
def test_programs_compiled_for_a_tpu_slice_are_as_declared(
  topology, data, memory, tpu_compiler, tmp_path
):
  output, written = run_command(
    tmp_path / "audit.json",
    "--config.network.width=0.125",
    f"--topology={topology}",
  )
  assert f"GB of {memory}" in output
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
      for program in programs.PROGRAMS
      for layer in forward
    ]
    + [("train", "backward", layer) for layer in forward[:3]]
  )
  assert 0 < written["roofline"]["compute"] < written["roofline"]["memory"]


@pytest.fixture
def gpu_compiler():
  try:
    topologies._check_gpu_compiler()
  except UserError as error:
    pytest.skip(str(error))


@pytest.mark.slow
def test_programs_compiled_for_two_hosts_of_gpus_are_as_declared(
  gpu_compiler, tmp_path
):
  output, written = run_command(
    tmp_path / "audit.json",
    "--config.network.width=0.0625",
    "--topology=h100:2x2",
  )
  assert "GB of 80.0" in output
  assert (written["platform"], written["products"]) == ("gpu", "float32")
  assert written["mesh"] == {"data": 2, "model": 2}
  between_towers = {
    (item["program"], item["pass"], item["layer"], item["hosts"])
    for item in written["collectives"]
    if item["axes"] == ["model"]
  }
  forward = ["conv3", "fc6", "fc7", "fc8"]
  # Both towers of an image are on one host.
  assert between_towers == {
    *(("train", "forward", layer, 1) for layer in forward),
    *(("train", "backward", layer, 1) for layer in forward[:3]),
    *(("evaluate", "forward", layer, 1) for layer in forward),
  }
  assert {
    item["hosts"] for item in written["collectives"] if "data" in item["axes"]
  } == {2}
  assert written["roofline"]["network"] > 0
  rows = written["traffic"]["layers"]
  assert sum(row["bytes"] for row in rows) == written["traffic"]["bytes"]
  assert sum(row["kernels"] for row in rows) == written["traffic"]["kernels"]
  assert {("forward", "conv1"), ("backward", "fc8"), ("update", "fc6")} <= {
    (row["pass"], row["layer"]) for row in rows
  }


@pytest.mark.slow
def test_normalising_across_towers_is_found_in_a_gpu_program(
  gpu_compiler, monkeypatch
):
  inside_a_tower = norm_pool.normalise_and_pool

  def across_towers(x, *constants):
    both = lax.all_gather(x, "model", axis=3, tiled=True)
    own = lax.axis_index("model") * x.shape[3]
    pooled = inside_a_tower(both, *constants)
    return lax.dynamic_slice_in_dim(pooled, own, x.shape[3], axis=3)

  monkeypatch.setattr(norm_pool, "normalise_and_pool", across_towers)
  network = Network(width=1 / 16, num_classes=10)
  mesh = programs.make_mesh({"data": 1, "model": 2}, "", 2, "h100:2")
  result = programs.audit(Recipe(network, 8), mesh, ["train"])
  text = "\n".join(result.findings)
  assert "train: undeclared all-gather" in text
  assert "forward pass, conv1" in text
  assert "backward pass, conv2" in text
