"""Kills and signals in every phase, two runs in one workdir, bad numbers."""

import functools
import pathlib
import platform
import signal
import time
from collections.abc import Iterator

from .sandbox import Process, snapshot
from .trial import Case, Row, Suite, Trial


# Each of these functions starts or resumes a run, waits until it is in a phase,
# and returns its process and the seconds that the phase may last.
def _starting(trial: Trial, workdir: str) -> tuple[Process, float]:
  """After the signal handlers are set, before JAX is imported."""
  process = trial.sandbox.start(workdir)
  while not process.handles(signal.SIGTERM):
    time.sleep(0.01)
  return process, 2.5


def _statistics(trial: Trial, workdir: str) -> tuple[Process, float]:
  cache = f"cache-{pathlib.Path(workdir).name}-{trial.random.random()}"
  process = trial.sandbox.start(workdir, fault="slow=0.02", cache=cache)
  process.until(r"ln\(10\)")
  return process, 0.8


def _compiling(trial: Trial, workdir: str) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, compile_anew=True)
  process.until(r"ln\(10\)")
  return process, 2.0


def _training(trial: Trial, workdir: str) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, fault="slow=0.005")
  process.until(r"^step \d+/", count=trial.random.randrange(1, 6))
  return process, 0.05


def _evaluating(trial: Trial, workdir: str) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, fault="slow=0.02")
  process.until("^step (12|24)/")
  return process, 0.3


def _saving(trial: Trial, workdir: str) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, fault="slow=0.01")
  process.until_new_file(f"{workdir}/checkpoints")
  return process, 0.08


def _waiting(trial: Trial, workdir: str) -> tuple[Process, float]:
  """The input hangs after 112 images, and the run soon makes no progress.

  A reader that is late may block an image of the first batch. Then no step is
  ever finished, which the run reports as a stall.
  """
  process = trial.sandbox.start(workdir, fault="block=112")
  process.until(r"^step \d+/|^warning: no progress for")
  process.until_silent(2)
  return process, 0.5


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
    yield (
      "one run killed",
      functools.partial(_every_phase, number=signal.SIGKILL),
    )
    return
  for n in range(3 * len(PHASES)):
    phase = list(PHASES)[n % len(PHASES)]
    yield f"kill {n}", functools.partial(_kill, phase=phase)


def _kill(trial: Trial, phase: str) -> Row:
  workdir = trial.new_workdir()
  process, span = PHASES[phase](trial, workdir)
  delay = trial.random.uniform(0, span)
  time.sleep(delay)
  process.end(signal.SIGKILL)
  row = trial.row("SIGKILL", f"{phase} + {delay:.2f} s", process, workdir)
  if process.status != -signal.SIGKILL:
    row["result"] = "the process ended before the kill"
  return row


def signals(suite: Suite, long: bool) -> Iterator[Case]:
  """SIGTERM and SIGINT in every phase: status 0, a message, and soon."""
  if not long:
    yield (
      "one run stopped",
      functools.partial(_every_phase, number=signal.SIGTERM),
    )
    return
  for number in (signal.SIGTERM, signal.SIGINT):
    for phase in PHASES:
      name = f"{number.name} {phase}"
      yield name, functools.partial(_signal, number=number, phase=phase)


def _signal(trial: Trial, number: signal.Signals, phase: str) -> Row:
  workdir = trial.new_workdir()
  process, span = PHASES[phase](trial, workdir)
  time.sleep(trial.random.uniform(0, span))
  start = time.monotonic()
  process.end(number)
  seconds = time.monotonic() - start
  row = trial.row(number.name, phase, process, workdir)
  if not _stopped_cleanly(process):
    row["result"] = (
      f"status {process.status}, printed: {process.output()[-300:]}"
    )
  return {**row, "seconds": round(seconds, 1)}


def _stopped_cleanly(process: Process) -> bool:
  """Whether the process exited with 0 and a hint on how to resume."""
  last = process.output().strip().rpartition("\n")[2]
  return process.status == 0 and "run the same command again" in last


def _every_phase(trial: Trial, number: signal.Signals) -> Row:
  """One run that is interrupted in each phase, one after the other."""
  workdir = trial.new_workdir()
  wrong = []
  for name, reach in PHASES.items():
    process, span = reach(trial, workdir)
    time.sleep(trial.random.uniform(0, span))
    process.end(number)
    if number == signal.SIGKILL:
      fine = process.status == -signal.SIGKILL
    else:
      fine = _stopped_cleanly(process)
    if not fine or "Traceback" in process.output():
      wrong.append(f"{name}: {process.status}, {process.output()[-600:]}")
  row = trial.row(number.name, "each phase of one run", process, workdir)
  return {**row, "result": "\n".join(wrong) or row["result"]}


def two_runs(suite: Suite, long: bool) -> Iterator[Case]:
  if long:
    yield "two runs", _two_runs


def _two_runs(trial: Trial) -> Row:
  """A second run on the same workdir."""
  workdir = trial.new_workdir()
  first = trial.sandbox.start(workdir, fault="block=112")
  first.until("^step 2/")
  before = snapshot(pathlib.Path(workdir, "checkpoints"))
  second = trial.sandbox.start(workdir)
  status = second.end()
  named = f"process {first.pid} on host {platform.node()}"
  refused = status == 2 and named in second.output()
  untouched = snapshot(pathlib.Path(workdir, "checkpoints")) == before
  first.end(signal.SIGKILL)
  row = trial.row(
    "two runs", "a second run, then a stale lock", second, workdir
  )
  if not refused or not untouched:
    row["result"] = second.output()[-400:]
  return row


def numbers(suite: Suite, long: bool) -> Iterator[Case]:
  if long:
    yield "numbers", _numbers
    yield "stall", _stall


def _numbers(trial: Trial) -> Row:
  """A learning rate of 1e30 in a run that was fine until then."""
  workdir = trial.new_workdir()
  good = trial.sandbox.start(workdir)
  good.until("^step 6/")
  good.end(signal.SIGTERM)
  checkpoints = pathlib.Path(workdir, "checkpoints")
  before = snapshot(checkpoints)
  # A resumed run may not change the rate in its configuration, but a fault in
  # the configuration file can.
  process = trial.sandbox.start(workdir, fault="explode=1e30")
  process.end()
  output = process.output()
  fine = process.status == 2 and "Traceback" not in output
  words = ("finite", "at step", "fc8", "learning_rate")
  missing = [word for word in words if word not in output]
  touched = {name for name, _ in before.items() ^ snapshot(checkpoints).items()}
  row = trial.row("numbers", "a rate of 1e30 after a save", process, workdir)
  if not fine or missing or touched:
    row["result"] = (
      f"{missing} missing in the output, {touched} changed: {output[-600:]}"
    )
  return row


def _stall(trial: Trial) -> Row:
  workdir = trial.new_workdir()
  process = trial.sandbox.start(
    workdir, "--config.stall_minutes=0.03", fault="block=112"
  )
  reported = process.until("no progress for .* while waiting for images")
  shown = process.until("MainThread|most recent call first")
  process.end(signal.SIGTERM)
  row = trial.row("stall", "the input hangs", process, workdir)
  if not (reported and shown) or process.status:
    row["result"] = f"status {process.status}: {process.output()[-600:]}"
  return row
