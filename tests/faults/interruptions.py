"""Interruptions: kills and signals in every phase, two runs, bad numbers."""

import pathlib
import platform
import signal
import time
from collections.abc import Iterator

from trial import EXPECTED, Row, Suite
from world import Life, snapshot


# Each waits for a phase of a run and says for how long it may last, seconds.
def _starting(suite: Suite, workdir: str) -> tuple[Life, float]:
  """From when the process hears signals, before it has imported JAX."""
  life = suite.world.start(workdir, forked=False)
  while not life.hears(signal.SIGTERM):
    time.sleep(0.01)
  return life, 2.5


def _statistics(suite: Suite, workdir: str) -> tuple[Life, float]:
  life = suite.world.start(
    workdir, fault="slow=0.02", cache=f"cache{suite.count}"
  )
  life.until(r"ln\(10\)")
  return life, 0.8


def _compiling(suite: Suite, workdir: str) -> tuple[Life, float]:
  life = suite.world.start(workdir, compile_anew=True)
  life.until(r"ln\(10\)")
  return life, 6.0


def _training(suite: Suite, workdir: str) -> tuple[Life, float]:
  life = suite.world.start(workdir, fault="slow=0.002")
  life.until(f"step {suite.random.randrange(1, 22)}/")
  return life, 0.05


def _evaluating(suite: Suite, workdir: str) -> tuple[Life, float]:
  life = suite.world.start(workdir, fault="slow=0.02")
  life.until("step 12/")
  return life, 0.3


def _saving(suite: Suite, workdir: str) -> tuple[Life, float]:
  life = suite.world.start(workdir)
  step = suite.random.choice((4, 8, 16))
  life.until_file(f"{workdir}/checkpoints", f"{step}*")
  return life, 0.08


def _waiting(suite: Suite, workdir: str) -> tuple[Life, float]:
  """After 170 images no more come: not the eleventh batch."""
  life = suite.world.start(workdir, fault="block=270")
  life.until("step 4/")
  time.sleep(3)
  return life, 0.5


PHASES = {
  "starting": _starting,
  "statistics": _statistics,
  "compiling": _compiling,
  "training": _training,
  "evaluating": _evaluating,
  "saving": _saving,
  "waiting for images": _waiting,
}


def kills(suite: Suite, long: bool) -> Iterator[Row]:
  """SIGKILL at seeded random moments of every phase."""
  for n in range(28 if long else len(PHASES)):
    name = list(PHASES)[n % len(PHASES)]
    workdir = suite.new_workdir()
    life, span = PHASES[name](suite, workdir)
    delay = suite.random.uniform(0, span)
    time.sleep(delay)
    life.end(signal.SIGKILL)
    yield suite.row("SIGKILL", f"{name} + {delay:.2f} s", life, workdir)


def signals(suite: Suite, long: bool) -> Iterator[Row]:
  """SIGTERM and SIGINT in every phase: status 0, a word, and soon."""
  numbers = (signal.SIGTERM, signal.SIGINT) if long else (signal.SIGTERM,)
  for number in numbers:
    for name, reach in PHASES.items():
      workdir = suite.new_workdir()
      life, span = reach(suite, workdir)
      time.sleep(suite.random.uniform(0, span))
      began = time.monotonic()
      status = life.end(number)
      seconds = time.monotonic() - began
      polite = status == 0 and "run the same command again" in life.said()
      row = suite.row(number.name, name, life, workdir)
      if not polite:
        row["result"] = f"status {status}, said: {life.said()[-300:]}"
      yield {**row, "seconds": round(seconds, 1)}


def two_runs(suite: Suite, long: bool) -> Iterator[Row]:
  """A second run on the same workdir."""
  del long
  workdir = suite.new_workdir()
  first = suite.world.start(workdir, fault="block=270")
  first.until("step 4/")
  before = snapshot(pathlib.Path(workdir, "checkpoints"))
  second = suite.world.start(workdir)
  status = second.end()
  named = f"process {first.pid} on host {platform.node()}"
  refused = status == 2 and named in second.said()
  untouched = snapshot(pathlib.Path(workdir, "checkpoints")) == before
  first.end(signal.SIGKILL)
  row = suite.row(
    "two runs", "a second one, then a stale lock", second, workdir
  )
  if not refused or not untouched:
    row["result"] = second.said()[-400:]
  yield row


def numbers(suite: Suite, long: bool) -> Iterator[Row]:
  """A learning rate that breaks the numbers; a run that stalls."""
  del long
  workdir = suite.new_workdir()
  life = suite.world.start(workdir, "--config.schedule.learning_rate=1e30")
  status = life.end()
  said = life.said()
  fine = (
    status == 2
    and "finite" in said
    and "at step" in said
    and "fc8" in said
    and "Traceback" not in said
    and "learning_rate" in said
  )
  yield {
    "fault": "numbers",
    "at": "learning rate 1e30",
    "status": status,
    "result": EXPECTED if fine else said[-600:],
  }
  workdir = suite.new_workdir()
  life = suite.world.start(
    workdir, "--config.stall_minutes=0.03", fault="block=270"
  )
  told = life.until("no step for .* still waiting for images")
  shown = life.until("MainThread|most recent call first")
  status = life.end(signal.SIGTERM)
  row = suite.row("stall", "no images come", life, workdir)
  if not (told and shown) or status:
    row["result"] = f"status {status}: {life.said()[-600:]}"
  yield row
