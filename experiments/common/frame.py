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
from ml_collections import ConfigDict

from alexnet_jax.model import sharding
from alexnet_jax.runtime import (
  command,
  files,
  paths,
  processes,
  provenance,
  values,
)
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.progress import waiting
from alexnet_jax.training import metrics
from alexnet_jax.training.divergence import Diverged
from alexnet_jax.training.loop import train_and_evaluate
from experiments.common import contrasts, side_by_side
from experiments.common.configuration import configure
from experiments.common.experiment import Experiment, Options, Result, Run
from experiments.common.outcome import DIVERGED, OUTCOME, Outcome, Outcomes

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
    if options.parallel == 1 and not options.analyse:
      _make_devices(experiment, runs, options)
    seeds = range(_count_seeds(experiment, options))
    if experiment.trial and not (options.quick or options.analyse):
      runs = _try_out(experiment, runs, outcomes, options)
    if options.parallel > 1 and not options.analyse:
      names = [run_name(run, seed) for seed in seeds for run in runs]
      side_by_side.train(experiment, names, options)
    if options.analyse:
      return _analyse(experiment, runs, seeds, options)
    for seed in seeds:
      for run in runs:
        earlier = outcomes.get(run.name, [])[:seed]  # without the trial's
        outcomes[run.name] = [*earlier, train(experiment, run, seed, options)]
      result = _measure(experiment, outcomes)
      record = _make_record(experiment, outcomes, result, options)
      _write(experiment, outcomes, record, options)
    if options.quick:
      experiment.quick.check(outcomes, result)
    return record


def _make_devices(
  experiment: Experiment, runs: Sequence[Run], options: Options
) -> None:
  """Divides the CPU for the largest mesh, before a smaller one needs fewer."""
  configurations = (configure(experiment, run, 0, options) for run in runs)
  largest = max(configurations, key=lambda config: _count_devices(config.mesh))
  sharding.make_mesh(
    largest.mesh.data, largest.mesh.model, towers=largest.network.towers
  )


def _count_devices(mesh: ConfigDict) -> int:
  """What a mesh needs; 0 as its size takes what there is, two by default."""
  return mesh.data * mesh.model or max(2, mesh.data, mesh.model)


def run_name(run: Run, seed: int) -> str:
  """The name of one run with one seed, and of its workdir."""
  return f"{run.name}-{seed}"


def _measure(experiment: Experiment, outcomes: Outcomes) -> Result:
  """The result of the analysis, with the contrasts if there are any."""
  result = experiment.analysis.measure(outcomes)
  if experiment.contrasts:
    arms = experiment.analysis.arms(outcomes)
    result["contrasts"] = contrasts.compare(experiment.contrasts, arms)
  return result


def _analyse(
  experiment: Experiment,
  runs: Sequence[Run],
  seeds: Sequence[int],
  options: Options,
) -> dict[str, Any]:
  """The record of the runs that are finished.

  Raises:
    UserError: no run is finished.
  """
  outcomes = Outcomes()
  for run in runs:
    found = [
      _outcome(experiment, run, seed, options)
      for seed in seeds
      if pathlib.Path(options.output, run_name(run, seed), OUTCOME).exists()
    ]
    if found:
      outcomes[run.name] = found
  if not outcomes:
    raise UserError(
      f"--analyse: no run of {experiment.name} is finished in"
      f" {options.output}. Give the --output of its trainings."
    )
  result = _measure(experiment, outcomes)
  record = _make_record(experiment, outcomes, result, options)
  _write(experiment, outcomes, record, options)
  return record


def train(
  experiment: Experiment, run: Run, seed: int, options: Options
) -> Outcome:
  """Trains one run with one seed, or continues it; its output is in log.txt.

  A run whose parameters become non-finite ends there: that is its outcome. The
  workdir of a finished run has a summary, `outcome.json`.

  Raises:
    KeyboardInterrupt: a signal ended the training; it has been saved.
  """
  print(f"{experiment.name}: {run.name}, seed {seed}", flush=True)
  config = configure(experiment, run, seed, options)

  def outcome() -> Outcome:
    return _outcome(experiment, run, seed, options)

  def is_finished() -> bool:
    return bool(outcome().diverged) or experiment.stop_early(outcome())

  workdir = pathlib.Path(outcome().workdir)
  pathlib.Path(options.output).mkdir(parents=True, exist_ok=True)
  with (
    open(pathlib.Path(options.output, "log.txt"), "a") as log,
    contextlib.redirect_stdout(log),
    waiting(f"training {run_name(run, seed)}"),
  ):
    try:
      if not (
        is_finished() or train_and_evaluate(config, str(workdir), is_finished)
      ):
        raise KeyboardInterrupt
    except Diverged as error:
      print(error)
      text = json.dumps({"message": str(error)}) + "\n"
      files.write_atomic(workdir / DIVERGED, text)
  _write_summary(experiment, outcome())
  return outcome()


