"""Random mutations of configurations and images."""

import collections
import functools
import random
import re
import shutil
from collections.abc import Iterator

from alexnet_jax.data.images import UndecodableImage, decode

from .sandbox import ROOT, noisy_jpegs, outcome, snapshot
from .trial import EXPECTED, Case, Row, Suite, Trial

# Values to try for each type; none that only needs too much memory.
VALUES = {
  "int": ("-1", "0", "1", "3", "7", "1.5", "x", "", "1e3"),
  "float": ("-1", "0", "nan", "inf", "-inf", "1e30", "1e-30", "x", ""),
  "bool": ("true", "0", "maybe"),
  "str": ("", "nothing", "../..", "train[:0]", "train[50:", "a:b/c", "\\"),
  "tuple": ("()", "(1,)", "('relu',)", "(-1, 0.5)", "(((", "x"),
}
# Keys of which a larger value only takes longer, or a path leaves the sandbox.
NOT_MUTATED = ("total_epochs", "total_steps", "data_dir", "stall_minutes")


def configurations(suite: Suite, long: bool) -> Iterator[Case]:
  """Random values for random keys, and random edits of the file itself."""
  for kind in ("flags", "text"):
    for part in range(10 if long else 1):
      name = f"mutated configurations, {kind} {part}"
      yield name, functools.partial(_configurations, kind=kind)


def _configurations(trial: Trial, kind: str, count: int = 10) -> Row:
  sandbox = trial.sandbox
  keys, good = _keys(), sandbox.config.read_text()
  watched = [ROOT / name for name in ("alexnet_jax", "configs", "tests")]
  # Only part of the data folder: generated datasets are written there too.
  own = [sandbox.folder / name for name in ("data/faulty", "home", "temporary")]
  before = snapshot(*watched, *own)

  def attempt(number: int, what: str) -> tuple[int, str]:
    """Trains two steps; returns the exit status and a problem, if any."""
    workdir = sandbox.workdir(f"{trial.name}-{number}")
    config, flags = sandbox.folder / f"{trial.name}-{number}.py", []
    config.write_text(what if kind == "text" else good)
    if kind == "flags":
      flags = [what]
    process = sandbox.start(
      workdir, *flags, "--config.total_steps=2", config=config
    )
    process.end()
    output = process.output()
    shutil.rmtree(workdir, ignore_errors=True)
    fine = process.status == 0 or (
      process.status == 2 and output.count("error: ") == 1
    )
    if fine and "Traceback" not in output:
      return process.status, ""
    return (
      process.status,
      f"{_shown(what, good)}: {process.status}, {output[-500:]}",
    )

  mutate = {
    "flags": lambda: _flag(keys, trial.random),
    "text": lambda: _edit(good, trial.random),
  }[kind]
  outcomes = [attempt(number, mutate()) for number in range(count)]
  statuses = collections.Counter(status for status, _ in outcomes)
  wrong = [text for _, text in outcomes if text]
  if snapshot(*watched, *own) != before:
    wrong.append("files outside the workdir were changed")
  return {
    "fault": f"{count} mutated configurations",
    "at": kind,
    "status": " ".join(f"{n}x{s}" for s, n in sorted(statuses.items())),
    "result": "\n".join(wrong) or EXPECTED,
  }


def _shown(what: str, good: str) -> str:
  """A flag, or the lines of a text that differ from the original."""
  lines = good.splitlines()
  return " / ".join(x for x in what.splitlines() if x not in lines)


def images(suite: Suite, long: bool) -> Iterator[Case]:
  """Training images whose JPEGs are flipped, cut, doubled or overwritten."""
  count = 200 if long else 40
  for allowed in (count, 0) if long else (count,):
    name = f"mutated images, {allowed} allowed"
    yield name, functools.partial(_images, count=count, allowed=allowed)


def _images(trial: Trial, count: int, allowed: int) -> Row:
  sandbox = trial.sandbox
  source = random.Random(0)
  train = [_spoil(image, source) for image in noisy_jpegs(count, 7)]
  bad = sum(not _decodable(image) for image in train)
  data = sandbox.write_data(f"data-{trial.name}", train, noisy_jpegs(32, 8))
  flags = [f"--config.data_dir={data}", "--config.batch_size=8"]
  flags += [f"--config.total_steps={count // 8}", "--config.log_every_steps=1"]
  before = snapshot(sandbox.data_dir, data, sandbox.folder / "home")
  workdir = trial.new_workdir()
  process = sandbox.start(
    workdir, *flags, f"--config.max_undecodable={allowed}"
  )
  process.end()
  result = EXPECTED
  if process.status != (0 if allowed else 2) or "Traceback" in process.output():
    result = f"status {process.status}: {process.output()[-500:]}"
  elif allowed:
    lines = outcome(workdir)[1]
    counted = sum(line.get("undecodable", 0) for line in lines)
    if counted != bad:
      result = f"{counted} counted, but {bad} are undecodable"
  if snapshot(sandbox.data_dir, data, sandbox.folder / "home") != before:
    result = "files outside the workdir were changed"
  return {
    "fault": f"{count} mutated images, {bad} of them undecodable",
    "at": f"{allowed} allowed",
    "status": process.status,
    "result": result,
  }


def _keys() -> list[tuple[str, str]]:
  """Every key of the quickstart and the type of its value."""
  from alexnet_jax.runtime import config

  loaded = config.load(str(ROOT / "configs" / "quickstart.py"))
  flat = dict(config.flatten(loaded.to_dict()))
  return [
    (key, type(value).__name__)
    for key, value in flat.items()
    if key not in NOT_MUTATED
  ]


def _flag(keys: list[tuple[str, str]], source: random.Random) -> str:
  key, kind = source.choice(keys)
  if source.random() < 0.1:
    key = key[:-1] or "x"
  return f"--config.{key}={source.choice(VALUES[kind])}"


def _edit(text: str, source: random.Random) -> str:
  """One random edit in `get_config`."""
  start = text.index("def get_config")
  end = text.index("def print_steps")
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
  # No larger network than the tiny one, which would only cost time.
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
