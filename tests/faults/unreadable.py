"""Checkpoints that cannot be read, calls that fail, configurations lost."""

import errno
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from alexnet_jax.training import checkpoint_files

from . import failing_files
from .sandbox import ROOT, Process
from .trial import EXPECTED, Case, Row, Suite, Trial

PLACES = {
  "metadata": "metadata/metadata",
  "index": "arrays/manifest.ocdbt",
  "data": "arrays/ocdbt.process_0/d/*",
}
# How the bytes of a file change; None removes it.
TORN: dict[str, Callable[[bytes], bytes | None]] = {
  "cut": lambda content: content[: len(content) // 2],
  "emptied": lambda content: b"",
  "altered": lambda content: bytes([content[0] ^ 16]) + content[1:],
  "removed": lambda content: None,
}
ERRORS = ("EIO", "ESTALE", "ENOMEM")
FOREVER = 1 << 30


def _stopped_run(suite: Suite) -> pathlib.Path:
  """A run with several checkpoints that was stopped, for copies of it."""
  start = pathlib.Path(f"{suite.whole}-unreadable")
  if not start.is_dir():
    # The input hangs before the last steps, so the run cannot end before the
    # signal. How many batches are complete by then depends on the threads.
    process = suite.sandbox.start(str(start), fault="block=208")
    process.until("^step 6/")
    process.until_silent(2)
    process.end(signal.SIGTERM)
  return start


def checkpoints(suite: Suite, long: bool) -> Iterator[Case]:
  """Eight sorts of error at three places, in the newest one or in all."""
  start = _stopped_run(suite)
  if not long:
    yield (
      "unreadable: EIO, data, newest",
      functools.partial(
        _unreadable, start=start, how="EIO", place="data", which="newest"
      ),
    )
    yield (
      "unreadable: cut, metadata, all",
      functools.partial(
        _unreadable, start=start, how="cut", place="metadata", which="all"
      ),
    )
    return
  for how in (*TORN, *ERRORS, "another format"):
    for place in PLACES:
      for which in ("newest", "all"):
        yield (
          f"unreadable: {how}, {place}, {which}",
          functools.partial(
            _unreadable, start=start, how=how, place=place, which=which
          ),
        )


def _content(workdir: pathlib.Path) -> dict[str, bytes]:
  """Every file that a refusal leaves as it is."""
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in sorted(workdir.rglob("*"))
    if path.is_file() and path.name not in ("lock", "status.json")
  }


def _unreadable(
  trial: Trial, start: pathlib.Path, how: str, place: str, which: str
) -> Row:
  workdir = pathlib.Path(trial.new_workdir())
  shutil.copytree(start, workdir)
  folder = workdir / "checkpoints"
  steps = checkpoint_files.steps(folder)[-1 if which == "newest" else 0 :]
  settings: dict[str, str] = {}
  for step in steps:
    _spoil(folder / str(step), how, place)
  if how in ERRORS:
    library = failing_files.build(trial.sandbox.folder)
    part = str(pathlib.Path(PLACES[place]).parent)
    where = folder / str(steps[-1]) / part if which == "newest" else folder
    settings = failing_files.environment(
      library, str(where), "read", getattr(errno, how), 1, FOREVER
    )
  before = _content(workdir)
  process = trial.sandbox.start(str(workdir), settings=settings)
  process.end()
  goes_on = how in TORN and which == "newest"
  wrong = ""
  if process.status != (0 if goes_on else 2) or "Traceback" in process.output():
    wrong = f"status {process.status}: {process.output()[-500:]}"
  elif not goes_on and _content(workdir) != before:
    wrong = "a run that was refused was changed"
  elif goes_on and not (folder / f"damaged-{steps[-1]}").is_dir():
    wrong = "the damaged checkpoint was not set aside"
  if not goes_on:  # what was lost comes back, and the run goes on
    shutil.rmtree(folder)
    shutil.copytree(start / "checkpoints", folder)
  row = trial.row(
    f"checkpoint: {how}", f"{place}, {which}", process, str(workdir)
  )
  return {**row, "result": wrong or row["result"]}


