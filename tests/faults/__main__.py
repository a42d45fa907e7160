"""Injects machine failures into the real training command.

  python -m tests.faults [--long] [--only=NAME] [--folder=DIR] [--json=FILE]

Without `--long` a few faults of each kind, which takes minutes; with it all of
them, which takes hours. With `--folder` a suite that was interrupted can be
resumed. A row of the result has the fault, its moment, the exit status, and
whether the resumed run ended bit for bit like an uninterrupted one. The JSON
file keeps its rows of the kinds that are not run.

A kind is a function in FAULTS: given the suite and whether all of it is asked
for, it yields cases, each a unique name and a function from a Trial to a row.
A row counts once, or `count` times if one run met so many faults.
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

from . import (
  interruptions,
  mutations,
  pipes,
  processes,
  settings,
  soak,
  storage,
  unreadable,
)
from .sandbox import RUNNING
from .trial import EQUAL, EXPECTED, Row, Suite, Trial

FAULTS = {
  "kills": interruptions.kills,
  "signals": interruptions.signals,
  "pipes": pipes.pipes,
  "two_runs": interruptions.two_runs,
  "processes": processes.processes,
  "numbers": interruptions.numbers,
  "full_disk": storage.full_disk,
  "checkpoints": storage.damaged_checkpoints,
  "unreadable": unreadable.checkpoints,
  "network_files": unreadable.network_files,
  "config_lost": unreadable.configurations,
  "data": storage.data_faults,
  "configurations": mutations.configurations,
  "images": mutations.images,
  "environment": settings.environment,
  "soak": soak.soak,
}


def run(options: argparse.Namespace, folder: pathlib.Path) -> list[Row]:
  """The rows of all cases; those already in `folder` are not run again."""
  names = options.only.split(",") if options.only else list(FAULTS)
  finished, lock = folder / "rows.json", threading.Lock()
  rows = json.loads(finished.read_text()) if finished.exists() else {}
  suite = Suite(str(folder))
  cases = [
    (group, name, case)
    for group in names
    for name, case in FAULTS[group](suite, options.long)
  ]

  def done() -> list[Row]:
    return [rows[name] for _, name, _ in cases if name in rows]

  def run_case(group: str, name: str, case: Callable[[Trial], Row]) -> None:
    start = time.monotonic()
    try:
      row = case(Trial(suite, name))
    except (AssertionError, TimeoutError, OSError) as error:
      row = {"fault": name, "at": "-", "status": -1, "result": str(error)}
    row = {"kind": group, **row, "took": round(time.monotonic() - start, 1)}
    row["commit"] = provenance.git_commit()[:7]
    with lock:
      print(row, flush=True)
      rows[name] = row
      write_atomic(finished, json.dumps(rows, indent=1))
      if options.json:
        write_report(options.json, done(), len(cases))

  # Two cases at a time, because a run uses one core while it starts. The parts
  # of the soak are one run, so they follow one another; a case of `processes`
  # uses several cores itself.
  one_by_one = {"soak", "processes"}
  for count, chosen in ((2, set(names) - one_by_one), (1, one_by_one)):
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
      futures = [
        pool.submit(run_case, *case)
        for case in cases
        if case[0] in chosen and case[1] not in rows
      ]
      for future in futures:
        future.result()
  if options.json:
    write_report(options.json, done(), len(cases))
  return done()


def write_report(path: str, rows: list[Row], num_cases: int) -> None:
  """Writes the rows so far, in place of those of the same kinds in the file.

  So each kind can be run again alone, on another commit or machine.
  """
  kinds = {row["kind"] for row in rows}
  others, hardware = [], {provenance.hardware()}
  if pathlib.Path(path).exists():
    before = json.loads(pathlib.Path(path).read_text())
    others = [x for x in before["result"]["faults"] if x["kind"] not in kinds]
    if others:
      hardware.update(before["hardware"].split("; or "))
  order = {kind: number for number, kind in enumerate(FAULTS)}
  rows = sorted(others + rows, key=lambda row: order.get(row["kind"], 99))
  report = {
    "what": "faults injected into the training command, with outcomes",
    "hardware": "; or ".join(sorted(hardware)),
    "versions": provenance.versions(),
    "seed": "the name of each case",
    "command": " ".join(["python -m tests.faults", *_chosen(sys.argv[1:])]),
    "commit": ", ".join(sorted({str(row["commit"]) for row in rows})),
    "result": {
      "cases": len(others) + num_cases,
      "tried": len(rows),
      "failed": len(_bad(rows)),
      "minutes": round(sum(row["took"] for row in rows) / 60, 1),
      "faults": rows,
    },
  }
  write_atomic(path, json.dumps(report, indent=1) + "\n")


def _chosen(arguments: list[str]) -> list[str]:
  """The arguments that choose how many cases, for the record."""
  return [x for x in arguments if x == "--long"]


def _bad(rows: list[Row]) -> list[Row]:
  return [row for row in rows if row["result"] not in (EQUAL, EXPECTED)]


def table(rows: list[Row]) -> str:
  """A Markdown table: how many faults of each sort were tried and passed."""
  sorts: dict[str, list[Row]] = {}
  for row in rows:
    sorts.setdefault(str(row["fault"]), []).append(row)
  lines = ["| fault | at | tried | passed |", "|---|---|---|---|"]
  for fault, each in sorts.items():
    places = {str(row["at"]).partition(" + ")[0]: None for row in each}
    at = "; ".join(places) if len(places) <= 9 else f"{len(places)} places"
    tried = sum(row.get("count", 1) for row in each)
    failed = sum(row.get("count", 1) for row in _bad(each))
    lines.append(f"| {fault} | {at} | {tried} | {tried - failed} |")
  return "\n".join(lines)


def main() -> int:
  parser = argparse.ArgumentParser(prog="python -m tests.faults")
  parser.add_argument(
    "--long", action="store_true", help="run all faults of each kind"
  )
  parser.add_argument("--only", help=f"kinds to run, from {','.join(FAULTS)}")
  parser.add_argument(
    "--folder", help="folder to keep, so that the suite can be resumed"
  )
  parser.add_argument("--json", help="file to write the results to")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(options.folder or temporary).resolve()
    rows = run(options, folder)
  shown = Table("fault", "at", "status", "result")
  for row in rows:
    shown.add_row(*(str(row[k]) for k in ("fault", "at", "status", "result")))
  Console().print(shown)
  bad = _bad(rows)
  print(f"{len(rows)} faults, {len(bad)} failed")
  return 1 if bad else 0


def _exit(number: int, frame: object) -> None:
  """Exits on a signal, and kills the processes of the suite."""
  del frame
  for process in list(RUNNING):
    os.kill(process.pid, signal.SIGKILL)
  os._exit(128 + number)


if __name__ == "__main__":
  for ignored in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(ignored, signal.SIG_DFL)  # runs inherit it under `nohup`
  signal.signal(signal.SIGTERM, _exit)
  signal.signal(signal.SIGINT, _exit)
  jax.config.update("jax_platforms", "cpu")
  sys.exit(main())
