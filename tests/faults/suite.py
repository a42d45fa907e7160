"""Faults, one after another, against the real training command.

  PYTHONPATH=. python tests/faults/suite.py [--long] [--only=NAME] [--json=FILE]

Without `--long` a few of each kind, in minutes: what CI runs. A row says what
was done, when, with which exit status, and whether the run that went on
afterwards ended bit for bit like one that nothing happened to.
"""

import argparse
import json
import os
import pathlib
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import tensorflow_datasets as tfds
from absl import logging
from rich.console import Console
from rich.table import Table
from world import Life, World, difference, draw, outcome, snapshot

from alexnet_jax import provenance

Row = dict[str, object]
EQUAL = "equal"


class Suite:
  """A world, and the outcome of a run in it that nothing happens to."""

  def __init__(self, folder: str, seed: int = 0):
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    self.world = World(folder)
    self.random = random.Random(seed)
    self.count = 0
    whole = self.world.workdir("whole")
    self.world.finish(whole)
    self.expected = outcome(whole)

  def new_workdir(self) -> str:
    self.count += 1
    return self.world.workdir(f"fault{self.count}")

  def row(self, fault: str, moment: str, life: Life, workdir: str) -> Row:
    """Goes on with the run after a fault, and compares."""
    first = life.said()
    self.world.finish(workdir)
    result = difference(workdir, self.expected) or EQUAL
    if "Traceback" in first:
      result = f"a traceback was shown; then {result}"
    shutil.rmtree(workdir)
    status = life.status
    return {"fault": fault, "at": moment, "status": status, "result": result}


# Each waits for a phase of a run and says for how long it may last, seconds.
def _starting(suite: Suite, workdir: str) -> tuple[Life, float]:
  return suite.world.start(workdir, forked=False), 2.5


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
      time.sleep(2.0 if name == "starting" else suite.random.uniform(0, span))
      began = time.monotonic()
      status = life.end(number)
      seconds = time.monotonic() - began
      polite = status == 0 and "run the same command again" in life.said()
      row = suite.row(number.name, name, life, workdir)
      if not polite:
        row["result"] = f"status {status}, said: {life.said()[-300:]}"
      yield {**row, "seconds": round(seconds, 1)}


def full_disk(suite: Suite, long: bool) -> Iterator[Row]:
  """Every write fails from some step on, until it does not, or to the end."""
  del long
  unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

  def limit(life: Life, size: int) -> None:
    resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))

  for what, size in (("every file", 0), ("checkpoints", 20_000)):
    for returns in (True, False):
      workdir = suite.new_workdir()
      life = suite.world.start(workdir, fault="slow=0.005")
      life.until("step 5/")
      limit(life, size)
      life.until("step 18/")
      if returns:
        limit(life, unlimited[0])
      status = life.end()
      told = "could not be written" in life.said()
      when = "steps 5 to 18" if returns else "step 5 to the end"
      row = suite.row("disk full", f"{what}, {when}", life, workdir)
      if not told or status != (0 if returns else 2):
        row["result"] = f"status {status}: {life.said()[-400:]}"
      yield row
  workdir = suite.new_workdir()
  life = suite.world.start(workdir)
  limit(life, 0)
  status = life.end()
  row = suite.row("disk full", "from the start", life, workdir)
  if status != 2:
    row["result"] = f"status {status}: {life.said()[-400:]}"
  yield row
  yield from _small_file_system(suite)


def _small_file_system(suite: Suite) -> Iterator[Row]:
  """A real one, full and read-only, where this user may mount one."""
  mount = suite.world.folder / "small"
  mount.mkdir()
  if os.system(f"mount -t tmpfs -o size=3m tmpfs {mount} 2>/dev/null"):
    return
  try:
    workdir = str(mount / "run")
    life = suite.world.start(workdir, fault="slow=0.005")
    life.until("step 5/")
    filler = mount / "filler"
    try:
      with open(filler, "wb", buffering=0) as file:
        while file.write(bytes(65536)):
          pass
    except OSError:
      pass
    life.until("step 18/")
    filler.unlink()
    status = life.end()
    told = "could not be written" in life.said()
    row = suite.row("disk full", "tmpfs, steps 5 to 18", life, workdir)
    if not told or status:
      row["result"] = f"status {status}: {life.said()[-400:]}"
    yield row
    os.system(f"mount -o remount,ro {mount}")
    before = snapshot(mount)
    life = suite.world.start(workdir)
    status = life.end()
    fine = status == 2 and "cannot be written" in life.said()
    os.system(f"mount -o remount,rw {mount}")
    row = suite.row("read-only workdir", "from the start", life, workdir)
    if not fine or snapshot(mount) != before:
      row["result"] = row["result"] if fine else life.said()[-400:]
    yield row
  finally:
    os.system(f"umount {mount}")


