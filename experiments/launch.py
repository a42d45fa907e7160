"""Sweeps: one spec, many runs, on this machine or on a SLURM cluster.

  python -m experiments.launch --config=configs/quickstart.py
      --sweep=experiments/sweeps/seeds.json [--executor=local|slurm]
      [--output=runs/seeds] [--slurm=partition=gpu,gpus_per_node=2,time=240]

The spec is a JSON list of overrides, one run each: [{"seed": 0}, {"seed": 1}].
A run is `python -m alexnet_jax.main` in a workdir of its own, so what was
interrupted goes on and what is finished is left alone when the same command is
given again. At the end all metrics.jsonl are one table, table.json.
"""

import ast
import json
import pathlib
import re
import sys
import time
from typing import Any

import submitit
from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.runtime import command, files
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import metrics

EXECUTORS = ("local", "slurm")
Override = dict[str, Any]


def load_sweep(path: str) -> list[Override]:
  """The overrides of a spec.

  Raises:
    UserError: no such file, or it is no JSON list of objects.
  """
  try:
    sweep = json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"--sweep={path} cannot be read: {error}") from None
  if not isinstance(sweep, list) or not all(isinstance(x, dict) for x in sweep):
    raise UserError(
      f"--sweep={path} is no list of overrides, one object a run, such as"
      ' [{"seed": 0}, {"seed": 1, "network.width": 0.5}].'
    )
  return sweep


def run_name(override: Override) -> str:
  """A folder's name: {"seed": 1, "network.width": 0.5} -> network.width=0.5,...

  Keys are sorted, so the order in the spec does not matter.
  """
  text = ",".join(f"{key}={override[key]}" for key in sorted(override))
  return re.sub(r"[^\w.,=+-]", "_", text) or "unchanged"


def run_command(config: str, override: Override, workdir: str) -> list[str]:
  """What one run executes; the same one resumes."""
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
) -> dict[str, str]:
  """Runs all commands as jobs and waits for them.

  Args:
    commands: by name.
    executor: "local": processes of this machine, one after the other; "slurm":
      all at once, as the cluster has room.
    folder: of the jobs' scripts and output.
    options: of the executor: submitit's names, such as `partition`, `time`
      (minutes) and `gpus_per_node`.

  Returns:
    By name, "finished" or what went wrong.

  Raises:
    UserError: there is no SLURM here, or it does not know an option.
  """
  jobs = {}
  outcomes = {}
  pool = _executor(executor, folder, options or {})
  for name, words in commands.items():
    jobs[name] = pool.submit(submitit.helpers.CommandFunction(words))
    if executor == "local":  # or they would share the cores
      outcomes[name] = _outcome(name, jobs[name])
  for name, job in jobs.items():
    outcomes.setdefault(name, "")
    outcomes[name] = outcomes[name] or _outcome(name, job)
  return outcomes


def _executor(
  name: str, folder: str, options: dict[str, Any]
) -> submitit.Executor:
  kind = {"local": submitit.LocalExecutor, "slurm": submitit.SlurmExecutor}
  try:
    pool = kind[name](folder=folder)
    # A day; SLURM counts minutes, and so does the local executor.
    pool.update_parameters(
      **{"time" if name == "slurm" else "timeout_min": 1440}
    )
    if name == "slurm":
      # submitit's own signal comes before SIGTERM: a run saves on the latter.
      pool.update_parameters(job_name="alexnet_jax", **options)
  except (RuntimeError, ValueError) as error:
    raise UserError(f"--executor={name}: {error}") from None
  return pool


def _outcome(name: str, job: submitit.Job) -> str:
  began = time.monotonic()
  print(f"{name} ...", file=sys.stderr, flush=True)
  try:
    said = job.result()
  except Exception as error:  # whatever the job died of
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = re.findall(r"\berror: .+", str(error))  # amid a trace
    outcome = (told or lines or ["died"])[-1]
  else:
    stopped = re.search("^stopped (after step|while)", said, re.MULTILINE)
    outcome = "stopped before its end" if stopped else "finished"
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
  """Runs what of a sweep is not finished and collects all of it.

  Args:
    config: path of the configuration.
    sweep: of overrides, one run each.
    output: folder of the workdirs, `NAME/`, and of `table.json`.
    executor: see `run_all`.
    options: see `run_all`.

  Returns:
    The table: for each run its `override`, `outcome`, last `step` and the last
    figures of `train` and `validation`.
  """
  root = pathlib.Path(output)
  names = [run_name(override) for override in sweep]
  if len(set(names)) < len(names):
    raise UserError("two runs of the sweep are the same; remove one of them.")
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
    print(f"{name}: finished before", file=sys.stderr)
  outcomes = dict.fromkeys(finished, "finished") | run_all(
    {k: words for k, words in commands.items() if k not in finished},
    executor=executor,
    folder=str(root / "jobs"),
    options=options,
  )
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
  """The last line of each split in a run's metrics.jsonl, and its step."""
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
      raise UserError(f"--slurm: {text!r} is no NAME=VALUE")
    try:
      options[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      options[key] = value
  return options


def main() -> int:
  flag = flags.FLAGS
  configs.load(flag.config)  # a mistake in it is told once, not by every run
  sweep = load_sweep(flag.sweep)
  output = flag.output or f"runs/{pathlib.Path(flag.sweep).stem}"
  rows = launch(flag.config, sweep, output, flag.executor, _options(flag.slurm))
  print_table(rows)
  return 0 if all(row["outcome"] == "finished" for row in rows) else 1


if __name__ == "__main__":
  flags.DEFINE_string("config", None, "of all runs", required=True)
  flags.DEFINE_string("sweep", None, "JSON list of overrides", required=True)
  flags.DEFINE_string("output", "", "default: runs/NAME of the spec")
  flags.DEFINE_enum("executor", "local", EXECUTORS, "where the runs are done")
  flags.DEFINE_list("slurm", [], "sbatch's options, NAME=VALUE")
  command.run(main)
