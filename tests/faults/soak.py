"""A long run of a tiny network that is interrupted often, in every way."""

import functools
import json
import os
import pathlib
import resource
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from .interruptions import SIGNALS
from .sandbox import PATIENCE, Process, difference, outcome
from .storage import limit_files
from .trial import EQUAL, EXPECTED, Case, Row, Suite, Trial

STEPS, PARTS = 10_000, 5
# How the processes of one part end, and how many interruptions that is. Each
# happens at a random step of the part.
ENDS = {
  "SIGKILL": 1,
  "the disk is full, then a signal": 2,
  "the disk is full for a while, then a signal": 2,
  "nobody reads the output, then a signal": 2,
  "SIGKILL, then a file of the newest checkpoint is torn": 2,
  "the newest checkpoint cannot be read for a while": 1,
}
INTERRUPTIONS = PARTS * sum(ENDS.values())
# Both towers on one device, an example a step: the steps are quick even while
# other programs use the processor.
FLAGS = (
  f"--config.total_steps={STEPS}",
  "--config.batch_size=1",
  "--config.mesh.data=1",
  "--config.mesh.model=1",
  "--config.network.width=0.03125",
  "--config.log_every_steps=50",
  "--config.eval_every_epochs=20",
  "--config.checkpoint_every_steps=200",
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
  process.end(patience=3600)
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
  span = STEPS // PARTS
  steps = range(part * span + 50, (part + 1) * span)
  ends = sorted(trial.random.sample(steps, len(ENDS)))
  kinds = trial.random.sample(list(ENDS), len(ENDS))
  peaks, wrong = [], []
  for step, kind in zip(ends, kinds, strict=True):
    process = trial.sandbox.start(workdir, *FLAGS, readers=True, forked=True)
    samples = _measure(process)
    if problem := _interrupt(trial, process, workdir, step, kind):
      wrong.append(f"{kind} at step {step}: {problem}")
    memory, descriptors = samples()
    peaks.append((memory[-1], descriptors[-1]))
  at = f"steps {part * span} to {(part + 1) * span}"
  if part == PARTS - 1:
    trial.sandbox.finish(workdir, *FLAGS)
    whole = outcome(trial.sandbox.workdir("soak-whole"))
    wrong += filter(None, [difference(workdir, whole)])
    at += ", then to the end"
  return {
    "fault": "interruptions of all kinds",
    "at": at,
    "count": sum(ENDS.values()),
    "steps": dict(zip(map(str, ends), kinds, strict=True)),
    "status": 0,
    "result": "\n".join(wrong) or EQUAL,
    # Minimum and maximum over the processes, each at its end.
    "memory": [f([m for m, _ in peaks]) for f in (min, max)],
    "descriptors": [f([n for _, n in peaks]) for f in (min, max)],
  }


def _interrupt(
  trial: Trial, process: Process, workdir: str, step: int, kind: str
) -> str:
  """Interrupts a process near a step, and says what was wrong with its end."""
  _wait_for(process, workdir, step)
  if process.has_ended():
    return f"it ended with status {process.end()}: {process.output()[-600:]}"
  time.sleep(trial.random.uniform(0, 0.3))
  if "nobody reads" in kind:
    streams = [("stdout",), ("stderr",), ("stdout", "stderr")]
    process.kill_reader(*trial.random.choice(streams))
  if "disk" in kind:
    limit_files(process, 0)
    time.sleep(5)
  if "disk is full for a while" in kind:
    limit_files(process, resource.RLIM_INFINITY)
    time.sleep(1)
  number, expected = trial.random.choice(SIGNALS), {0}
  if "SIGKILL" in kind:
    number, expected = signal.SIGKILL, {-signal.SIGKILL}
  if "the disk is full, then" in kind:
    expected = {2}  # the last steps cannot be saved
  status = process.end(number)
  problem = ""
  if status not in expected or "Traceback" in process.output():
    problem = f"status {status}: {process.output()[-600:]}"
  newest = _newest(workdir)
  if "torn" in kind and newest:
    largest = max(newest.rglob("*"), key=lambda path: path.lstat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
  if "cannot be read" in kind and newest:
    problem = problem or _unreadable(trial, workdir, newest)
  return problem


def _unreadable(trial: Trial, workdir: str, newest: pathlib.Path) -> str:
  """A checkpoint whose files have an I/O error for a while.

  The run is refused, because nothing proves that the checkpoint is damaged.
  """
  metadata = newest / "metadata" / "metadata"
  kept = metadata.with_name("kept")
  metadata.rename(kept)
  metadata.symlink_to(metadata.name)  # ELOOP; root may read anything else
  process = trial.sandbox.start(workdir, *FLAGS, forked=True)
  status = process.end()
  metadata.unlink(missing_ok=True)
  if not kept.exists():
    return f"the checkpoint was moved: {process.output()[-600:]}"
  kept.rename(metadata)
  return "" if status == 2 else f"status {status}: {process.output()[-600:]}"


def _newest(workdir: str) -> pathlib.Path | None:
  """The newest checkpoint, if there is an older one to fall back on."""
  folder = pathlib.Path(workdir, "checkpoints")
  steps = sorted(int(x.name) for x in folder.glob("*") if x.name.isdigit())
  return folder / str(steps[-1]) if len(steps) > 1 else None


def _wait_for(process: Process, workdir: str, step: int) -> None:
  """Waits until the process has written the first line after a step.

  Not for what is printed, which nobody may read; and not for a line of the
  process before, which may have come further than its last checkpoint.
  """
  path = pathlib.Path(workdir, "metrics.jsonl")
  before = path.stat().st_mtime_ns if path.exists() else 0
  deadline = time.monotonic() + 2 * PATIENCE
  while time.monotonic() < deadline and not process.has_ended():
    if path.exists() and path.stat().st_mtime_ns > before:
      for text in path.read_text().splitlines()[-1:]:
        if text.endswith("}") and json.loads(text)["step"] > step:
          return
    time.sleep(0.1)


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
