"""Output that nobody reads, in every phase: the run goes on, or is saved."""

import functools
import pathlib
import signal
import time
from collections.abc import Iterator

from alexnet_jax.runtime import status

from .interruptions import PHASES
from .sandbox import noisy_jpegs
from .trial import EXPECTED, Case, Row, Suite, Trial

STREAMS = {
  "stdout": ("stdout",),
  "stderr": ("stderr",),
  "stdout and stderr": ("stdout", "stderr"),
}


def pipes(suite: Suite, long: bool) -> Iterator[Case]:
  """Readers die as of Ctrl-C at `| tee log`, or as `| head` ends."""
  for streams in STREAMS if long else ("stdout and stderr",):
    name = f"{streams}, then Ctrl-C"
    yield name, functools.partial(_every_phase, streams=streams)
    if long:
      name = f"{streams}, then to the end"
      yield name, functools.partial(_to_the_end, streams=streams)
  if long:
    yield "no stdout and stderr from the start", _closed
    yield "every command with a closed pipe", _commands


def _every_phase(trial: Trial, streams: str) -> Row:
  """In each phase of one run the readers die, and SIGINT follows."""
  workdir = trial.new_workdir()
  wrong = []
  for phase, reach in PHASES.items():
    process, span = reach(trial, workdir, readers=True)
    time.sleep(trial.random.uniform(0, span))
    process.kill_reader(*STREAMS[streams])
    process.end(signal.SIGINT)
    if process.status or "Traceback" in process.output():
      wrong.append(f"{phase}: {process.status}, {process.output()[-600:]}")
    told = status.last_attempt(workdir)
    if phase != "starting" and "stopped by SIGINT" not in told:
      wrong.append(f"{phase}: status.json says {told!r}")
  # What it printed last is lost, so it is known to be unfinished from here.
  trial.sandbox.finish(workdir)
  row = trial.row(
    f"dead reader of {streams}, then SIGINT",
    "; ".join(PHASES),
    process,
    workdir,
  )
  result = "\n".join(wrong) or row["result"]
  return {**row, "result": result, "count": len(PHASES)}


def _to_the_end(trial: Trial, streams: str) -> Row:
  """A run whose readers die at its first steps ends as any other."""
  workdir = trial.new_workdir()
  process, _ = PHASES["training"](trial, workdir, readers=True)
  process.kill_reader(*STREAMS[streams])
  process.end()
  row = trial.row(
    f"dead reader of {streams}, to the end", "training", process, workdir
  )
  if process.status:
    row["result"] = f"status {process.status}"
  return row


def _closed(trial: Trial) -> Row:
  """A run without descriptors 0, 1 and 2; no file of it may get one of them."""
  workdir = trial.new_workdir()
  process = trial.sandbox.start(workdir, closed=True)
  process.end()
  row = trial.row(
    "closed stdin, stdout and stderr", "from the start", process, workdir
  )
  if process.status:
    row["result"] = f"status {process.status}"
  return row


def _commands(trial: Trial) -> Row:
  """Each command prints to a pipe that nobody reads."""
  whole, config = trial.whole, trial.sandbox.config
  page = str(trial.sandbox.folder / f"{trial.name}.out")
  picture = trial.sandbox.folder / "picture.jpg"
  picture.write_bytes(noisy_jpegs(1, 5)[0])
  commands = {
    "main": (),
    "describe": (f"--config={config}",),
    "prepare": (
      "--check",
      f"--data_dir={trial.sandbox.data_dir}",
      "--name=faulty",
    ),
    "evaluate": (f"--workdir={whole}",),
    "predict": (f"--workdir={whole}", str(picture)),
    "report": (f"--workdir={whole}", f"--output={page}"),
    "audit": (f"--config={config}",),
    "weights": ("export", f"--workdir={whole}", f"--output={page}"),
  }
  wrong = []
  for module, arguments in commands.items():
    process = trial.sandbox.start(
      whole, *arguments, module=module, readers=True
    )
    process.kill_reader("stdout", "stderr")
    if process.end() not in (0, 1):
      wrong.append(f"{module}: status {process.status}")
  pathlib.Path(page).unlink(missing_ok=True)
  return {
    "fault": "dead readers of stdout and stderr",
    "at": "; ".join(commands),
    "count": len(commands),
    "status": 0,
    "result": "\n".join(wrong) or EXPECTED,
  }
