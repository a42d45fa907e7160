"""The session on a GPU, tried on a CPU: every stage, and what ends one."""

import json
import subprocess
import sys
import time

import pytest
from sample_data import ROOT

from benchmarks.gpu import __main__ as session
from benchmarks.gpu import record, right
from benchmarks.gpu.sizes import PRECISIONS, Sizes

# But "resume", a check of selftest that tests/selftest_test.py runs, and
# "torch_eager", which takes the way of "torch_compile".
TRIED = [n for n in session.STAGES if n not in ("resume", "torch_eager")]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
  """The figures of a trial, by stage."""
  folder = tmp_path_factory.mktemp("gpu")
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.gpu", "--tiny", "--minutes=20"),
      *(f"--output={folder}", f"--stages={','.join(TRIED)}"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  found = record.read(folder)
  assert found["versions"]["jax"]
  assert "--tiny" in found["command"]
  assert list(found["result"]) == TRIED
  return found["result"]


@pytest.mark.slow
def test_every_stage_ends_and_no_figure_fails(result):
  for stage, figures in result.items():
    assert figures["ended"].startswith("status 0"), stage
    for name, value in figures.items():
      if isinstance(value, dict) and name != "nvidia-smi":
        assert "failed" not in value, (stage, name, value)


@pytest.mark.slow
def test_a_cpu_equals_itself_and_bfloat16_rounds(result):
  found = result["right"]
  for name in ("crops and flips", "dropout"):
    assert found[f"{name} equal bit for bit"] is True
  assert found["greatest difference of a lit pixel, of 255"] == 0
  differences = {
    name: found[f"gpu {name}"]["relative difference of the first update"]
    for name in PRECISIONS
  }
  kernels = [name for name in differences["float32"] if "kernel" in name]
  assert len(kernels) == 8
  for name in kernels:
    # A CPU computes TF32 in float32; bfloat16 keeps 8 bits of a factor.
    assert differences["float32"][name] == differences["tf32"][name] == 0
    assert 1e-4 < differences["bfloat16"][name] < 0.2
  losses = found["gpu float32"]["losses"]
  assert losses == found["cpu float32"]["losses"]
  assert len(losses) == right.STEPS


@pytest.mark.slow
def test_rates_are_those_of_the_times(result):
  found, sizes = result["throughput"], Sizes.of_a_trial()
  flops = 3 * sum_of_products(sizes) - conv1_products(sizes)
  for name in PRECISIONS:
    for batch in sizes.batches:
      row = found[f"{name} {batch}"]
      rate = batch / row["ms"]["median"] * 1e3
      assert row["images_per_second"] == pytest.approx(rate)
      share = 2 * flops * rate / found[f"peak {name}, FLOP/s"]
      assert row["share of the measured peak"] == pytest.approx(share)


def conv1_products(sizes):
  """Multiply-adds of conv1 in both towers: 15 x 15 places of 64 x 64 pixels."""
  places = (sizes.crop + 3 - 11) // 4 + 1
  return 2 * places**2 * 11 * 11 * 3 * round(48 * sizes.width)


def sum_of_products(sizes):
  """Multiply-adds of a forward pass, from the paper's layers."""
  a, b, c = (round(n * sizes.width) for n in (48, 128, 192))
  units = round(2048 * sizes.width)
  side1 = (sizes.crop + 3 - 11) // 4 + 1  # 15, pooled to 7, 3 and 1
  side2 = (side1 - 3) // 2 + 1
  side3 = (side2 - 3) // 2 + 1
  side4 = (side3 - 3) // 2 + 1
  tower = (
    side2**2 * b * 25 * a
    + side3**2 * 9 * (c * 2 * b + c * c + b * c)
    + units * (side4**2 * 2 * b + 2 * units)
    + sizes.classes * units
  )
  return conv1_products(sizes) + 2 * tower


@pytest.mark.slow
def test_the_program_trains_and_a_step_repeats(result):
  for stage in ("program", "end_to_end"):
    assert result[stage]["exit status"] == 0, result[stage]["output"]
    lines = result[stage]["lines"]
    trained = [line["step"] for line in lines if line["split"] == "train"]
    assert trained[-1] == Sizes.of_a_trial().steps
  assert result["end_to_end"]["input 8, images/s"]["pipeline"] > 0
  assert result["repetition"]["default"]["equal in one process"] is True
  assert result["repetition"]["default"]["equal in another process"] is True


def test_a_stage_that_hangs_ends_with_what_it_started(tmp_path):
  """The child would write a file two seconds later."""
  late = tmp_path / "late"
  child = f"import time; time.sleep(2); open({str(late)!r}, 'w')"
  parent = (
    "import subprocess, sys, time;"
    f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", parent], start_new_session=True
  )
  assert session._wait(process, 1.0) == "out of time"
  time.sleep(2.5)
  assert not late.exists()


def test_the_record_is_whole_after_every_figure(tmp_path):
  first = record.Record(tmp_path, "right")
  first["a"] = 1.5
  with first.trying("b"):
    raise ValueError("of no use")
  record.Record(tmp_path, "forms")["c"] = {"median": 0.25}
  first.describe({"what": "x", "result": {}})
  found = json.loads((tmp_path / record.FILE).read_text())
  assert found == {
    "what": "x",
    "result": {
      "right": {"a": 1.5, "b": {"failed": "ValueError: of no use"}},
      "forms": {"c": {"median": 0.25}},
    },
  }
  assert session.summary(tmp_path).splitlines() == [
    "right: running",
    "  a: 1.5",
    "  b: FAILED: ValueError: of no use",
    "forms: running",
    "  c: 0.25 ms",
  ]
