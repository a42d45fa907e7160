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

from .sandbox import Process, noisy_jpegs, outcome, snapshot
from .trial import EXPECTED, Case, Row, Suite, Trial


def full_disk(suite: Suite, long: bool) -> Iterator[Case]:
  """Every write fails from some step on, for a while or to the end."""
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
  # First only checkpoints do not fit, then TensorBoard's events neither.
  for what, size in (("checkpoints", 40_000), ("checkpoints, events", 6_000)):
    for back in (True, False):
      name = f"no room for {what}" + " for a while" * back
      yield name, functools.partial(_full, what=what, size=size, returns=back)
  yield "disk full from the start", _full_from_the_start
  yield "disk full at the report", _full_at_the_report
  yield "small file system", _small_file_system
  yield "read-only", _read_only


def limit_files(process: Process, size: int) -> None:
  """Writes of the process beyond `size` bytes of a file fail from now on."""
  limits = (size, resource.RLIM_INFINITY)
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)


def _full(trial: Trial, what: str, size: int, returns: bool) -> Row:
  workdir = trial.new_workdir()
  process = trial.sandbox.start(workdir, fault="slow=0.005")
  process.until("^step 5/")
  limit_files(process, size)
  process.until("^step 18/")
  if returns:
    limit_files(process, resource.RLIM_INFINITY)
  process.end()
  reported = "could not be written" in process.output()
  torn = _torn_events(workdir) if returns else ""
  when = "steps 5 to 18" if returns else "step 5 to the end"
  row = trial.row("disk full", f"{what}, {when}", process, workdir)
  if not reported or torn or process.status != (0 if returns else 2):
    row["result"] = (
      f"status {process.status}, {torn}: {process.output()[-400:]}"
    )
  return row


def _torn_events(workdir: str) -> str:
  """A description of the first bad checksum in TensorBoard's files, or ""."""
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
  """The checksum of TFRecord: rotated, with a constant added."""
  crc = crc32c(content)
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  return struct.pack("<I", masked)


def _full_from_the_start(trial: Trial) -> Row:
  workdir = trial.new_workdir()
  process = trial.sandbox.start(workdir)
  limit_files(process, 0)
  process.end()
  row = trial.row("disk full", "from the start", process, workdir)
  if process.status != 2:
    row["result"] = f"status {process.status}: {process.output()[-400:]}"
  return row


def _full_at_the_report(trial: Trial) -> Row:
  """A report on a full disk, over an existing one."""
  whole = trial.whole
  page = trial.sandbox.folder / "report.html"
  page.write_text("the old report")
  before = snapshot(whole)
  arguments = (f"--workdir={whole}", f"--output={page}")
  process = trial.sandbox.start("", *arguments, module="report")
  limit_files(process, 0)
  process.end()
  fine = process.status == 2 and "cannot write" in process.output()
  kept = page.read_text() == "the old report" and snapshot(whole) == before
  page.unlink()
  return {
    "fault": "disk full",
    "at": "the report",
    "status": process.status,
    "result": EXPECTED if fine and kept else process.output()[-400:],
  }


@contextlib.contextmanager
def _mounted(trial: Trial) -> Iterator[pathlib.Path]:
  """A file system of 3 MiB; to mount one needs root."""
  mount = trial.sandbox.folder / trial.name
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
    process = trial.sandbox.start(workdir, fault="slow=0.005")
    process.until("^step 5/")
    filler = mount / "filler"
    with (
      contextlib.suppress(OSError),
      open(filler, "wb", buffering=0) as file,
    ):
      while file.write(bytes(65536)):
        pass
    process.until("^step 18/")
    filler.unlink()
    process.end()
    reported = "could not be written" in process.output()
    torn = _torn_events(workdir)
    row = trial.row("disk full", "tmpfs, steps 5 to 18", process, workdir)
    if not reported or torn or process.status:
      row["result"] = (
        f"status {process.status}, {torn}: {process.output()[-400:]}"
      )
    return row


