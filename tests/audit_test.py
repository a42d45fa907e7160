"""The audit command: its exit status, its JSON, and TPU slices."""

import collections
import json
import pathlib
import subprocess
import sys

import pytest

from alexnet_jax.analysis import programs, topologies
from alexnet_jax.runtime.command import UserError

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
