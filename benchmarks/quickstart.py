"""Times the quickstart as a user meets it: a new process, from start to report.

  python -m benchmarks.quickstart --output=experiments/results/quickstart.json

Nothing is compiled beforehand. `cpu_seconds` is the processor time of all
threads, which depends less on other work on the machine.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from absl import flags

from alexnet_jax.runtime import command, files, paths, provenance
from alexnet_jax.training import metrics

ROOT = pathlib.Path(__file__).resolve().parents[1]


def measure() -> dict[str, float]:
  """Seconds in all, of the processor, and until the last evaluation; its error.

  Raises:
    CalledProcessError: the quickstart failed.
  """
  with tempfile.TemporaryDirectory() as folder:
    start = time.monotonic()
    subprocess.run(
      [
        *(sys.executable, "-m", "alexnet_jax.main"),
        *("--config=configs/quickstart.py", f"--workdir={folder}/run"),
      ],
      cwd=ROOT,
      env=os.environ | {"XDG_CACHE_HOME": folder},
      stdout=subprocess.DEVNULL,
      check=True,
    )
    seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    last = metrics.read(f"{folder}/run")[-1]
  return {
    "seconds": round(seconds, 1),
    "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    "seconds_to_last_evaluation": round(last["seconds"], 1),
    "top1_error": last["top1_error"],
  }


def table(result: dict[str, float]) -> str:
  """The result as a sentence."""
  return (
    f"The quickstart took {result['seconds']:.0f} seconds from its start to its"
    f" report, {result['seconds_to_last_evaluation']:.0f} of them for the"
    f" training, and {result['cpu_seconds']:.0f} seconds of processor time. Its"
    f" validation error was {result['top1_error']:.1%}."
  )


def main() -> None:
  result = measure()
  print(result)
  record = provenance.record(
    "the quickstart, from its start to its report",
    "python -m benchmarks.quickstart",
    result,
  )
  files.write_atomic(flags.FLAGS.output, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  paths.DEFINE_output("output", None, "JSON file to write", required=True)
  command.run(main)
