"""Storage that fails: full and read-only disks, damaged files and data."""

import contextlib
import functools
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator

from tensorboardX.crc32c import crc32c

from .trial import EXPECTED, Case, Row, Suite, Trial
from .world import Life, draw, outcome, snapshot


def full_disk(suite: Suite, long: bool) -> Iterator[Case]:
  """Every write fails from some step on, until it does not, or to the end."""
  yield (
    "disk full for a while",
    functools.partial(_full, what="every file", size=0, returns=True),
  )
  if not long:
    return
  yield (
    "disk full",
    functools.partial(_full, what="every file", size=0, returns=False),
  )
  # Metrics fit, and checkpoints do not; then TensorBoard's events neither.
  for what, size in (("checkpoints", 40_000), ("checkpoints, events", 6_000)):
    for back in (True, False):
      name = f"no room for {what}" + " for a while" * back
      yield name, functools.partial(_full, what=what, size=size, returns=back)
  yield "disk full from the start", _full_from_the_start
  yield "disk full at the report", _full_at_the_report
  yield "small file system", _small_file_system
  yield "read-only", _read_only


def _limit(life: Life, size: int) -> None:
  """No file of the process may grow beyond `size` bytes; its writes fail."""
  limits = (size, resource.RLIM_INFINITY)
  resource.prlimit(life.pid, resource.RLIMIT_FSIZE, limits)


def _full(trial: Trial, what: str, size: int, returns: bool) -> Row:
  workdir = trial.new_workdir()
  life = trial.world.start(workdir, fault="slow=0.005")
  life.until("^step 5/")
  _limit(life, size)
  life.until("^step 18/")
  if returns:
    _limit(life, resource.RLIM_INFINITY)
  life.end()
  told = "could not be written" in life.said()
  torn = _torn_events(workdir) if returns else ""
  when = "steps 5 to 18" if returns else "step 5 to the end"
  row = trial.row("disk full", f"{what}, {when}", life, workdir)
  if not told or torn or life.status != (0 if returns else 2):
    row["result"] = f"status {life.status}, {torn}: {life.said()[-400:]}"
  return row


def _torn_events(workdir: str) -> str:
  """What is wrong with TensorBoard's files, whose records have checksums."""
  for path in pathlib.Path(workdir).glob("events.*"):
    content, at = path.read_bytes(), 0
    while at < len(content):
      (length,) = struct.unpack_from("<Q", content, at)
      record = content[at + 12 : at + 12 + length]
      sums = content[at + 8 : at + 12], content[at + 12 + length :][:4]
      good = [_masked_crc(x) for x in (content[at : at + 8], record)]
      if list(sums) != good:
        return f"{path.name} is torn after {at} of {len(content)} bytes"
      at += 16 + length
  return ""


def _masked_crc(content: bytes) -> bytes:
  """As TFRecord has it: rotated, and a constant added."""
  crc = crc32c(content)
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  return struct.pack("<I", masked)


def _full_from_the_start(trial: Trial) -> Row:
  workdir = trial.new_workdir()
  life = trial.world.start(workdir)
  _limit(life, 0)
  life.end()
  row = trial.row("disk full", "from the start", life, workdir)
  if life.status != 2:
    row["result"] = f"status {life.status}: {life.said()[-400:]}"
  return row


def _full_at_the_report(trial: Trial) -> Row:
  """A report that finds no room, over one that is there."""
  whole = trial.whole
  page = trial.world.folder / "report.html"
  page.write_text("the one before")
  before = snapshot(whole)
  arguments = (f"--workdir={whole}", f"--output={page}")
  life = trial.world.start("", *arguments, module="report")
  _limit(life, 0)
  life.end()
  fine = life.status == 2 and "cannot be written" in life.said()
  kept = page.read_text() == "the one before" and snapshot(whole) == before
  page.unlink()
  return {
    "fault": "disk full",
    "at": "the report",
    "status": life.status,
    "result": EXPECTED if fine and kept else life.said()[-400:],
  }


@contextlib.contextmanager
def _mounted(trial: Trial) -> Iterator[pathlib.Path]:
  """A file system of 3 MiB; only the system's administrator may mount one."""
  mount = trial.world.folder / trial.name
  mount.mkdir(exist_ok=True)
  command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(mount)]
  subprocess.run(command, check=True)
  try:
    yield mount
  finally:
    subprocess.run(["umount", str(mount)], check=True)


def _small_file_system(trial: Trial) -> Row:
  with _mounted(trial) as mount:
    workdir = str(mount / "run")
    life = trial.world.start(workdir, fault="slow=0.005")
    life.until("^step 5/")
    filler = mount / "filler"
    with (
      contextlib.suppress(OSError),
      open(filler, "wb", buffering=0) as file,
    ):
      while file.write(bytes(65536)):
        pass
    life.until("^step 18/")
    filler.unlink()
    life.end()
    told = "could not be written" in life.said()
    torn = _torn_events(workdir)
    row = trial.row("disk full", "tmpfs, steps 5 to 18", life, workdir)
    if not told or torn or life.status:
      row["result"] = f"status {life.status}, {torn}: {life.said()[-400:]}"
    return row


