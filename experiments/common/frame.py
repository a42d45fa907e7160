"""Carries out an experiment: trains its runs, measures, checks and writes.

The workdir of a run is OUTPUT/NAME-SEED. The same command continues what was
interrupted and does not repeat what is finished.
"""

import contextlib
import datetime
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import matplotlib
from absl import flags
from matplotlib.figure import Figure

from alexnet_jax.runtime import command, files, paths, processes, provenance
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import metrics
from alexnet_jax.training.loop import train_and_evaluate
from experiments.common.configuration import configure
from experiments.common.experiment import Experiment, Options, Result, Run
from experiments.common.outcome import Outcome, Outcomes

# --help lists these flags as the experiment's own.
flags.disclaim_key_flags()

# With a fixed salt the same figure is the same file.
matplotlib.rcParams["svg.hashsalt"] = "alexnet"


def carry_out(experiment: Experiment, options: Options) -> dict[str, Any]:
  """Trains what is missing and writes runs.jsonl, result.json and figure.svg.

  All runs with one seed come before those with the next; what is written is
  complete after every seed.

  Returns:
    The record, as written to `result.json`.

  Raises:
    AssertionError: the check of `--quick` fails.
    UserError: the result needs a run that `options.only` leaves out, or a run
      cannot be trained as configured.
  """
  with _without_optimisations() if options.quick else contextlib.nullcontext():
    if options.quick:
      experiment.quick.prepare_data(options.output)
    outcomes = Outcomes()
    runs = _select(experiment, options)
    if experiment.trial and not options.quick:
      runs = _try_out(experiment, runs, outcomes, options)
    for seed in range(_count_seeds(experiment, options)):
      for run in runs:
        earlier = outcomes.get(run.name, [])[:seed]  # without the trial's
        outcomes[run.name] = [*earlier, train(experiment, run, seed, options)]
      result = experiment.analysis.measure(outcomes)
      record = _make_record(experiment, outcomes, result, options)
      _write(experiment, outcomes, record, options)
    if options.quick:
      experiment.quick.check(outcomes, result)
    return record


def train(
  experiment: Experiment, run: Run, seed: int, options: Options
) -> Outcome:
  """Trains one run with one seed, or continues it; its output is in log.txt.

  Raises:
    KeyboardInterrupt: a signal ended the training; it has been saved.
  """
  print(f"{experiment.name}: {run.name}, seed {seed}", flush=True)
  config = configure(experiment, run, seed, options)
  workdir = f"{options.output}/{run.name}-{seed}"

  def outcome() -> Outcome:
    lines = metrics.read(workdir)
    return Outcome(run.name, seed, workdir, configs.to_json(config), lines)

  def stop_early() -> bool:
    return experiment.stop_early(outcome())

  pathlib.Path(options.output).mkdir(parents=True, exist_ok=True)
  with (
    open(pathlib.Path(options.output, "log.txt"), "a") as log,
    contextlib.redirect_stdout(log),
  ):
    if not (stop_early() or train_and_evaluate(config, workdir, stop_early)):
      raise KeyboardInterrupt
  return outcome()


def _select(experiment: Experiment, options: Options) -> list[Run]:
  """The runs that the options ask for."""
  wanted = experiment.quick.runs if options.quick else ()
  return [
    run
    for run in experiment.runs
    if (not wanted or run.name in wanted)
    and (not options.only or run.name.startswith(tuple(options.only)))
  ]


def _count_seeds(experiment: Experiment, options: Options) -> int:
  return 1 if options.quick else options.seeds or experiment.seeds


def _try_out(
  experiment: Experiment,
  runs: Sequence[Run],
  outcomes: Outcomes,
  options: Options,
) -> list[Run]:
  """Carries out the trial, adds its outcomes, and returns the chosen runs."""
  overrides = {**options.overrides, **experiment.trial.overrides}
  short = options._replace(overrides=overrides)
  for run in runs:
    outcomes[run.name] = [train(experiment, run, 0, short)]
  chosen = experiment.trial.choose(outcomes)
  print(f"{experiment.name}: continuing {', '.join(chosen)}", flush=True)
  return [run for run in runs if run.name in chosen]