def _read_only(trial: Trial) -> Row:
  with _mounted(trial) as mount:
    workdir = str(mount / "run")
    process = trial.sandbox.start(workdir)
    process.until("^step 6/")
    process.end(signal.SIGTERM)
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    before = snapshot(mount)
    process = trial.sandbox.start(workdir)
    process.end()
    fine = process.status == 2 and "cannot be written" in process.output()
    untouched = snapshot(mount) == before
    subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=True)
    row = trial.row(
      "read-only workdir", "a run that is resumed", process, workdir
    )
    if not fine or not untouched:
      row["result"] = f"status {process.status}: {process.output()[-400:]}"
    return row


def damaged_checkpoints(suite: Suite, long: bool) -> Iterator[Case]:
  """A byte flipped, or half lost, in each file of the newest checkpoint."""
  if not long:
    return  # tests/training/checkpoint_test.py does it without new processes
  start = pathlib.Path(f"{suite.whole}-damaged")
  if not start.is_dir():
    process = suite.sandbox.start(str(start), fault="slow=0.005")
    process.until("^step 17/")
    process.end(signal.SIGTERM)
  steps = (int(path.name) for path in (start / "checkpoints").iterdir())
  newest = start / "checkpoints" / str(max(steps))
  # Named by number, because the names of data files are digests.
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
  process = trial.sandbox.finish(workdir)
  file = pathlib.Path(*path.relative_to(start).parts[2:])
  where = f"{file.parent}/..." if len(file.name) > 30 else str(file)
  row = trial.row(f"checkpoint: {how}", where, process, workdir)
  return {**row, "noticed": "renamed to" in process.output()}


def data_faults(suite: Suite, long: bool) -> Iterator[Case]:
  """The data change before a run is resumed, or are bad from the start."""
  if not long:
    return
  good = pathlib.Path(suite.sandbox.data_dir, "faulty", "1.0.0")
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
  copy = trial.sandbox.folder / trial.name
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(trial.sandbox.data_dir, copy)
  flag = f"--config.data_dir={copy}"
  workdir = trial.new_workdir()
  process = trial.sandbox.start(workdir, flag, fault="slow=0.01")
  process.until("^step 5/")
  process.end(signal.SIGTERM)
  file = copy / "faulty" / "1.0.0" / name
  content = spoil(file.read_bytes())
  file.unlink()
  if content is not None:
    file.write_bytes(content)
  process = trial.sandbox.start(workdir, flag)
  process.end()
  # `data_dir` may change, so the run is resumed with the good data.
  row = trial.row("data", what, process, workdir)
  if process.status != 2 or words not in process.output():
    row["result"] = f"status {process.status}: {process.output()[-600:]}"
  shutil.rmtree(copy)
  return row


def _spoil_images(trial: Trial) -> str:
  """A dataset with an undecodable image in each split; returns its flag."""
  train, validation = noisy_jpegs(96, 0), noisy_jpegs(32, 1)
  train[7] = train[7][:200]
  validation[3] = b"no image"
  data = trial.sandbox.write_data(f"data-{trial.name}", train, validation)
  return f"--config.data_dir={data}"


def _undecodable(trial: Trial, allowed: int) -> Row:
  workdir = trial.new_workdir()
  skip = f"--config.max_undecodable={allowed}"
  process = trial.sandbox.start(workdir, _spoil_images(trial), skip)
  process.end()
  result = EXPECTED
  if process.status != (0 if allowed else 2) or "Traceback" in process.output():
    result = f"status {process.status}: {process.output()[-600:]}"
  elif not allowed and "cannot be decoded" not in process.output():
    result = "the image is not named"
  elif allowed:
    lines = outcome(workdir)[1]
    counted = sum(line.get("undecodable", 0) for line in lines)
    counts = {x["num_examples"] for x in lines if x["split"] == "validation"}
    if (counted, counts) != (4, {31}):  # four epochs
      result = f"counted {counted}, {counts}"
  return {
    "fault": "data",
    "at": f"an undecodable image in each split, {allowed} allowed",
    "status": process.status,
    "result": result,
  }