def _read_only(trial: Trial) -> Row:
  with _mounted(trial) as mount:
    workdir = str(mount / "run")
    life = trial.world.start(workdir)
    life.until("^step 6/")
    life.end(signal.SIGTERM)
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    before = snapshot(mount)
    life = trial.world.start(workdir)
    life.end()
    fine = life.status == 2 and "cannot be written" in life.said()
    untouched = snapshot(mount) == before
    subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=True)
    row = trial.row("read-only workdir", "a run that goes on", life, workdir)
    if not fine or not untouched:
      row["result"] = f"status {life.status}: {life.said()[-400:]}"
    return row


def damaged_checkpoints(suite: Suite, long: bool) -> Iterator[Case]:
  """A byte flipped, or half lost, in each file of the newest checkpoint."""
  if not long:
    return  # tests/checkpoint_test.py does so without a process for each
  start = pathlib.Path(f"{suite.whole}-damaged")
  if not start.is_dir():
    life = suite.world.start(str(start), fault="slow=0.005")
    life.until("^step 17/")
    life.end(signal.SIGTERM)
  steps = (int(path.name) for path in (start / "checkpoints").iterdir())
  newest = start / "checkpoints" / str(max(steps))
  # By number: data files are called by digests, which may change.
  for number, path in enumerate(sorted(newest.rglob("*"))):
    for how in ("flip", "cut"):
      if path.is_file():
        name = f"checkpoint file {number} {how}"
        yield name, functools.partial(_damaged, path=path, how=how)


def _damaged(trial: Trial, path: pathlib.Path, how: str) -> Row:
  workdir = trial.new_workdir()
  start = f"{trial.whole}-damaged"
  shutil.copytree(start, workdir)
  target = pathlib.Path(workdir, path.relative_to(start))
  content = bytearray(target.read_bytes())
  if how == "flip" and content:
    content[trial.random.randrange(len(content))] ^= 1 << 4
  else:
    content = content[: len(content) // 2]
  target.write_bytes(content)
  life = trial.world.finish(workdir)
  file = pathlib.Path(*path.relative_to(start).parts[2:])
  where = f"{file.parent}/..." if len(file.name) > 30 else str(file)
  row = trial.row(f"checkpoint: {how}", where, life, workdir)
  return {**row, "noticed": "set aside" in life.said()}


def data_faults(suite: Suite, long: bool) -> Iterator[Case]:
  """The data go wrong between two lives of a run, or from the start."""
  if not long:
    return
  good = pathlib.Path(suite.world.data_dir, "faulty", "1.0.0")
  shard = next(good.glob("*train*record*")).name
  noise = random.Random(0).randbytes(4096)
  spoiling = {
    "shard missing": (shard, lambda content: None, "is missing"),
    "shard cut in half": (shard, lambda x: x[: len(x) // 2], "error: "),
    "shard overwritten": (
      shard,
      lambda x: x[: len(x) // 2] + noise + x[len(x) // 2 + 4096 :],
      "cannot be decoded",
    ),
    "another data set of the same name": (
      "dataset_info.json",
      lambda content: content.replace(b'"numBytes": "', b'"numBytes": "1', 1),
      "are not those",
    ),
  }
  for what, how in spoiling.items():
    yield what, functools.partial(_spoiled, what=what, how=how)
  for allowed in (0, 1):
    name = f"undecodable images, {allowed} allowed"
    yield name, functools.partial(_undecodable, allowed=allowed)


def _spoiled(trial: Trial, what: str, how: tuple) -> Row:
  name, spoil, words = how
  copy = trial.world.folder / trial.name
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(trial.world.data_dir, copy)
  flag = f"--config.data_dir={copy}"
  workdir = trial.new_workdir()
  life = trial.world.start(workdir, flag, fault="slow=0.01")
  life.until("^step 5/")
  life.end(signal.SIGTERM)
  file = copy / "faulty" / "1.0.0" / name
  content = spoil(file.read_bytes())
  file.unlink()
  if content is not None:
    file.write_bytes(content)
  life = trial.world.start(workdir, flag)
  life.end()
  # Where the data are is no part of a run: it goes on with the good ones.
  row = trial.row("data", what, life, workdir)
  if life.status != 2 or words not in life.said():
    row["result"] = f"status {life.status}: {life.said()[-600:]}"
  shutil.rmtree(copy)
  return row


def _spoil_images(trial: Trial) -> str:
  """A data set of which an image in each split is none."""
  train, validation = draw(96, 0), draw(32, 1)
  train[7] = train[7][:200]
  validation[3] = b"no image"
  data = trial.world.write_data(f"data-{trial.name}", train, validation)
  return f"--config.data_dir={data}"


def _undecodable(trial: Trial, allowed: int) -> Row:
  workdir = trial.new_workdir()
  skip = f"--config.max_undecodable={allowed}"
  life = trial.world.start(workdir, _spoil_images(trial), skip)
  life.end()
  result = EXPECTED
  if life.status != (0 if allowed else 2) or "Traceback" in life.said():
    result = f"status {life.status}: {life.said()[-600:]}"
  elif not allowed and "cannot be decoded" not in life.said():
    result = "not named"
  elif allowed:
    lines = outcome(workdir)[1]
    counted = sum(line.get("undecodable", 0) for line in lines)
    counts = {x["num_examples"] for x in lines if x["split"] == "validation"}
    if (counted, counts) != (4, {31}):  # four epochs
      result = f"counted {counted}, {counts}"
  return {
    "fault": "data",
    "at": f"an undecodable image in each split, {allowed} allowed",
    "status": life.status,
    "result": result,
  }
