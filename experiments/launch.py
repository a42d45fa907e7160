"""Trains every run of a sweep, on this machine or on a SLURM cluster.

  python -m experiments.launch --config=configs/quickstart.py
      --sweep=experiments/sweeps/seeds.json [--executor=local|slurm]
      [--output=runs/seeds] [--slurm=partition=gpu,gpus_per_node=2,time=240]

The sweep is a JSON list with the overrides of each run, such as
[{"seed": 0}, {"seed": 1}]. A run is `python -m alexnet_jax.main` in its own
workdir, OUTPUT/NAME. The same command continues interrupted runs and does not
repeat finished ones. On SLURM, runs that reach their time limit or are
preempted save and are queued again. At the end, table.json has the last metrics
of all runs. docs/cluster.md has an example.
"""

import ast
import concurrent.futures
import json
import os
import pathlib
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import submitit
from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.runtime import command, files, paths, status
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import metrics

EXECUTORS = ("local", "slurm")
# How often a run may reach its time limit, and be queued again.
MAX_TIMEOUTS = 1000
# Between two looks at SLURM's queue.
QUEUE_SECONDS = 5.0
Override = dict[str, Any]


class Training(submitit.helpers.CommandFunction):
  """A command that SLURM may stop and queue again: the run resumes."""

  def checkpoint(self) -> submitit.helpers.DelayedSubmission:
    """Called by submitit on its signal; the command saves by itself."""
    return submitit.helpers.DelayedSubmission(self)


def load_sweep(path: str) -> list[Override]:
  """Reads the overrides of each run from a sweep file.

  Raises:
    UserError: the file cannot be read or is not a JSON list of objects.
  """
  try:
    sweep = json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"--sweep={path} cannot be read: {error}") from None
  if not isinstance(sweep, list) or not all(isinstance(x, dict) for x in sweep):
    raise UserError(
      f"--sweep={path} is not a list of overrides. Write one object per run,"
      ' such as [{"seed": 0}, {"seed": 1, "network.width": 0.5}].'
    )
  return sweep


def run_name(override: Override) -> str:
  """Folder of a run, such as network.width=0.5,seed=1.

  Keys are sorted, so their order in the file does not matter.
  """
  text = ",".join(f"{key}={override[key]}" for key in sorted(override))
  return re.sub(r"[^\w.,=+-]", "_", text) or "unchanged"


def run_command(config: str, override: Override, workdir: str) -> list[str]:
  """The command that trains a run, or continues it."""
  return [
    *(sys.executable, "-m", "alexnet_jax.main"),
    f"--config={config}",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in override.items()),
  ]


def run_all(
  commands: dict[str, list[str]],
  *,
  executor: str,
  folder: str,
  options: dict[str, Any] | None = None,
  at_once: int = 1,
) -> dict[str, str]:
  """Runs all commands as jobs and waits for them.

  Args:
    commands: command lines by name of the job.
    executor: "local" runs `at_once` processes at a time on this machine, each
      on its own share of the cores; "slurm" submits all jobs at once.
    folder: receives the jobs' scripts and output.
    options: options of the executor under submitit's names, such as
      `partition`, `time` (minutes) and `gpus_per_node`.
    at_once: for "local", the number of jobs that run side by side.

  Returns:
    By name, "finished" or what went wrong.

  Raises:
    UserError: this machine has no SLURM, or SLURM does not know an option.
  """
  pool = _executor(executor, folder, options or {})

  def submit(words: list[str]) -> submitit.Job:
    return pool.submit(Training(words))

  if executor == "slurm":
    jobs = {name: submit(words) for name, words in commands.items()}
    for job in jobs.values():
      print(f"submitted job {job.job_id}", file=sys.stderr)
    return {name: _outcome(name, job, _in_queue) for name, job in jobs.items()}

  shares = _shares_of_cores(at_once)

  def run_local(name: str) -> str:
    # A job inherits the cores of the thread that submits it.
    cores = shares.get()
    _use_cores(cores)
    try:
      return _outcome(name, submit(commands[name]))
    finally:
      shares.put(cores)

  with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
    return dict(zip(commands, threads.map(run_local, commands), strict=True))