def damaged_checkpoints(suite: Suite, long: bool) -> Iterator[Row]:
  """A byte flipped, or half lost, in each file of the newest checkpoint."""
  start = suite.world.workdir("damaged")
  life = suite.world.start(start)
  life.until("step 17/")
  life.end(signal.SIGTERM)
  steps = (int(p.name) for p in pathlib.Path(start, "checkpoints").iterdir())
  newest = pathlib.Path(start, "checkpoints", str(max(steps)))
  files = sorted(p for p in newest.rglob("*") if p.is_file())
  cases = [(path, how) for path in files for how in ("flip", "cut")]
  if not long:
    cases = suite.random.sample(cases, 3)
  for path, how in cases:
    workdir = suite.new_workdir()
    shutil.copytree(start, workdir)
    target = pathlib.Path(workdir, path.relative_to(start))
    content = bytearray(target.read_bytes())
    if how == "flip" and content:
      content[suite.random.randrange(len(content))] ^= 1 << 4
    else:
      content = content[: len(content) // 2]
    target.write_bytes(content)
    life = suite.world.finish(workdir)
    where = str(path.relative_to(newest))
    row = suite.row(f"checkpoint: {how}", where, life, workdir)
    noticed = "set aside" in life.said()
    yield {**row, "noticed": noticed}


def data_faults(suite: Suite, long: bool) -> Iterator[Row]:
  """The data go wrong under way, or between two lives of a run."""
  del long
  world = suite.world
  good = pathlib.Path(world.data_dir, "faulty", "1.0.0")
  shard = next(good.glob("*train*record*"))
  content = shard.read_bytes()

  def stop_after(step: int) -> str:
    workdir = suite.new_workdir()
    life = world.start(workdir, fault="slow=0.01")
    life.until(f"step {step}/")
    life.end(signal.SIGTERM)
    return workdir

  def broken(what: str, spoil: Callable[[], None]) -> Row:
    workdir = stop_after(5)
    try:
      spoil()
      life = world.start(workdir)
      status = life.end()
    finally:
      shard.write_bytes(content)
    row = suite.row("data", what, life, workdir)
    if status != 2 or "error: " not in life.said():
      row["result"] = f"status {status}: {life.said()[-600:]}"
    return row

  yield broken("shard missing", shard.unlink)
  half = content[: len(content) // 2]
  yield broken("shard cut in half", lambda: shard.write_bytes(half))
  noise = bytes(suite.random.randrange(256) for _ in range(4096))
  middle = len(content) // 2
  spoiled = content[:middle] + noise + content[middle + 4096 :]
  yield broken("shard overwritten", lambda: shard.write_bytes(spoiled))

  other = world.write_data("other", draw(96, 5), draw(32, 6))
  info = good / "dataset_info.json"
  text = info.read_text()
  workdir = stop_after(5)
  shutil.copy(f"{other}/faulty/1.0.0/dataset_info.json", info)
  changed = info.read_text() != text
  life = world.start(workdir)
  status = life.end()
  info.write_text(text)
  row = suite.row("data", "another data set of the same name", life, workdir)
  if not changed or status != 2 or "not those" not in life.said():
    row["result"] = f"status {status}: {life.said()[-400:]}"
  yield row
  yield from _undecodable(suite)


def _undecodable(suite: Suite) -> Iterator[Row]:
  """Two images of a new data set are no images."""
  world = suite.world
  train, validation = draw(96, 0), draw(32, 1)
  train[7] = train[7][:200]
  validation[3] = b"no image"
  data = world.write_data("undecodable", train, validation)
  flag = f"--config.data_dir={data}"
  for allowed, expected in ((0, 2), (1, 0)):
    workdir = suite.new_workdir()
    skip = f"--config.max_undecodable={allowed}"
    life = world.start(workdir, flag, skip)
    status = life.end()
    result = "as expected"
    if status != expected or "Traceback" in life.said():
      result = f"status {status}: {life.said()[-600:]}"
    elif expected == 2 and "cannot be decoded" not in life.said():
      result = "not named"
    elif expected == 0:
      lines = outcome(workdir)[1]
      counted = sum(line.get("undecodable", 0) for line in lines)
      counts = {x["num_examples"] for x in lines if x["split"] == "validation"}
      if (counted, counts) != (4, {31}):  # four epochs
        result = f"counted {counted}, {counts}"
    yield {
      "fault": "data",
      "at": f"an undecodable image in each split, {allowed} allowed",
      "status": status,
      "result": result,
    }


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
    "result": "as expected" if fine else said[-600:],
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


FAULTS = {
  "kills": kills,
  "signals": signals,
  "full_disk": full_disk,
  "damaged_checkpoints": damaged_checkpoints,
  "data": data_faults,
  "two_runs": two_runs,
  "numbers": numbers,
}


def run(folder: str, names: list[str], long: bool) -> Iterator[Row]:
  suite = Suite(folder)
  for name in names:
    yield from FAULTS[name](suite, long)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--long", action="store_true", help="all of each kind")
  parser.add_argument("--only", help=f"one of {', '.join(FAULTS)}")
  parser.add_argument("--json", help="file for the results")
  options = parser.parse_args()
  names = [options.only] if options.only else list(FAULTS)
  rows = []
  began = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    for row in run(folder, names, options.long):
      rows.append(row)
      print(row, flush=True)
  table = Table("fault", "at", "status", "result")
  for row in rows:
    table.add_row(*(str(row[k]) for k in ("fault", "at", "status", "result")))
  Console().print(table)
  bad = [row for row in rows if row["result"] not in (EQUAL, "as expected")]
  print(f"{len(rows)} faults, {len(bad)} with another result than wanted")
  if options.json:
    report = {
      "what": "faults against the training command, and what came of them",
      "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
      "versions": provenance.versions(),
      "seed": 0,
      "command": " ".join(["PYTHONPATH=. python", *sys.argv]),
      "commit": provenance.git_commit(),
      "result": {
        "faults": rows,
        "not_as_wanted": len(bad),
        "minutes": round((time.monotonic() - began) / 60, 1),
      },
    }
    text = json.dumps(report, indent=1) + "\n"
    pathlib.Path(options.json).write_text(text)
  return 1 if bad else 0


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  sys.exit(main())
