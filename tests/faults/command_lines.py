"""Runs generated command lines: legal values are accepted, others refused.

  python -m tests.faults.command_lines [--count=1200] [--json=FILE]

Each line is a command with one generated value. It runs whole up to the point
where the work would start, in a forked copy of one process, so that libraries
are imported once.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile

import tensorflow_datasets as tfds

from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import provenance
from alexnet_jax.runtime.files import write_atomic

from .command_values import Line, generate
from .sandbox import ROOT, Sandbox, noisy_jpegs
from .trial import EXPECTED, Row

# A line may take this long on a processor, whatever else runs there.
CPU_SECONDS = 60

# By whether their values are legal: lines, each with what is wrong, or "".
Found = dict[str, list[tuple[Line, str]]]


def problem(line: Line, status: int, output: str, changed: bool) -> str:
  """What is wrong with the outcome of a line; "" if nothing is."""
  if line.legal:
    return "" if status == 0 else f"refused: {output[-300:]}"
  if status == 0:
    return "accepted"
  if status != 2 or output.count("error: ") != 1 or "Traceback" in output:
    return f"status {status}: {output[-1500:]}"
  if changed:
    return "something was written"
  if line.named.rpartition(".")[2] not in output.lower():
    return f"{line.named} is not named: {output[-300:]}"
  return ""


class Server:
  """Runs lines in a folder that has a dataset, a configuration and runs."""

  def __init__(self, sandbox: Sandbox):
    self.folder = folder = sandbox.folder / "lines"
    folder.mkdir()
    text = sandbox.config.read_text()
    text = text.replace(
      "  return config\n",
      "  config.mesh.data = config.mesh.model = 1\n"
      '  config.schedule.name = "piecewise"\n'
      "  config.checkpoint_every_steps = 0\n  return config\n",
      1,
    )
    (folder / "tiny.py").write_text(text)
    (folder / "data").symlink_to(sandbox.data_dir)
    (folder / "picture.jpg").write_bytes(noisy_jpegs(1, 0)[0])
    for name in ("a", "b"):
      (folder / "pictures" / name).mkdir(parents=True)
      for number, image in enumerate(noisy_jpegs(2, 1)):
        (folder / "pictures" / name / f"{number}.jpg").write_bytes(image)
    saved = configs.to_json(configs.load(str(folder / "tiny.py")))
    for name, change in (
      ("run", {}),
      ("damaged", {"network": {"towers": "two"}}),
      ("lacks", {"batch_size": None}),
    ):
      (folder / name).mkdir()
      (folder / name / "config.json").write_text(json.dumps(saved | change))
    environment = {
      "PYTHONPATH": str(ROOT),
      "HOME": str(sandbox.folder / "home"),
      "XDG_CACHE_HOME": str(sandbox.folder / "cache"),
      "JAX_PLATFORMS": "cpu",
      # A thread of pyarrow, which a fork would wait for.
      "ARROW_DEFAULT_MEMORY_POOL": "system",
      "JE_ARROW_MALLOC_CONF": "background_thread:false",
    }
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.faults.command_server", str(CPU_SECONDS)],
      cwd=folder,
      env=os.environ | environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self._before = self._names()

  def __enter__(self) -> "Server":
    return self

  def __exit__(self, *exception) -> None:
    self._process.communicate()

  def _names(self) -> set[str]:
    """What lies in the folder, without what the server writes."""
    return {
      str(path.relative_to(self.folder))
      for path in self.folder.rglob("*")
      if path.name != "output" and "__pycache__" not in path.parts
    }

  def try_line(self, line: Line) -> str:
    """Runs a line; returns what is wrong with its outcome, or ""."""
    text = json.dumps([line.module, *line.arguments])
    print(text, file=self._process.stdin, flush=True)
    status = int(self._process.stdout.readline())
    output = (self.folder / "output").read_text(errors="replace")
    new = self._names() - self._before
    for name in sorted(new, reverse=True):  # of a line that was accepted
      path = self.folder / name
      path.rmdir() if path.is_dir() else path.unlink()
    return problem(line, status, output, bool(new))


def try_lines(sandbox: Sandbox, count: int, number: int) -> Found:
  """Runs `count` generated lines; their problems by kind."""
  found: Found = {"legal": [], "not legal": []}
  with Server(sandbox) as server:
    for line in generate(count, number):
      kind = "legal" if line.legal else "not legal"
      found[kind].append((line, server.try_line(line)))
  return found


def rows(found: Found) -> list[Row]:
  """A row for each line, as of the other faults."""
  return [
    {
      "fault": f"a value that is {kind}",
      "at": line.module.rpartition(".")[2],
      "line": line.arguments,
      "result": text or EXPECTED,
    }
    for kind, lines in found.items()
    for line, text in lines
  ]


def main() -> int:
  parser = argparse.ArgumentParser(prog="python -m tests.faults.command_lines")
  parser.add_argument("--count", type=int, default=1200, help="lines to try")
  parser.add_argument("--json", help="file to write the results to")
  options = parser.parse_args()
  tfds.disable_progress_bar()
  with tempfile.TemporaryDirectory() as folder:
    found = try_lines(Sandbox(folder), options.count, number=0)
  tried = rows(found)
  wrong = [row for row in tried if row["result"] != EXPECTED]
  for row in wrong:
    print(f"{row['at']} {row['line']} ({row['fault']}): {row['result']}\n")
  print(f"{len(tried)} lines, {len(wrong)} with another outcome")
  if options.json:
    counts = collections.Counter(
      (row["fault"], row["at"], row["result"]) for row in tried
    )
    faults = [
      dict(zip(("fault", "at", "result"), each, strict=True)) | {"count": count}
      for each, count in sorted(counts.items())
    ]
    record = provenance.record(
      "generated command lines: whether legal values are accepted and others"
      " refused",
      f"python -m tests.faults.command_lines --count={options.count}",
      {"tried": len(tried), "failed": len(wrong), "faults": faults},
    )
    write_atomic(options.json, json.dumps(record, indent=1) + "\n")
  return 1 if wrong else 0


if __name__ == "__main__":
  sys.exit(main())