def _shares_of_cores(count: int) -> queue.Queue[set[int]]:
  """Divides this process's cores; more shares than cores overlap."""
  shares: queue.Queue[set[int]] = queue.Queue()
  pinned = hasattr(os, "sched_getaffinity")  # Linux
  cores = sorted(os.sched_getaffinity(0)) if pinned else []
  for index in range(count):
    own = set(cores[index::count])
    shares.put(own or set(cores[index % len(cores) :][:1] if cores else []))
  return shares


def _use_cores(cores: set[int]) -> None:
  """Restricts this thread, and the processes that it starts, to some cores."""
  if cores:
    os.sched_setaffinity(0, cores)


def _executor(
  name: str, folder: str, options: dict[str, Any]
) -> submitit.Executor:
  try:
    if name == "slurm":
      pool = submitit.SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)
    else:
      pool = submitit.LocalExecutor(folder)
    # The time limit in minutes: one day.
    pool.update_parameters(
      **{"time" if name == "slurm" else "timeout_min": 1440}
    )
    if name == "slurm":
      # Before the limit SLURM sends submitit's signal, SIGUSR2, on which a run
      # saves and submitit queues its job again.
      pool.update_parameters(job_name="alexnet_jax", **options)
  except (RuntimeError, ValueError) as error:
    raise UserError(f"--executor={name}: {error}") from None
  return pool


def _in_queue(job: submitit.Job) -> bool:
  """Whether SLURM still has a job; True if it does not answer."""
  words = ["squeue", "--noheader", "--format=%T", f"--jobs={job.job_id}"]
  try:
    found = subprocess.run(words, capture_output=True, text=True, timeout=60)
  except (OSError, subprocess.TimeoutExpired):
    return True
  if "Invalid job id" in found.stderr:
    return False
  return bool(found.returncode or found.stdout.strip())


def _outcome(
  name: str,
  job: submitit.Job,
  in_queue: Callable[[submitit.Job], bool] | None = None,
) -> str:
  """Waits for a job; "finished", or the last error that it printed.

  With `in_queue` it also waits no longer for a job that left the queue without
  a result, because it was cancelled or its node failed.
  """
  began = time.monotonic()
  print(f"{name} ...", file=sys.stderr, flush=True)
  while in_queue and not job.done():
    if not in_queue(job):
      time.sleep(QUEUE_SECONDS)  # for a result that is slow to arrive
      if not job.done():
        return _report(name, "left the queue without a result", began)
    time.sleep(QUEUE_SECONDS)
  try:
    output = job.results()[0]  # of the first process
  except Exception as error:  # the job failed, for whatever reason
    lines = [line for line in str(error).splitlines() if line.strip()]
    messages = re.findall(r"\berror: .+", str(error))  # within a traceback
    outcome = (messages or lines or ["died"])[-1]
  else:
    stopped = re.search("^stopped (after step|while)", output, re.MULTILINE)
    outcome = "stopped before its end" if stopped else "finished"
  return _report(name, outcome, began)


def _report(name: str, outcome: str, began: float) -> str:
  print(
    f"{name}: {outcome} ({time.monotonic() - began:.0f} s)",
    file=sys.stderr,
    flush=True,
  )
  return outcome