def _outcome(
  experiment: Experiment, run: Run, seed: int, options: Options
) -> Outcome:
  """What the run has written so far."""
  config = configs.to_json(configure(experiment, run, seed, options))
  workdir = f"{options.output}/{run_name(run, seed)}"
  return Outcome(run.name, seed, workdir, config, metrics.read(workdir))


def _last_line(outcome: Outcome) -> dict[str, Any]:
  """The last line of metrics; a run can diverge before it writes one."""
  return outcome.lines[-1] if outcome.lines else {"epoch": 0.0, "seconds": 0.0}


def _write_summary(experiment: Experiment, outcome: Outcome) -> None:
  """Writes a finished run in a few numbers; errors if contrasts need them."""
  path = pathlib.Path(outcome.workdir, OUTCOME)
  last = _last_line(outcome)
  if path.exists() and json.loads(path.read_text())["epoch"] == last["epoch"]:
    return
  summary = {
    "experiment": experiment.name,
    "run": outcome.name,
    "seed": outcome.seed,
    "epoch": last["epoch"],
    "seconds": last["seconds"],
    "diverged": outcome.diverged,
    "commit": provenance.git_commit(),
    "hardware": provenance.hardware(),
  }
  if experiment.contrasts:
    summary |= {
      "test_top1_error": outcome.error("test"),
      "train_top1_error": outcome.error("train"),
      "died": outcome.died,
    }
  files.write_atomic(path, json.dumps(summary, indent=1) + "\n")


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
  if options.parallel > 1:
    names = [run_name(run, 0) for run in runs]
    side_by_side.train(experiment, names, short)
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
      name: [_last_line(outcome)["epoch"] for outcome in repeats]
      for name, repeats in outcomes.items()
    },
    "date": datetime.date.today().isoformat(),
    "trainings": _summaries(outcomes),
    "in_words": _describe(experiment, result),
    "claims": {} if options.quick else analysis.claims(result),
  }
  return json.loads(json.dumps(record))


def _summaries(outcomes: Outcomes) -> list[dict[str, Any]]:
  """The summaries of all trainings: errors, deaths, seconds, commits."""
  paths = (
    pathlib.Path(outcome.workdir, OUTCOME)
    for repeats in outcomes.values()
    for outcome in repeats
  )
  return [json.loads(path.read_text()) for path in paths if path.exists()]


def _describe(experiment: Experiment, result: Result) -> str:
  """The contrasts, which are the question, before anything else."""
  if experiment.contrasts:
    return contrasts.describe(result["contrasts"])
  return experiment.analysis.describe(result)


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
  rows = 2 if experiment.contrasts else 1
  figure = Figure(figsize=(7, 4.5 * rows), layout="constrained")
  first, *rest = figure.subplots(rows, squeeze=False)[:, 0]
  experiment.analysis.draw(outcomes, first)
  for axes in rest:
    contrasts.draw(record["result"]["contrasts"], axes)
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
  paths.DEFINE_output_folder(
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
  paths.DEFINE_output(
    "record", "", "copy the result to this .json, its figure to the .svg"
  )
  flags.DEFINE_integer(
    "parallel", 1, "trainings at a time, each on its share of the cores", 1
  )
  flags.DEFINE_bool("analyse", False, "train nothing, use the finished runs")
  flags.DEFINE_string(
    "train", "", "train this run with this seed, such as paper-0, and stop"
  )
  flags.DEFINE_enum(
    "stage", "", ["", *experiment.stages], "overrides for a smaller machine"
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
  suffix = "-quick" if flag.quick else flag.stage and f"-{flag.stage}"
  options = Options(
    output=flag.output or f"runs/{experiment.name}{suffix}",
    quick=flag.quick,
    seeds=flag.seeds,
    overrides={
      **experiment.stages.get(flag.stage, {}),
      **dict(map(_parse_override, flag.set)),
    },
    only=flag.runs,
    record=flag.record,
    parallel=flag.parallel,
    analyse=flag.analyse,
  )
  for run in experiment.runs:  # a mistake in --set ends all of them now
    values.check(configure(experiment, run, 0, options).to_dict())
  if flag.train:
    train(experiment, *_parse_run(experiment, flag.train), options)
    return
  record = carry_out(experiment, options)
  print(json.dumps(record["result"], indent=1))
  print(f"wrote runs.jsonl, result.json and figure.svg to {options.output}")


def _parse_run(experiment: Experiment, text: str) -> tuple[Run, int]:
  """ "paper-0" -> the run "paper" and the seed 0."""
  name, _, seed = text.rpartition("-")
  for run in experiment.runs:
    if run.name == name and seed.isdecimal():
      return run, int(seed)
  raise UserError(
    f"--train={text} is not a run with its seed, such as"
    f" {run_name(experiment.runs[0], 0)}."
  )


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
