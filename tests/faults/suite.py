"""Faults, one after another, against the real training command.

  PYTHONPATH=. python tests/faults/suite.py [--long] [--only=NAME] [--json=FILE]

Without `--long` a few of each kind, in minutes. A row says what was done, when,
with which exit status, and whether the run that went on afterwards ended bit
for bit like one that nothing happened to.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Iterator

import interruptions
import jax
import mutations
import soak
import storage
from rich.console import Console
from rich.table import Table
from trial import EQUAL, EXPECTED, Row, Suite

from alexnet_jax import provenance

FAULTS = {
  "kills": interruptions.kills,
  "signals": interruptions.signals,
  "two_runs": interruptions.two_runs,
  "numbers": interruptions.numbers,
  "full_disk": storage.full_disk,
  "checkpoints": storage.damaged_checkpoints,
  "data": storage.data_faults,
  "configurations": mutations.configurations,
  "images": mutations.images,
  "soak": soak.soak,
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
  bad = [row for row in rows if row["result"] not in (EQUAL, EXPECTED)]
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
