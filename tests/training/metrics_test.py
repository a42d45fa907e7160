"""Metrics: whole lines, none doubled, none missing; what people read."""

import io
import json
import math
import os
import resource
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from alexnet_jax.training import metrics


def _train(writer, steps, loss=lambda step: 1 / step):
  for step in steps:
    writer.write(step, step / 10, "train", loss=loss(step), top1_error=0.5)


def _steps(workdir):
  return [line["step"] for line in metrics.read(str(workdir))]


def _events(workdir):
  """TFRecord framing by hand: u64 length, u32 crc, data, u32 crc."""
  events = []
  for path in sorted(workdir.glob("events.out.tfevents.*")):
    data, at = path.read_bytes(), 0
    while at < len(data):
      length = int.from_bytes(data[at : at + 8], "little")
      events.append(Event.FromString(data[at + 12 : at + 12 + length]))
      at += 16 + length
  return events


def test_lines_and_events(tmp_path):
  writer = metrics.MetricsWriter(str(tmp_path))
  writer.write(3, 0.5, "train", loss=np.float32(2.25), images_per_second=7)
  writer.write(
    3, 0.5, "validation", loss=float("nan"), num_examples=np.int64(120)
  )
  lines = [
    json.loads(line)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
  ]
  for line in lines:
    assert line.pop("seconds") >= 0
  assert lines == [
    {
      "step": 3,
      "epoch": 0.5,
      "split": "train",
      "loss": 2.25,
      "images_per_second": 7,
    },
    {
      "step": 3,
      "epoch": 0.5,
      "split": "validation",
      "loss": None,
      "num_examples": 120,
    },
  ]
  found = {
    value.tag: (event.step, value.simple_value)
    for event in _events(tmp_path)
    for value in event.summary.value
  }
  assert found == {
    "train/loss": (3, 2.25),
    "train/images_per_second": (3, 7.0),
    "validation/num_examples": (3, 120.0),
  }
  writer.close()


def test_nothing_is_created_before_the_first_line(tmp_path):
  writer = metrics.MetricsWriter(str(tmp_path / "new"))
  writer.resume(0)
  writer.close()
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("torn", [1, 5])  # 1: only the line's end is missing
def test_resume_drops_what_comes_again_and_the_torn_line(tmp_path, torn):
  writer = metrics.MetricsWriter(str(tmp_path))
  _train(writer, range(1, 8))
  writer.close()
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-torn])
  assert _steps(tmp_path) == [1, 2, 3, 4, 5, 6]
  again = metrics.MetricsWriter(str(tmp_path))
  again.resume(4)
  assert _steps(tmp_path) == [1, 2, 3, 4]
  _train(again, range(5, 10))
  again.close()
  assert _steps(tmp_path) == list(range(1, 10))
  starts = [
    event.step
    for event in _events(tmp_path)
    if event.WhichOneof("what") == "session_log"
  ]
  assert starts == [5]  # TensorBoard hides what an earlier file said from here
  assert [p.name for p in tmp_path.glob("*.new")] == []


def test_resume_at_step_0_forgets_everything(tmp_path):
  writer = metrics.MetricsWriter(str(tmp_path))
  _train(writer, range(1, 4))
  writer.resume(0)
  assert _steps(tmp_path) == []
  writer.close()


def test_resume_before_an_evaluation_drops_what_it_said(tmp_path):
  writer = metrics.MetricsWriter(str(tmp_path))
  for step in (2, 4):
    writer.write(step, step, "train", loss=1)
    writer.write(step, step, "validation", loss=1)
  writer.resume(4)
  assert _steps(tmp_path) == [2, 2, 4, 4]
  writer.resume(4, evaluation_due=True)
  assert [
    (line["step"], line["split"]) for line in metrics.read(str(tmp_path))
  ][-1] == (4, "train")
  assert _steps(tmp_path) == [2, 2, 4]
  writer.close()