@contextlib.contextmanager
def _without_optimisations():
  """Disables XLA's optimisations, which take longer than a few steps."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", before)


def _make_record(
  experiment: Experiment, outcomes: Outcomes, result: Result, options: Options
) -> dict[str, Any]:
  """The result with its origin, as JSON reads it back."""
  analysis = experiment.analysis
  record = provenance.record(
    experiment.question,
    options.command(experiment.name),
    result,
    seed=sorted(
      {outcome.seed for repeats in outcomes.values() for outcome in repeats}
    ),
  )
  record |= {
    "experiment": experiment.name,
    "quick": options.quick,
    "configs": {run.name: run.config for run in experiment.runs},
    "epochs": {
      name: [outcome.lines[-1]["epoch"] for outcome in repeats]
      for name, repeats in outcomes.items()
    },
    "date": datetime.date.today().isoformat(),
    "in_words": analysis.describe(result),
    "claims": {} if options.quick else analysis.claims(result),
  }
  return json.loads(json.dumps(record))


def _write(
  experiment: Experiment,
  outcomes: Outcomes,
  record: dict[str, Any],
  options: Options,
) -> None:
  """Writes all metrics, the record and the figure, and copies for --record."""
  output = pathlib.Path(options.output)
  rows = [
    {
      "run": outcome.name,
      "seed": outcome.seed,
      "workdir": outcome.workdir,
      **line,
    }
    for repeats in outcomes.values()
    for outcome in repeats
    for line in outcome.lines
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  files.write_atomic(str(output / "runs.jsonl"), text)
  text = json.dumps(record, indent=1) + "\n"
  files.write_atomic(str(output / "result.json"), text)
  figure = Figure(figsize=(7, 4.5), layout="constrained")
  experiment.analysis.draw(outcomes, figure.subplots())
  figure.savefig(output / "figure.svg", metadata={"Date": None})
  if options.record:
    for name, suffix in (("result.json", ".json"), ("figure.svg", ".svg")):
      copy = pathlib.Path(options.record).with_suffix(suffix)
      files.write_atomic(str(copy), (output / name).read_text())


def main(experiment: Experiment) -> None:
  """The command of an experiment's module."""
  flags.DEFINE_bool(
    "quick", False, "train for a few steps on embedded images and check"
  )
  paths.DEFINE_path(
    "output", "", "folder for runs and results; default runs/NAME"
  )
  flags.DEFINE_integer(
    "seeds", 0, "number of seeds of each run; 0: the experiment's own", 0
  )
  flags.DEFINE_list(
    "set", [], "KEY=VALUE,...: overrides of the configuration of every run"
  )
  flags.DEFINE_list(
    "runs", [], "carry out only runs whose names begin with one of these"
  )
  paths.DEFINE_path(
    "record", "", "copy the result to this .json, its figure to the .svg"
  )
  command.run(lambda: _main(experiment))


def _main(experiment: Experiment) -> None:
  flag = flags.FLAGS
  processes.configure()
  known = [run.name for run in experiment.runs]
  for start in flag.runs:
    if not any(name.startswith(start) for name in known):
      raise UserError(
        f"--runs={start}: no run begins with it. The runs are"
        f" {', '.join(known)}."
      )
  suffix = "-quick" if flag.quick else ""
  options = Options(
    output=flag.output or f"runs/{experiment.name}{suffix}",
    quick=flag.quick,
    seeds=flag.seeds,
    overrides=dict(map(_parse_override, flag.set)),
    only=flag.runs,
    record=flag.record,
  )
  record = carry_out(experiment, options)
  print(json.dumps(record["result"], indent=1))
  print(f"wrote runs.jsonl, result.json and figure.svg to {options.output}")


def _parse_override(text: str) -> tuple[str, Any]:
  """ "network.width=0.25" -> ("network.width", 0.25)."""
  key, equals, value = text.partition("=")
  if not equals:
    raise UserError(
      f"--set={text} has no value; write KEY=VALUE, such as network.width=0.25"
    )
  try:
    return key, json.loads(value)
  except ValueError:
    return key, value