def launch(
  config: str,
  sweep: list[Override],
  output: str,
  executor: str = "local",
  options: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
  """Runs the unfinished runs of a sweep and collects the metrics of all.

  Args:
    config: path of the configuration.
    sweep: the overrides of each run.
    output: folder for the workdirs, `NAME/`, and `table.json`.
    executor: see `run_all`.
    options: see `run_all`.

  Returns:
    The table: for each run its `override`, `outcome`, last `step`, and the last
    metrics of `train` and `validation`.
  """
  root = pathlib.Path(output)
  names = [run_name(override) for override in sweep]
  if len(set(names)) < len(names):
    raise UserError("Two runs of the sweep are the same; remove one of them.")
  commands = {
    name: run_command(config, override, str(root / name))
    for name, override in zip(names, sweep, strict=True)
  }
  finished = {
    name: words
    for name, words in commands.items()
    if _mark(root, name).exists()
    and json.loads(_mark(root, name).read_text()) == words
  }
  for name in finished:
    print(f"{name}: already finished", file=sys.stderr)
  unfinished = {k: words for k, words in commands.items() if k not in finished}
  before = {name: status.read(root / name) for name in unfinished}
  outcomes = dict.fromkeys(finished, "finished") | run_all(
    unfinished, executor=executor, folder=str(root / "jobs"), options=options
  )
  for name in unfinished:
    # A status that has not changed is of an earlier attempt.
    if status.read(root / name) != before[name]:
      outcomes[name] = status.last_attempt(root / name) or outcomes[name]
  for name, outcome in outcomes.items():
    if outcome == "finished":
      files.write_atomic(str(_mark(root, name)), json.dumps(commands[name]))
  table = [
    {"override": override, "outcome": outcomes[name]} | collect(root / name)
    for name, override in zip(names, sweep, strict=True)
  ]
  files.write_atomic(str(root / "table.json"), json.dumps(table, indent=1))
  return table


def _mark(root: pathlib.Path, name: str) -> pathlib.Path:
  return root / "jobs" / f"{name}.finished"


def collect(workdir: pathlib.Path) -> dict[str, Any]:
  """The last step of a run, and the last metrics of each split."""
  lines = metrics.read(str(workdir))
  last = {line["split"]: line for line in lines}
  return {"step": max((line["step"] for line in lines), default=0)} | {
    split: {key: line[key] for key in ("loss", "top1_error", "top5_error")}
    for split, line in last.items()
  }


def print_table(rows: list[dict[str, Any]]) -> None:
  """One line a run."""
  table = Table(
    "run", "outcome", "step", "train loss", "validation loss", "top-1", "top-5"
  )
  for row in rows:
    validation = row.get("validation", {})
    table.add_row(
      run_name(row["override"]),
      row["outcome"],
      str(row["step"]),
      *(
        f"{values[key]:{form}}" if values else ""
        for values, key, form in (
          (row.get("train", {}), "loss", ".4f"),
          (validation, "loss", ".4f"),
          (validation, "top1_error", ".2%"),
          (validation, "top5_error", ".2%"),
        )
      ),
    )
  Console().print(table)


def _options(texts: list[str]) -> dict[str, Any]:
  """["time=240", "partition=gpu"] -> {"time": 240, "partition": "gpu"}."""
  options = {}
  for text in texts:
    key, equals, value = text.partition("=")
    if not equals:
      raise UserError(
        f"--slurm: {text!r} has no value; write NAME=VALUE, such as time=240"
      )
    try:
      options[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      options[key] = value
  return options


def main() -> int:
  flag = flags.FLAGS
  configs.load(flag.config)  # so that a mistake ends this command, not a job
  sweep = load_sweep(flag.sweep)
  output = flag.output or f"runs/{pathlib.Path(flag.sweep).stem}"
  rows = launch(flag.config, sweep, output, flag.executor, _options(flag.slurm))
  print_table(rows)
  return 0 if all(row["outcome"] == "finished" for row in rows) else 1


if __name__ == "__main__":
  flags.DEFINE_string(
    "config", None, "configuration of all runs", required=True
  )
  paths.DEFINE_path(
    "sweep", None, "JSON file with the overrides of each run", required=True
  )
  paths.DEFINE_output_folder(
    "output", "", "folder for the runs; default runs/NAME of the sweep"
  )
  flags.DEFINE_enum(
    "executor", "local", EXECUTORS, "where the runs are trained"
  )
  flags.DEFINE_list("slurm", [], "NAME=VALUE,...: options of sbatch")
  command.run(main)
