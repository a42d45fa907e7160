"""24 hours in a nutshell: a long run of a tiny network, interrupted often."""

import functools
import os
import pathlib
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from .trial import EQUAL, EXPECTED, Case, Row, Suite, Trial
from .world import Life, difference, outcome

STEPS, INTERRUPTIONS, PARTS = 10_000, 50, 5
FLAGS = (
  f"--config.total_steps={STEPS}",
  "--config.batch_size=4",
  "--config.log_every_steps=20",
  "--config.eval_every_epochs=50",
  "--config.checkpoint_every_steps=100",
)


def soak(suite: Suite, long: bool) -> Iterator[Case]:
  """An uninterrupted run that is measured, and one that is interrupted."""
  if not long:
    return
  yield "soak, whole", _whole
  for part in range(PARTS):
    yield f"soak, part {part}", functools.partial(_part, part=part)


def _whole(trial: Trial) -> Row:
  workdir = trial.world.workdir("soak-whole")
  shutil.rmtree(workdir, ignore_errors=True)
  began = time.monotonic()
  life = trial.world.start(workdir, *FLAGS)
  samples = _measure(life)
  life.end()
  memory, descriptors = samples()
  rate = STEPS / (time.monotonic() - began)
  flat = memory[1] < 1.05 * memory[0] and descriptors[1] <= descriptors[0]
  result = EXPECTED if flat and life.status == 0 else life.said()[-300:]
  return {
    "fault": "none",
    "at": f"{STEPS} steps, {rate:.0f} a second",
    "status": life.status,
    "result": result,
    # Resident MiB and open files, in the second quarter and in the last.
    "memory": memory,
    "descriptors": descriptors,
  }


def _part(trial: Trial, part: int) -> Row:
  """Some of the interruptions; after the last ones the run is finished."""
  workdir = trial.world.workdir("soak-interrupted")
  if part == 0:
    shutil.rmtree(workdir, ignore_errors=True)
  span, count = STEPS // PARTS, INTERRUPTIONS // PARTS
  ends = sorted(
    trial.random.sample(range(part * span, (part + 1) * span), count)
  )
  peaks, wrong = [], []
  for end in ends:
    life = trial.world.start(workdir, *FLAGS)
    samples = _measure(life)
    logged = range(end - end % 20 + 20, STEPS + 1, 20)
    life.until(f"^step ({'|'.join(map(str, logged))})/")
    time.sleep(trial.random.uniform(0, 0.3))
    number = trial.random.choice((signal.SIGKILL, signal.SIGTERM))
    if life.end(number) not in (0, -signal.SIGKILL):
      wrong.append(life.said()[-300:])
    memory, descriptors = samples()
    peaks.append((memory[-1], descriptors[-1]))
  at = f"steps {part * span} to {(part + 1) * span}"
  if part == PARTS - 1:
    trial.world.finish(workdir, *FLAGS)
    whole = outcome(trial.world.workdir("soak-whole"))
    wrong += filter(None, [difference(workdir, whole)])
    at += ", then to the end"
  return {
    "fault": f"{count} kills and stops",
    "at": at,
    "status": 0,
    "result": "\n".join(wrong) or EQUAL,
    # Least and most over the lives, each at its end.
    "memory": [f([m for m, _ in peaks]) for f in (min, max)],
    "descriptors": [f([n for _, n in peaks]) for f in (min, max)],
  }


def _measure(life: Life) -> Callable[[], tuple[list[int], list[int]]]:
  """Watches a process; the result says (memory, open files), early and late."""
  found: list[tuple[float, int]] = []

  def watch() -> None:
    folder = pathlib.Path("/proc", str(life.pid))
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
