"""Mutations: configurations and images that somebody spoiled at random."""

import collections
import functools
import random
import re
import shutil
from collections.abc import Iterator

from alexnet_jax.data.images import UndecodableImage, decode

from .trial import EXPECTED, Case, Row, Suite, Trial
from .world import ROOT, draw, outcome, snapshot

# By type. Nothing that would merely need more memory than there is.
VALUES = {
  "int": ("-1", "0", "1", "3", "7", "1.5", "x", "", "1e3"),
  "float": ("-1", "0", "nan", "inf", "-inf", "1e30", "1e-30", "x", ""),
  "bool": ("true", "0", "maybe"),
  "str": ("", "nothing", "../..", "train[:0]", "train[50:", "a:b/c", "\\"),
  "tuple": ("()", "(1,)", "('relu',)", "(-1, 0.5)", "(((", "x"),
}
# Where a larger value only takes longer, or a path leaves this world.
LEFT_ALONE = ("total_epochs", "total_steps", "data_dir", "stall_minutes")


def configurations(suite: Suite, long: bool) -> Iterator[Case]:
  """Random values for random keys, and random edits of the file itself."""
  for kind in ("flags", "text"):
    for part in range(10 if long else 1):
      name = f"mutated configurations, {kind} {part}"
      yield name, functools.partial(_configurations, kind=kind)


def _configurations(trial: Trial, kind: str, count: int = 10) -> Row:
  world = trial.world
  keys, good = _keys(), world.config.read_text()
  watched = [ROOT / name for name in ("alexnet_jax", "configs", "tests")]
  # Not all of data: a set that the package draws belongs there.
  own = [world.folder / name for name in ("data/faulty", "home", "temporary")]
  before = snapshot(*watched, *own)

  def attempt(number: int, what: str) -> tuple[int, str]:
    """Trains two steps; the exit status, and what is wrong if anything."""
    workdir = world.workdir(f"{trial.name}-{number}")
    config, flags = world.folder / f"{trial.name}-{number}.py", []
    config.write_text(what if kind == "text" else good)
    if kind == "flags":
      flags = [what]
    life = world.start(workdir, *flags, "--config.total_steps=2", config=config)
    life.end()
    said = life.said()
    shutil.rmtree(workdir, ignore_errors=True)
    fine = life.status == 0 or (life.status == 2 and said.count("error: ") == 1)
    if fine and "Traceback" not in said:
      return life.status, ""
    return life.status, f"{_shown(what, good)}: {life.status}, {said[-500:]}"

  mutate = {
    "flags": lambda: _flag(keys, trial.random),
    "text": lambda: _edit(good, trial.random),
  }[kind]
  outcomes = [attempt(number, mutate()) for number in range(count)]
  statuses = collections.Counter(status for status, _ in outcomes)
  wrong = [text for _, text in outcomes if text]
  if snapshot(*watched, *own) != before:
    wrong.append("files outside of the workdir were touched")
  return {
    "fault": f"{count} mutated configurations",
    "at": kind,
    "status": " ".join(f"{n}x{s}" for s, n in sorted(statuses.items())),
    "result": "\n".join(wrong) or EXPECTED,
  }


def _shown(what: str, good: str) -> str:
  """A flag, or the lines in which a text differs."""
  lines = good.splitlines()
  return " / ".join(x for x in what.splitlines() if x not in lines)


def images(suite: Suite, long: bool) -> Iterator[Case]:
  """Flipped, cut, doubled and overwritten JPEGs as training images."""
  count = 200 if long else 40
  for allowed in (count, 0) if long else (count,):
    name = f"mutated images, {allowed} allowed"
    yield name, functools.partial(_images, count=count, allowed=allowed)


def _images(trial: Trial, count: int, allowed: int) -> Row:
  world = trial.world
  source = random.Random(0)
  train = [_spoil(image, source) for image in draw(count, 7)]
  bad = sum(not _decodable(image) for image in train)
  data = world.write_data(f"data-{trial.name}", train, draw(32, 8))
  flags = [f"--config.data_dir={data}", "--config.batch_size=8"]
  flags += [f"--config.total_steps={count // 8}", "--config.log_every_steps=1"]
  before = snapshot(world.data_dir, data, world.folder / "home")
  workdir = trial.new_workdir()
  life = world.start(workdir, *flags, f"--config.max_undecodable={allowed}")
  life.end()
  result = EXPECTED
  if life.status != (0 if allowed else 2) or "Traceback" in life.said():
    result = f"status {life.status}: {life.said()[-500:]}"
  elif allowed:
    lines = outcome(workdir)[1]
    counted = sum(line.get("undecodable", 0) for line in lines)
    if counted != bad:
      result = f"{counted} were counted, {bad} are undecodable"
  if snapshot(world.data_dir, data, world.folder / "home") != before:
    result = "files touched"
  return {
    "fault": f"{count} mutated images, {bad} of them undecodable",
    "at": f"{allowed} allowed",
    "status": life.status,
    "result": result,
  }


def _keys() -> list[tuple[str, str]]:
  """Every key of the quickstart and the kind of its value."""
  from alexnet_jax.runtime import config

  loaded = config.load(str(ROOT / "configs" / "quickstart.py"))
  flat = dict(config.flatten(loaded.to_dict()))
  return [
    (key, type(value).__name__)
    for key, value in flat.items()
    if key not in LEFT_ALONE
  ]


def _flag(keys: list[tuple[str, str]], source: random.Random) -> str:
  key, kind = source.choice(keys)
  if source.random() < 0.1:
    key = key[:-1] or "x"
  return f"--config.{key}={source.choice(VALUES[kind])}"


def _edit(text: str, source: random.Random) -> str:
  """One edit in the part that makes the configuration."""
  start = text.index("def get_config")
  end = text.index("def arrange")
  at = source.randrange(start, end)
  length = source.randrange(1, 12)
  what = source.choice(("cut", "double", "replace"))
  piece = text[at : at + length]
  if what == "cut":
    piece = ""
  elif what == "double":
    piece *= 2
  else:
    piece = "".join(source.choice("(){}[]:=.,'\"# 0x-\n") for _ in piece)
  edited = text[:at] + piece + text[at + length :]
  # Not a larger network than the tiny one: only time would be lost.
  return re.sub(r"(width|size|steps) = [0-9 ./*]{4,}", r"\1 = 1", edited)


def _spoil(image: bytes, source: random.Random) -> bytes:
  content = bytearray(image)
  at = source.randrange(len(content))
  what = source.choice(("flip", "cut", "double", "overwrite", "header", "none"))
  if what == "flip":
    content[at] ^= 1 << source.randrange(8)
  elif what == "cut":
    del content[at:]
  elif what == "double":
    content[at:at] = content[: source.randrange(1, 500)]
  elif what == "overwrite":
    content[at : at + 50] = source.randbytes(50)
  elif what == "header":
    content[source.randrange(200)] = source.randrange(256)
  return bytes(content)


def _decodable(image: bytes) -> bool:
  try:
    decode(image)
  except UndecodableImage:
    return False
  return True
