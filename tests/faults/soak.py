"""A long run of a tiny network that is interrupted often."""

import functools
import os
import pathlib
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from .sandbox import Process, difference, outcome
from .trial import EQUAL, EXPECTED, Case, Row, Suite, Trial

STEPS, INTERRUPTIONS, PARTS = 10_000, 50, 5
FLAGS = (
  f"--config.total_steps={STEPS}",
  "--config.batch_size=4",
  "--config.log_every_steps=20",
  "--config.eval_every_epochs=50",
  "--config.checkpoint_every_steps=100",
)


def soak(suite: Suite, long: bool) -> Iterator[Case]:
  """An uninterrupted run, and one that is interrupted many times."""
  if not long:
    return
  yield "soak, whole", _whole
  for part in range(PARTS):
    yield f"soak, part {part}", functools.partial(_part, part=part)


def _whole(trial: Trial) -> Row:
  workdir = trial.sandbox.workdir("soak-whole")
  shutil.rmtree(workdir, ignore_errors=True)
  start = time.monotonic()
  process = trial.sandbox.start(workdir, *FLAGS)
  samples = _measure(process)
  process.end()
  memory, descriptors = samples()
  rate = STEPS / (time.monotonic() - start)
  flat = memory[1] < 1.05 * memory[0] and descriptors[1] <= descriptors[0]
  result = EXPECTED if flat and process.status == 0 else process.output()[-300:]
  return {
    "fault": "none",
    "at": f"{STEPS} steps, {rate:.0f} a second",
    "status": process.status,
    "result": result,
    # Resident MiB and open files: in the second quarter and in the last one.
    "memory": memory,
    "descriptors": descriptors,
  }


def _part(trial: Trial, part: int) -> Row:
  """A part of the interruptions; after the last part the run is finished."""
  workdir = trial.sandbox.workdir("soak-interrupted")
  if part == 0:
    shutil.rmtree(workdir, ignore_errors=True)
  span, count = STEPS // PARTS, INTERRUPTIONS // PARTS
  ends = sorted(
    trial.random.sample(range(part * span, (part + 1) * span), count)
  )
  peaks, wrong = [], []
  for end in ends:
    process = trial.sandbox.start(workdir, *FLAGS)
    samples = _measure(process)
    logged = range(end - end % 20 + 20, STEPS + 1, 20)
    process.until(f"^step ({'|'.join(map(str, logged))})/")
    time.sleep(trial.random.uniform(0, 0.3))
    number = trial.random.choice((signal.SIGKILL, signal.SIGTERM))
    if process.end(number) not in (0, -signal.SIGKILL):
      wrong.append(process.output()[-300:])
    memory, descriptors = samples()
    peaks.append((memory[-1], descriptors[-1]))
  at = f"steps {part * span} to {(part + 1) * span}"
  if part == PARTS - 1:
    trial.sandbox.finish(workdir, *FLAGS)
    whole = outcome(trial.sandbox.workdir("soak-whole"))
    wrong += filter(None, [difference(workdir, whole)])
    at += ", then to the end"
  return {
    "fault": f"{count} kills and stops",
    "at": at,
    "status": 0,
    "result": "\n".join(wrong) or EQUAL,
    # Minimum and maximum over the processes, each at its end.
    "memory": [f([m for m, _ in peaks]) for f in (min, max)],
    "descriptors": [f([n for _, n in peaks]) for f in (min, max)],
  }


def _measure(process: Process) -> Callable[[], tuple[list[int], list[int]]]:
  """Samples a process; the result returns (memory, open files), each early and
  late."""
  found: list[tuple[float, int]] = []

  def watch() -> None:
    folder = pathlib.Path("/proc", str(process.pid))
    while True:
      try:
        pages = int((folder / "statm").read_text().split()[1])
        files = len(os.listdir(folder / "fd"))
      except OSError:
        return
      found.append((pages * os.sysconf("SC_PAGESIZE") / 2**20, files))
      time.sleep(0.5)

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()

  def samples() -> tuple[list[int], list[int]]:
    thread.join()
    quarter = max(len(found) // 4, 1)
    parts = (found[quarter : 2 * quarter] or found, found[-quarter:])
    memory = [round(statistics.median(m for m, _ in part)) for part in parts]
    files = [round(statistics.median(n for _, n in part)) for part in parts]
    return memory, files

  return samples
