"""Metrics of a run: metrics.jsonl, TensorBoard events, speed, table.

`metrics.jsonl` holds one JSON object per line and is the record of the run. A
run that was interrupted and resumed writes the same lines as an uninterrupted
one, except for `seconds`, `images_per_second` and `data_wait_fraction`.
"""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.table import Column, Table
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from alexnet_jax.runtime.files import write_atomic

FILE_NAME = "metrics.jsonl"


class MetricsWriter:
  """Appends metrics to `metrics.jsonl` and to a TensorBoard events file.

  No file is created before the first `write`. While the disk is full or
  read-only, lines are kept in memory and written with the next one: no line is
  lost and training continues.
  """

  def __init__(
    self, workdir: str, on_metrics: Callable[[], None] = lambda: None
  ):
    """`on_metrics` is called after every line."""
    self._workdir, self._on_metrics = pathlib.Path(workdir), on_metrics
    self._file = -1  # descriptor of metrics.jsonl once open
    self._events: EventsWriter | None = None
    self._purge_step: int | None = None
    self._pending = b""
    self._seconds_before = 0.0
    self._started = time.monotonic()
    self._failing = False

  def resume(self, step: int, evaluation_due: bool = False) -> None:
    """Removes the lines of steps after `step`, that of the restored checkpoint.

    The resumed run writes them again. An incomplete last line is removed too,
    and TensorBoard hides the same steps. Step 0 removes every line;
    `evaluation_due` also removes that of the evaluation at `step`.
    """

    def is_kept(line: dict[str, Any]) -> bool:
      if line["step"] == step and line["split"] == "validation":
        return not evaluation_due
      return 0 < line["step"] <= step

    path = self._workdir / FILE_NAME
    if (before := _content(path)) is not None:
      lines = [line for line in _parse(before) if is_kept(line)]
      after = "".join(map(_line, lines)).encode()
      if after != before:
        write_atomic(path, after)
      self._purge_step = step + 1
      if lines:
        self._seconds_before = lines[-1].get("seconds", 0.0)
    self._started = time.monotonic()

  def write(self, step: int, epoch: float, split: str, **values: Any) -> None:
    """Writes one line, immediately and completely.

    `split` is "train" or "validation". A value that is not finite is written as
    null, since JSON has no NaN.
    """
    seconds = self._seconds_before + time.monotonic() - self._started
    values = {name: _number(value) for name, value in values.items()}
    line = {"step": step, "epoch": epoch, "split": split, **values}
    self._pending += _line({**line, "seconds": round(seconds, 3)}).encode()
    try:
      self._append()
      self._write_events(step, split, values)
      if self._failing:
        print("metrics are written again", file=sys.stderr)
      self._failing = False
    except OSError as error:
      if not self._failing:
        print(
          f"warning: cannot write metrics in {self._workdir}"
          f" ({error.strerror or error}). Training continues; the lines are"
          " kept in memory until they can be written.",
          file=sys.stderr,
        )
      self._failing = True
    self._on_metrics()

  def close(self) -> None:
    """Closes the files, after a last attempt to write the lines in memory."""
    with contextlib.suppress(OSError):
      if self._pending:
        self._append()
    if self._events is not None:
      with contextlib.suppress(OSError):
        self._events.close()
      self._events = None
    if self._file >= 0:
      os.close(self._file)
      self._file = -1

  def _append(self) -> None:
    if self._file < 0:
      self._workdir.mkdir(parents=True, exist_ok=True)
      flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
      self._file = os.open(self._workdir / FILE_NAME, flags, 0o666)
    size = os.fstat(self._file).st_size
    written = os.write(self._file, self._pending)
    if written < len(self._pending):  # the disk became full inside a line
      os.ftruncate(self._file, size)
      raise OSError("no space left on device")
    self._pending = b""

  def _write_events(
    self, step: int, split: str, values: dict[str, float | None]
  ) -> None:
    # Not tensorboardX's SummaryWriter: its thread dies silently on a full disk
    # and then blocks the caller. EventsWriter writes the same file directly.
    if self._events is None:
      prefix = str(self._workdir / "events")
      self._events = EventsWriter(prefix, filename_suffix=f".{os.getpid()}")
      if self._purge_step is not None:
        log = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=self._purge_step, session_log=log))
    for name, value in values.items():
      if value is not None:
        summary = scalar(f"{split}/{name}", value)
        event = Event(wall_time=time.time(), step=step, summary=summary)
        self._events.write_event(event)
    self._events.flush()


