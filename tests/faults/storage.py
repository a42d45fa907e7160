"""Storage that fails: full and read-only disks, damaged files and data."""

import os
import pathlib
import resource
import shutil
import signal
from collections.abc import Callable, Iterator

from trial import EXPECTED, Row, Suite
from world import Life, draw, outcome, snapshot


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
    result = EXPECTED
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
