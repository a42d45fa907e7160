"""Interruptions: kills and signals in every phase, two runs, bad numbers."""

import functools
import pathlib
import platform
import signal
import time
from collections.abc import Iterator

from .trial import Case, Row, Suite, Trial
from .world import Life, snapshot


# Each brings a run, from wherever it is, into a phase, and says for how long
# that may last, in seconds.
def _starting(trial: Trial, workdir: str) -> tuple[Life, float]:
  """From when the process hears signals, before it has imported JAX."""
  life = trial.world.start(workdir)
  while not life.hears(signal.SIGTERM):
    time.sleep(0.01)
  return life, 2.5


def _statistics(trial: Trial, workdir: str) -> tuple[Life, float]:
  cache = f"cache-{pathlib.Path(workdir).name}-{trial.random.random()}"
  life = trial.world.start(workdir, fault="slow=0.02", cache=cache)
  life.until(r"ln\(10\)")
  return life, 0.8


def _compiling(trial: Trial, workdir: str) -> tuple[Life, float]:
  life = trial.world.start(workdir, compile_anew=True)
  life.until(r"ln\(10\)")
  return life, 2.0


def _training(trial: Trial, workdir: str) -> tuple[Life, float]:
  life = trial.world.start(workdir, fault="slow=0.005")
  life.until(r"^step \d+/", count=trial.random.randrange(1, 6))
  return life, 0.05


def _evaluating(trial: Trial, workdir: str) -> tuple[Life, float]:
  life = trial.world.start(workdir, fault="slow=0.02")
  life.until("^step (12|24)/")
  return life, 0.3


def _saving(trial: Trial, workdir: str) -> tuple[Life, float]:
  life = trial.world.start(workdir, fault="slow=0.01")
  life.until_new_file(f"{workdir}/checkpoints")
  return life, 0.08


def _waiting(trial: Trial, workdir: str) -> tuple[Life, float]:
  """After 112 images no more come, and after a while no more steps.

  A reader held up before it took its turn blocks an image of the first batch:
  then no step is ever done, which the run itself says.
  """
  life = trial.world.start(workdir, fault="block=112")
  life.until(r"^step \d+/|^warning: no progress for")
  life.until_silent(2)
  return life, 0.5


PHASES = {
  "starting": _starting,
  "statistics": _statistics,
  "compiling": _compiling,
  "saving": _saving,
  "waiting for images": _waiting,
  "training": _training,
  "evaluating": _evaluating,
}


def kills(suite: Suite, long: bool) -> Iterator[Case]:
  """SIGKILL at seeded random moments of every phase."""
  if not long:
    yield "one run killed", functools.partial(_in_turn, number=signal.SIGKILL)
    return
  for n in range(3 * len(PHASES)):
    phase = list(PHASES)[n % len(PHASES)]
    yield f"kill {n}", functools.partial(_kill, phase=phase)


def _kill(trial: Trial, phase: str) -> Row:
  workdir = trial.new_workdir()
  life, span = PHASES[phase](trial, workdir)
  delay = trial.random.uniform(0, span)
  time.sleep(delay)
  life.end(signal.SIGKILL)
  row = trial.row("SIGKILL", f"{phase} + {delay:.2f} s", life, workdir)
  if life.status != -signal.SIGKILL:
    row["result"] = "it had ended before the kill"
  return row


def signals(suite: Suite, long: bool) -> Iterator[Case]:
  """SIGTERM and SIGINT in every phase: status 0, a word, and soon."""
  if not long:
    yield "one run stopped", functools.partial(_in_turn, number=signal.SIGTERM)
    return
  for number in (signal.SIGTERM, signal.SIGINT):
    for phase in PHASES:
      name = f"{number.name} {phase}"
      yield name, functools.partial(_signal, number=number, phase=phase)


def _signal(trial: Trial, number: signal.Signals, phase: str) -> Row:
  workdir = trial.new_workdir()
  life, span = PHASES[phase](trial, workdir)
  time.sleep(trial.random.uniform(0, span))
  began = time.monotonic()
  life.end(number)
  seconds = time.monotonic() - began
  row = trial.row(number.name, phase, life, workdir)
  if not _polite(life):
    row["result"] = f"status {life.status}, said: {life.said()[-300:]}"
  return {**row, "seconds": round(seconds, 1)}


def _polite(life: Life) -> bool:
  """Whether it said, last of all, how to go on."""
  last = life.said().strip().rpartition("\n")[2]
  return life.status == 0 and "run the same command again" in last


def _in_turn(trial: Trial, number: signal.Signals) -> Row:
  """One run, interrupted in each phase, one after the other."""
  workdir = trial.new_workdir()
  wrong = []
  for name, reach in PHASES.items():
    life, span = reach(trial, workdir)
    time.sleep(trial.random.uniform(0, span))
    life.end(number)
    if number == signal.SIGKILL:
      fine = life.status == -signal.SIGKILL
    else:
      fine = _polite(life)
    if not fine or "Traceback" in life.said():
      wrong.append(f"{name}: {life.status}, {life.said()[-600:]}")
  row = trial.row(number.name, "each phase of one run", life, workdir)
  return {**row, "result": "\n".join(wrong) or row["result"]}


def two_runs(suite: Suite, long: bool) -> Iterator[Case]:
  if long:
    yield "two runs", _two_runs


def _two_runs(trial: Trial) -> Row:
  """A second run on the same workdir."""
  workdir = trial.new_workdir()
  first = trial.world.start(workdir, fault="block=112")
  first.until("^step 2/")
  before = snapshot(pathlib.Path(workdir, "checkpoints"))
  second = trial.world.start(workdir)
  status = second.end()
  named = f"process {first.pid} on host {platform.node()}"
  refused = status == 2 and named in second.said()
  untouched = snapshot(pathlib.Path(workdir, "checkpoints")) == before
  first.end(signal.SIGKILL)
  row = trial.row(
    "two runs", "a second one, then a stale lock", second, workdir
  )
  if not refused or not untouched:
    row["result"] = second.said()[-400:]
  return row


def numbers(suite: Suite, long: bool) -> Iterator[Case]:
  if long:
    yield "numbers", _numbers
    yield "stall", _stall


def _numbers(trial: Trial) -> Row:
  """A learning rate that breaks the numbers, in a run that was fine."""
  workdir = trial.new_workdir()
  good = trial.world.start(workdir)
  good.until("^step 6/")
  good.end(signal.SIGTERM)
  checkpoints = pathlib.Path(workdir, "checkpoints")
  before = snapshot(checkpoints)
  # The rate is no key that a resumed run may change, but its file is its own.
  life = trial.world.start(workdir, fault="explode=1e30")
  life.end()
  said = life.said()
  fine = life.status == 2 and "Traceback" not in said
  words = ("finite", "at step", "fc8", "learning_rate")
  missing = [word for word in words if word not in said]
  touched = {name for name, _ in before.items() ^ snapshot(checkpoints).items()}
  row = trial.row("numbers", "a rate of 1e30 after a save", life, workdir)
  if not fine or missing or touched:
    row["result"] = f"{missing} is not said, {touched} touched: {said[-600:]}"
  return row


def _stall(trial: Trial) -> Row:
  workdir = trial.new_workdir()
  life = trial.world.start(
    workdir, "--config.stall_minutes=0.03", fault="block=112"
  )
  told = life.until("no progress for .* while waiting for images")
  shown = life.until("MainThread|most recent call first")
  life.end(signal.SIGTERM)
  row = trial.row("stall", "no images come", life, workdir)
  if not (told and shown) or life.status:
    row["result"] = f"status {life.status}: {life.said()[-600:]}"
  return row
