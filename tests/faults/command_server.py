"""Runs command lines in forked copies of one process.

  python -m tests.faults.command_server CPU_SECONDS

Reads lines of JSON, [module, arguments...], and prints the exit status of each.
Standard output and error of a line go to the file `output`. Where the work of
a command would start, it ends with status 0.
"""

import json
import os
import resource
import runpy
import signal
import sys
import traceback


def accept(*arguments, **options):
  """Stands for the work of a command."""
  raise SystemExit(0)


def stop_before_work() -> None:
  """Imports what the commands need, and replaces the work of each."""
  import matplotlib.figure  # noqa: F401, imported once for all copies

  from alexnet_jax.analysis import input_timing, programs, sections, timing
  from alexnet_jax.data import preparing
  from alexnet_jax.training import classifier, loop, runs, weights
  from experiments.common import frame

  loop.TrainingLoop = accept
  programs.audit = accept
  for name in ("benchmark_step", "benchmark_end_to_end"):
    setattr(timing, name, accept)
  input_timing.benchmark_input = accept
  # What reads a checkpoint; its name is looked at before.
  runs.load_state = accept
  sections.summary = accept  # the report, once its runs are loaded
  weights.runs.load_state = accept
  classifier.runs.load_state = accept
  preparing.prepare = accept
  frame.carry_out = accept


def run(module: str, arguments: list[str], cpu_seconds: int) -> int:
  """The exit status of one command line, in a fork of this process."""
  child = os.fork()
  if child:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  status = 1
  try:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
      os.dup2(output, number)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
    status = 0
  except SystemExit as end:
    status = end.code or 0
  except BaseException:
    traceback.print_exc()
  finally:
    for stream in (sys.stdout, sys.stderr):
      stream.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
  stop_before_work()
  for text in sys.stdin:
    module, *arguments = json.loads(text)
    print(run(module, arguments, int(sys.argv[1])), flush=True)
