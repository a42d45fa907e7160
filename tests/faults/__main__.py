"""Faults, one after another, against the real training command.

  python -m tests.faults [--long] [--only=NAME] [--folder=DIR] [--json=FILE]

Without `--long` a few of each kind, in minutes; with it all, in an hour. With
`--folder` a suite that was itself interrupted goes on where it was. A row says
what was done, when, with which exit status, and whether the run that went on
afterwards ended bit for bit like one that nothing happened to.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import jax
from rich.console import Console
from rich.table import Table

from alexnet_jax.runtime import provenance
from alexnet_jax.runtime.files import write_atomic

from . import interruptions, mutations, soak, storage
from .trial import EQUAL, EXPECTED, Row, Suite, Trial
from .world import LIVING

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


def run(options: argparse.Namespace, folder: pathlib.Path) -> list[Row]:
  """The rows of all cases; those that `folder` remembers are not tried anew."""
  names = options.only.split(",") if options.only else list(FAULTS)
  remembered, lock = folder / "rows.json", threading.Lock()
  rows = json.loads(remembered.read_text()) if remembered.exists() else {}
  suite = Suite(str(folder))
  cases = [
    (group, name, case)
    for group in names
    for name, case in FAULTS[group](suite, options.long)
  ]

  def done() -> list[Row]:
    return [rows[name] for _, name, _ in cases if name in rows]

  def attempt(group: str, name: str, case: Callable[[Trial], Row]) -> None:
    began = time.monotonic()
    try:
      row = case(Trial(suite, name))
    except (AssertionError, TimeoutError, OSError) as error:
      row = {"fault": name, "at": "-", "status": -1, "result": str(error)}
    row = {"kind": group, **row, "took": round(time.monotonic() - began, 1)}
    row["commit"] = provenance.git_commit()[:7]
    with lock:
      print(row, flush=True)
      rows[name] = row
      write_atomic(remembered, json.dumps(rows, indent=1))
      if options.json:
        write_report(options.json, done(), len(cases))

  # A run starts on one core; the parts of the soak follow one another.
  for count, chosen in ((2, set(names) - {"soak"}), (1, {"soak"})):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
      tried = [
        pool.submit(attempt, *case)
        for case in cases
        if case[0] in chosen and case[1] not in rows
      ]
      for each in tried:
        each.result()
  if options.json:
    write_report(options.json, done(), len(cases))
  return done()


def write_report(path: str, rows: list[Row], num_cases: int) -> None:
  """Writes what was found so far."""
  report = {
    "what": "faults against the training command, and what came of them",
    "hardware": provenance.hardware(),
    "versions": provenance.versions(),
    "seed": "the name of each case",
    "command": " ".join(["python -m tests.faults", *_chosen(sys.argv[1:])]),
    "commit": ", ".join(sorted({str(row["commit"]) for row in rows})),
    "result": {
      "cases": num_cases,
      "tried": len(rows),
      "not_as_wanted": len(_bad(rows)),
      "minutes": round(sum(row["took"] for row in rows) / 60, 1),
      "faults": rows,
    },
  }
  write_atomic(path, json.dumps(report, indent=1) + "\n")


def _chosen(arguments: list[str]) -> list[str]:
  """Those that say what is tried, and not where it is written."""
  return [x for x in arguments if not x.startswith(("--folder", "--json"))]


def _bad(rows: list[Row]) -> list[Row]:
  return [row for row in rows if row["result"] not in (EQUAL, EXPECTED)]


def table(rows: list[Row]) -> str:
  """Markdown: how many of each kind were tried, and what came of them."""
  kinds: dict[tuple[str, str], list[bool]] = {}
  for row in rows:
    fault, at = str(row["fault"]), str(row["at"]).partition(" + ")[0]
    at = "any file" if fault.startswith("checkpoint") else at
    as_wanted = row["result"] in (EQUAL, EXPECTED)
    kinds.setdefault((fault, at), []).append(as_wanted)
  lines = ["| fault | at | tried | passed |", "|---|---|---|---|"]
  lines += [
    f"| {fault} | {at} | {len(each)} | {sum(each)} |"
    for (fault, at), each in kinds.items()
  ]
  return "\n".join(lines)


def main() -> int:
  parser = argparse.ArgumentParser(prog="python -m tests.faults")
  parser.add_argument("--long", action="store_true", help="all of each kind")
  parser.add_argument("--only", help=f"some of {','.join(FAULTS)}")
  parser.add_argument("--folder", help="to go on in, if interrupted")
  parser.add_argument("--json", help="file for the results")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(options.folder or temporary).resolve()
    rows = run(options, folder)
  shown = Table("fault", "at", "status", "result")
  for row in rows:
    shown.add_row(*(str(row[k]) for k in ("fault", "at", "status", "result")))
  Console().print(shown)
  bad = _bad(rows)
  print(f"{len(rows)} faults, {len(bad)} with another result than wanted")
  return 1 if bad else 0


def _leave(number: int, frame: object) -> None:
  """Ends the processes that it started, too."""
  del frame
  for life in list(LIVING):
    os.kill(life.pid, signal.SIGKILL)
  os._exit(128 + number)


if __name__ == "__main__":
  signal.signal(signal.SIGTERM, _leave)
  signal.signal(signal.SIGINT, _leave)
  jax.config.update("jax_platforms", "cpu")
  sys.exit(main())