def _spoil(checkpoint: pathlib.Path, how: str, place: str) -> None:
  path, *others = sorted(checkpoint.glob(PLACES[place]))
  if how in TORN:
    content = TORN[how](path.read_bytes())
    path.unlink()
    if content is not None:
      path.write_bytes(content)
  elif how == "another format":
    # The list of files says that it was saved so.
    if place == "metadata":
      body = json.loads(path.read_text()) | {"format": 99}
      body.pop("crc32")
      body["crc32"] = checkpoint_files.crc32_of_json(body)
      path.write_text(json.dumps(body))
    else:
      for each in (path, *others):  # not every file of the data is read
        each.write_bytes(b"the format of tomorrow")
    checkpoint_files.record(checkpoint)


def network_files(suite: Suite, long: bool) -> Iterator[Case]:
  """Calls for files fail, as on a network file system."""
  most, every = (8, 1) if long else (1, 7)
  yield "every call", functools.partial(_every_call, most=most, every=every)
  if not long:
    return
  for call, error in failing_files.WRITING:
    name = f"{call} {errno.errorcode[error]} while writing"
    yield name, functools.partial(_while_writing, call=call, error=error)


def _every_call(trial: Trial, most: int, every: int) -> Row:
  """Checkpoints alone, in one process; see `checkpoint_calls`."""
  folder = trial.sandbox.folder / trial.name
  folder.mkdir(exist_ok=True)
  result = subprocess.run(
    [
      *(sys.executable, "-m", "tests.faults.checkpoint_calls"),
      *(str(folder), str(most), str(every)),
    ],
    env={
      **os.environ,
      **trial.sandbox.environment(),
      "LD_PRELOAD": failing_files.build(trial.sandbox.folder),
    },
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=3600,
  )
  lines = [x for x in result.stdout.splitlines() if x.startswith("{")]
  rows = [json.loads(line) for line in lines]
  wrong = [f"{r['fault']} {r['at']}: {r['wrong']}" for r in rows if r["wrong"]]
  if result.returncode:
    wrong.append(result.stderr[-1000:])
  shutil.rmtree(folder)
  return {
    "fault": "one call for a file of a checkpoint fails",
    "at": f"{len(rows)} pairs of call and error, writing and reading",
    "status": result.returncode,
    "result": "\n".join(wrong) or EXPECTED,
    "count": sum(row["tried"] for row in rows),
  }


def _while_writing(trial: Trial, call: str, error: int) -> Row:
  """A tenth call under the checkpoints fails, and forty after it."""
  workdir = trial.new_workdir()
  process = trial.sandbox.start(
    workdir,
    settings=failing_files.environment(
      failing_files.build(trial.sandbox.folder),
      f"{workdir}/checkpoints",
      call,
      error,
      trial.random.randrange(10, 60),
      40,
    ),
  )
  process.end()
  row = trial.row(
    f"{call}: {errno.errorcode[error]}", "training", process, workdir
  )
  if process.status not in (0, 2):
    row["result"] = f"status {process.status}: {process.output()[-500:]}"
  return row


def configurations(suite: Suite, long: bool) -> Iterator[Case]:
  """config.json is lost or edited, and the command is the same or not."""
  start = _stopped_run(suite)
  for how in ("gone", "emptied", "cut", "edited") if long else ("gone",):
    for flags in ((), ("--config.seed=5",)):
      name = f"config.json {how}, {'another' if flags else 'the same'} seed"
      yield (
        name,
        functools.partial(_config_lost, start=start, how=how, flags=flags),
      )


def _config_lost(
  trial: Trial, start: pathlib.Path, how: str, flags: tuple[str, ...]
) -> Row:
  """The copy in the checkpoints decides: it is restored, or seed is named."""
  workdir = pathlib.Path(trial.new_workdir())
  shutil.copytree(start, workdir)
  path = workdir / "config.json"
  text = path.read_text()
  edited = json.dumps(json.loads(text) | {"seed": 5})
  content = {"emptied": "", "cut": text[:200], "edited": edited}.get(how)
  path.unlink()
  if content is not None:
    path.write_text(content)
  before = _content(workdir)
  process: Process = trial.sandbox.start(str(workdir), *flags)
  process.end()
  wrong = ""
  if process.status != (2 if flags else 0):
    wrong = f"status {process.status}: {process.output()[-500:]}"
  elif flags and (
    "seed (was 0, now 5)" not in process.output() or _content(workdir) != before
  ):
    wrong = f"changed, or the key is not named: {process.output()[-500:]}"
  elif not flags and json.loads(path.read_text()) != json.loads(text):
    wrong = "config.json was not restored"
  seed = "another seed" if flags else "the same command"
  row = trial.row(f"config.json {how}", seed, process, str(workdir))
  return {**row, "result": wrong or row["result"]}
