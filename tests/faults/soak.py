"""24 hours in a nutshell: a long run of a tiny network, interrupted often."""

import os
import pathlib
import signal
import statistics
import threading
import time
from collections.abc import Iterator

from trial import EQUAL, Row, Suite
from world import Life, difference, outcome

STEPS, INTERRUPTIONS = 10_000, 50


def soak(suite: Suite, long: bool) -> Iterator[Row]:
  """An uninterrupted run that is measured, and one that is interrupted."""
  steps, interruptions = (STEPS, INTERRUPTIONS) if long else (400, 2)
  flags = (
    f"--config.total_steps={steps}",
    "--config.batch_size=4",
    "--config.log_every_steps=20",
    "--config.eval_every_epochs=50",
    "--config.checkpoint_every_steps=100",
  )
  whole = suite.world.workdir("soak-whole")
  began = time.monotonic()
  life = suite.world.start(whole, *flags)
  samples = _measure(life)
  status = life.end()
  memory, descriptors = samples()
  rate = steps / (time.monotonic() - began)
  yield {
    "fault": "none",
    "at": f"{steps} steps, {rate:.0f} a second",
    "status": status,
    "result": EQUAL if status == 0 else life.said()[-300:],
    # MiB and open files after the first quarter, and at the end
    "memory": memory,
    "descriptors": descriptors,
  }
  expected = outcome(whole)
  workdir = suite.world.workdir("soak-interrupted")
  ends = sorted(suite.random.sample(range(20, steps), interruptions))
  lives, peaks = 0, []
  for end in ends:
    life = suite.world.start(workdir, *flags)
    samples = _measure(life)
    logged = range(-(-end // 20) * 20, steps + 1, 20)
    pattern = "|".join(f"step {step}/" for step in logged)
    if not life.until(pattern):
      break
    time.sleep(suite.random.uniform(0, 0.3))
    life.end(suite.random.choice((signal.SIGKILL, signal.SIGTERM)))
    lives += 1
    peaks.append(samples()[0][-1])
  suite.world.finish(workdir, *flags)
  yield {
    "fault": f"{lives} interruptions",
    "at": f"random moments of {steps} steps",
    "status": 0,
    "result": difference(workdir, expected) or EQUAL,
    "memory": [min(peaks, default=0), max(peaks, default=0)],
  }


def _measure(life: Life):
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