def read(workdir: str) -> list[dict[str, Any]]:
  """The lines of a run's metrics.jsonl, without an incomplete last one.

  Empty if there is no such file.
  """
  return _parse(_content(pathlib.Path(workdir) / FILE_NAME) or b"")


class Stopwatch:
  """Measures images per second and the share of time spent waiting for them.

  The first step after the start or a pause is left out: it compiles programs or
  fills queues.
  """

  def __init__(self, batch_size: int):
    self._batch_size = batch_size  # images per step
    self.pause()

  def pause(self) -> None:
    """Discards the measurement; the next one begins after the next step."""
    self._began: float | None = None
    self._steps = 0
    self._waited = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Measures the wait for a batch; use it as a context manager."""
    began = time.monotonic()
    yield
    self._waited += time.monotonic() - began

  def step_finished(self) -> None:
    """Counts one finished step."""
    if self._began is None:
      self._began, self._waited = time.monotonic(), 0.0
    else:
      self._steps += 1

  def read(self) -> dict[str, float]:
    """`images_per_second` and `data_wait_fraction` since the last reading.

    Both are NaN if no step was measured.
    """
    if self._began is None or not self._steps:
      return {"images_per_second": math.nan, "data_wait_fraction": math.nan}
    seconds = time.monotonic() - self._began
    speed = {
      "images_per_second": self._steps * self._batch_size / seconds,
      "data_wait_fraction": self._waited / seconds,
    }
    self.pause()
    self._began = time.monotonic()
    return speed


def print_table(
  lines: Iterable[dict[str, Any]], output: TextIO | None = None
) -> None:
  """Prints the table of a run, one row per evaluation, to `output` or stdout.

  A row's training loss is the mean over the training lines since the previous
  evaluation.
  """
  errors = "validation top-1 error", "validation top-5 error"
  headings = "epoch", "step", "train loss", *errors, "minutes"
  table = Table(*(Column(heading, justify="right") for heading in headings))
  losses: list[float] = []
  for line in lines:
    if line["split"] == "train":
      losses.append(line["loss"] if line["loss"] is not None else math.nan)
    elif line["split"] == "validation":
      loss = f"{sum(losses) / len(losses):.4f}" if losses else "-"
      table.add_row(
        f"{line['epoch']:g}",
        str(line["step"]),
        loss,
        f"{line['top1_error']:.2%}",
        f"{line['top5_error']:.2%}",
        f"{line['seconds'] / 60:.1f}",
      )
      losses = []
  Console(file=output).print(table)


def _line(values: dict[str, Any]) -> str:
  return json.dumps(values, allow_nan=False) + "\n"


def _number(value: Any) -> int | float | None:
  if isinstance(value, int):
    return value
  return float(value) if math.isfinite(value) else None


def _content(path: pathlib.Path) -> bytes | None:
  """The bytes of a file; None if there is none."""
  try:
    return path.read_bytes()
  except FileNotFoundError:  # any other error is not taken for an empty run
    return None


def _parse(text: bytes) -> list[dict[str, Any]]:
  """The complete lines; a kill can leave the last one without its end."""
  *whole, _ = text.split(b"\n")
  lines = []
  for line in whole:
    with contextlib.suppress(ValueError):
      lines.append(json.loads(line))
  return [line for line in lines if isinstance(line, dict) and "step" in line]
