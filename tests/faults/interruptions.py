"""Kills and signals in every phase, two runs in one workdir, bad numbers."""

import functools
import pathlib
import platform
import signal
import time
from collections.abc import Iterator

from alexnet_jax.runtime import status

from .sandbox import Process, snapshot
from .trial import Case, Row, Suite, Trial

SIGNALS = (
  signal.SIGTERM,
  signal.SIGINT,
  signal.SIGHUP,
  signal.SIGUSR1,
  signal.SIGUSR2,
)


# Each of these functions starts or resumes a run, waits until it is in a phase,
# and returns its process and the seconds that the phase may last.
def _starting(
  trial: Trial, workdir: str, **more: bool
) -> tuple[Process, float]:
  """After the signal handlers are set, before JAX is imported."""
  process = trial.sandbox.start(workdir, **more)
  while not process.handles(signal.SIGTERM):
    time.sleep(0.01)
  return process, 2.5


def _statistics(
  trial: Trial, workdir: str, **more: bool
) -> tuple[Process, float]:
  cache = f"cache-{pathlib.Path(workdir).name}-{trial.random.random()}"
  process = trial.sandbox.start(workdir, fault="slow=0.02", cache=cache, **more)
  process.until(r"ln\(10\)")
  return process, 0.8


def _compiling(
  trial: Trial, workdir: str, **more: bool
) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, compile_anew=True, **more)
  process.until(r"ln\(10\)")
  return process, 2.0


def _training(
  trial: Trial, workdir: str, **more: bool
) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, fault="slow=0.005", **more)
  process.until(r"^step \d+/", count=trial.random.randrange(1, 6))
  return process, 0.05


def _evaluating(
  trial: Trial, workdir: str, **more: bool
) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, fault="slow=0.02", **more)
  process.until("^step (12|24)/")
  return process, 0.3


def _saving(trial: Trial, workdir: str, **more: bool) -> tuple[Process, float]:
  process = trial.sandbox.start(workdir, fault="slow=0.01", **more)
  process.until_new_file(f"{workdir}/checkpoints")
  return process, 0.08


def _waiting(trial: Trial, workdir: str, **more: bool) -> tuple[Process, float]:
  """The input hangs after 112 images, and the run soon makes no progress.

  A reader that is late may block an image of the first batch. Then no step is
  ever finished, which the run reports as a stall.
  """
  process = trial.sandbox.start(workdir, fault="block=112", **more)
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
  for n in range(3 if long else 1):
    interrupt = functools.partial(_every_phase, number=signal.SIGKILL)
    yield f"a run that is killed, {n}", interrupt


def signals(suite: Suite, long: bool) -> Iterator[Case]:
  """Signals that stop a run in every phase: status 0, a message, and soon."""
  for number in SIGNALS if long else SIGNALS[:1]:
    interrupt = functools.partial(_every_phase, number=number)
    yield f"a run that is stopped by {number.name}", interrupt


def _every_phase(trial: Trial, number: signal.Signals) -> Row:
  """One run that is interrupted in each phase, one after the other."""
  workdir = trial.new_workdir()
  wrong, slowest = [], 0.0
  for phase, reach in PHASES.items():
    process, span = reach(trial, workdir)
    time.sleep(trial.random.uniform(0, span))
    start = time.monotonic()
    process.end(number)
    slowest = max(slowest, time.monotonic() - start)
    if problem := problem_after(number, phase, process, workdir):
      wrong.append(f"{phase}: {problem}")
  row = trial.row(number.name, "; ".join(PHASES), process, workdir)
  result = "\n".join(wrong) or row["result"]
  return {
    **row,
    "result": result,
    "count": len(PHASES),
    "seconds": round(slowest, 1),
  }


def problem_after(
  number: signal.Signals, phase: str, process: Process, workdir: str
) -> str:
  """What is wrong with how a process ended; "" if nothing is."""
  output = process.output()
  shown = f"status {process.status}, printed: {output[-600:]}"
  if "Traceback" in output:
    return shown
  told = status.last_attempt(workdir)
  if number == signal.SIGKILL:
    fine, reason = process.status == -signal.SIGKILL, "was killed"
  else:
    last = output.strip().rpartition("\n")[2]
    fine = process.status == 0 and "run the same command again" in last
    reason = f"stopped by {number.name}"
  # Before the workdir is locked there is nothing to tell.
  if phase != "starting" and reason not in told:
    return f"status.json says {told!r}"
  return "" if fine else shown


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
  exit_status = second.end()
  named = f"process {first.pid} on host {platform.node()}"
  refused = exit_status == 2 and named in second.output()
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
