"""Times the start of a process: the imports, and the first training step.

  python -m benchmarks.starting --output=experiments/results/starting.json

Every time is that of a new process, in alternating rounds. The first step is
timed from the start of the training command to the first line of metrics.jsonl,
with diagnostics off; a cold cache has no compiled programs. The images and
their statistics exist beforehand. `cpu_seconds` is the processor time of all
threads, which depends less on other load.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from alexnet_jax.runtime import command, files, paths, provenance
from experiments.common import markdown

ROOT = pathlib.Path(__file__).resolve().parents[1]
IMPORTS = ("jax", "alexnet_jax.training.loop")
NETWORKS = {
  "quickstart": ("--config=configs/quickstart.py",),
  "paper": (
    "--config=configs/paper.py",
    "--config.batch_size=64",
    "--config.dataset=patterns/10",
    "--config.num_classes=10",
  ),
}


def importing(module):
  """Wall and CPU seconds of a process that imports `module`."""
  return watch([sys.executable, "-c", f"import {module}"])


def first_step(name, cache):
  """Wall and CPU seconds until the first step of one of NETWORKS.

  Args:
    name: key of NETWORKS.
    cache: folder of compiled programs.
  """
  with tempfile.TemporaryDirectory() as workdir:
    lines = pathlib.Path(workdir, "metrics.jsonl")
    return watch(
      [
        *(sys.executable, "-m", "alexnet_jax.main", *NETWORKS[name]),
        *(f"--workdir={workdir}", "--config.total_steps=1"),
        "--config.diagnose_every_lines=0",
      ],
      lambda: lines.exists() and lines.stat().st_size,
      {"JAX_COMPILATION_CACHE_DIR": cache},
    )


def watch(arguments, done=lambda: False, environment=None):
  """Starts a process and kills it when `done`; returns (wall, CPU) seconds.

  Raises:
    UserError: the process failed.
  """
  with tempfile.TemporaryFile("w+") as messages:
    start = time.perf_counter()
    process = subprocess.Popen(
      arguments,
      cwd=ROOT,
      env=os.environ | (environment or {}),
      stdout=messages,
      stderr=messages,
      start_new_session=True,
    )
    reached = ended = False
    while not (reached or ended):
      time.sleep(0.005)
      reached = done()
      ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    seconds = time.perf_counter() - start
    if not ended:
      os.killpg(process.pid, signal.SIGKILL)
      _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if ended and process.returncode:
      messages.seek(0)
      raise command.UserError(
        f"{' '.join(arguments)} failed: {messages.read()[-2000:].strip()}"
      )
  return seconds, usage.ru_utime + usage.ru_stime


def measure(rounds, networks):
  """One row for each import, and two for each network: cold and warm cache."""
  times = {f"import {module}": [] for module in IMPORTS}
  for name in networks:
    times |= {f"{name}, cold cache": [], f"{name}, warm cache": []}
    with tempfile.TemporaryDirectory() as cache:  # generates the images
      first_step(name, cache)
  for round_ in range(rounds):
    for module in IMPORTS:
      times[f"import {module}"].append(importing(module))
    for name in networks:
      with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
          times[f"{name}, {state} cache"].append(first_step(name, cache))
    print(f"round {round_ + 1} of {rounds}", flush=True)
  return [{"name": name} | summary(values) for name, values in times.items()]


def summary(values):
  """Minimum, median and maximum of (wall, CPU) seconds."""
  wall, cpu = zip(*values, strict=True)
  return {
    what: {
      "min": min(seconds),
      "median": statistics.median(seconds),
      "max": max(seconds),
    }
    for what, seconds in (("seconds", wall), ("cpu_seconds", cpu))
  }


def table(rows):
  """The rows as Markdown."""
  cells = []
  for row in rows:
    wall, cpu = row["seconds"], row["cpu_seconds"]
    times = f"{wall['min']:.1f}, {wall['median']:.1f}, {wall['max']:.1f}"
    cells.append([row["name"], times, f"{cpu['median']:.1f}"])
  headings = ["", "seconds: min, median, max", "of processor time"]
  return markdown.table(headings, cells, "lrr")


def main() -> None:
  rows = measure(_ROUNDS.value, _NETWORKS.value)
  print(table(rows))
  if _OUTPUT.value:
    record = provenance.record(
      "seconds from the start of a process",
      " ".join(["python -m benchmarks.starting", *sys.argv[1:]]),
      rows,
    )
    files.write_atomic(_OUTPUT.value, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  _OUTPUT = paths.DEFINE_output("output", "", "JSON file for the results")
  _NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), "what is trained")
  _ROUNDS = flags.DEFINE_integer("rounds", 3, "number of rounds", 1)
  command.run(main)