def test_resume_with_nothing_to_drop_leaves_the_file_alone(tmp_path):
  writer = metrics.MetricsWriter(str(tmp_path))
  _train(writer, range(1, 4))
  writer.close()
  before = os.stat(tmp_path / "metrics.jsonl")
  metrics.MetricsWriter(str(tmp_path)).resume(3)
  after = os.stat(tmp_path / "metrics.jsonl")
  assert (after.st_ino, after.st_mtime_ns) == (
    before.st_ino,
    before.st_mtime_ns,
  )


def test_seconds_go_on_where_the_run_stopped(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "split": "train", "seconds": 100.0}\n'
  )
  writer = metrics.MetricsWriter(str(tmp_path))
  writer.resume(1)
  _train(writer, [2])
  writer.close()
  assert 100.0 <= metrics.read(str(tmp_path))[-1]["seconds"] < 160.0


def test_full_disk_costs_no_line_and_tears_none(tmp_path):
  """A file-size limit stands in for the full disk; it tears a line."""
  script = textwrap.dedent(
    f"""
    import resource, signal
    from alexnet_jax.training import metrics
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = metrics.MetricsWriter({str(tmp_path)!r})
    writer.write(1, 0.1, "train", loss=1.0)
    writer.write(2, 0.2, "train", loss=1.0)
    size = (metrics.pathlib.Path({str(tmp_path)!r}) / "metrics.jsonl").stat()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size.st_size + 9, hard))
    writer.write(3, 0.3, "train", loss=1.0)
    writer.write(4, 0.4, "train", loss=1.0)
    print(len(metrics.read({str(tmp_path)!r})))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.write(5, 0.5, "train", loss=1.0)
    writer.close()
    """
  )
  result = subprocess.run(
    [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout == "2\n"
  assert _steps(tmp_path) == [1, 2, 3, 4, 5]
  warning, recovered = result.stderr.splitlines()
  assert "cannot write metrics" in warning
  assert "again" in recovered


@pytest.mark.skipif(
  resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 64, reason="few descriptors"
)
def test_descriptors_stay_flat(tmp_path):
  def count():
    return len(os.listdir("/proc/self/fd"))

  before = count()
  for n in range(5):
    writer = metrics.MetricsWriter(str(tmp_path))
    writer.resume(n * 10)
    _train(writer, range(n * 10 + 1, n * 10 + 11))
    writer.close()
  assert count() == before
  assert _steps(tmp_path) == list(range(1, 51))


def test_table():
  def line(step, split, loss, **more):
    return {
      "step": step,
      "split": split,
      "loss": loss,
      "epoch": step / 2,
      **more,
    }

  out = io.StringIO()
  errors = {"top1_error": 0.1234, "top5_error": 0.05}
  metrics.print_table(
    [
      line(1, "train", 3.0),
      line(2, "train", 2.0),
      line(2, "validation", 9.0, seconds=90.0, **errors),
      line(3, "train", 1.0),
      line(4, "validation", 9.0, seconds=180.0, **errors),
    ],
    output=out,
  )
  rows = [
    [cell.strip() for cell in row.strip("│┃").split("│")]
    for row in out.getvalue().splitlines()
    if "%" in row
  ]
  assert rows == [
    ["1", "2", "2.5000", "12.34%", "5.00%", "1.5"],
    ["2", "4", "1.0000", "12.34%", "5.00%", "3.0"],
  ]


def test_the_stopwatch_leaves_out_the_first_step(monkeypatch):
  now = 100.0
  monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
  stopwatch = metrics.Stopwatch(batch_size=64)

  def one_step(wait, work):
    nonlocal now
    with stopwatch.waiting():
      now += wait
    now += work
    stopwatch.step_finished()

  one_step(5, 60)  # compiles
  nothing = stopwatch.read()
  assert set(nothing) == {"images_per_second", "data_wait_fraction"}
  assert all(map(math.isnan, nothing.values()))
  one_step(1, 3)
  one_step(1, 3)
  assert stopwatch.read() == {
    "images_per_second": 64 * 2 / 8,
    "data_wait_fraction": 2 / 8,
  }
  one_step(0, 2)
  assert stopwatch.read()["images_per_second"] == 32
  stopwatch.pause()
  one_step(9, 9)
  assert math.isnan(stopwatch.read()["images_per_second"])
