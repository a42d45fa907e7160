"""Mutations: configurations and images that somebody spoiled at random."""

import random
import re
from collections.abc import Iterator

from trial import EXPECTED, Row, Suite
from world import ROOT, draw, outcome, snapshot

from alexnet_jax.images import UndecodableImage, decode

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


def configurations(suite: Suite, long: bool) -> Iterator[Row]:
  """Random values for random keys, and random edits of the file itself."""
  world = suite.world
  keys = _keys()
  good = world.config.read_text()
  count = 100 if long else 6
  watched = (ROOT / "alexnet_jax", ROOT / "configs", world.folder / "data")
  before = snapshot(*watched, world.folder / "home")
  for kind in ("flags", "text"):
    statuses: dict[int, int] = {}
    wrong = []
    for _ in range(count):
      flags, text = [], good
      if kind == "flags":
        flags = [_flag(keys, suite.random)]
      else:
        text = _edit(good, suite.random)
        world.config.write_text(text)
      workdir = suite.new_workdir()
      life = world.start(workdir, *flags, "--config.total_steps=2")
      status = life.end()
      said = life.said()
      statuses[status] = statuses.get(status, 0) + 1
      paragraphs = said.count("error: ")
      fine = status == 0 or (status == 2 and paragraphs == 1)
      if not fine or "Traceback" in said:
        wrong.append(f"{flags or text[:200]}: {status}, {said[-300:]}")
    world.config.write_text(good)
    touched = snapshot(*watched, world.folder / "home") != before
    yield {
      "fault": f"{count} mutated configurations",
      "at": kind,
      "status": " ".join(f"{n}x{s}" for s, n in sorted(statuses.items())),
      "result": "files touched" if touched else "\n".join(wrong) or EXPECTED,
    }


def images(suite: Suite, long: bool) -> Iterator[Row]:
  """Flipped, cut, doubled and overwritten JPEGs as training images."""
  world = suite.world
  count = 200 if long else 40
  train = [_spoil(image, suite.random) for image in draw(count, 7)]
  bad = sum(not _decodable(image) for image in train)
  data = world.write_data("mutated", train, draw(32, 8))
  flags = [f"--config.data_dir={data}", "--config.batch_size=8"]
  flags += [f"--config.total_steps={count // 8}", "--config.log_every_steps=1"]
  before = snapshot(world.data_dir, data, world.folder / "home")
  for allowed, expected in ((count, 0), (0, 2)):
    workdir = suite.new_workdir()
    life = world.start(workdir, *flags, f"--config.max_undecodable={allowed}")
    status = life.end()
    result = EXPECTED
    if status != expected or "Traceback" in life.said():
      result = f"status {status}: {life.said()[-500:]}"
    elif expected == 0:
      lines = outcome(workdir)[1]
      counted = sum(line.get("undecodable", 0) for line in lines)
      if counted != bad:
        result = f"{counted} were counted, {bad} are undecodable"
    if snapshot(world.data_dir, data, world.folder / "home") != before:
      result = "files touched"
    yield {
      "fault": f"{count} mutated images, {bad} of them undecodable",
      "at": f"{allowed} allowed",
      "status": status,
      "result": result,
    }


def _keys() -> list[tuple[str, str]]:
  """Every key of the quickstart and the kind of its value."""
  from alexnet_jax import config

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
