"""What all experiments share: runs, their outcomes, a check, a record.

An experiment is a question, the runs that answer it, and what is made of them.
A run is a configuration with overrides; its workdir is OUTPUT/NAME-SEED, so
what was interrupted goes on, and what is finished is left alone.
"""

import contextlib
import datetime
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from alexnet_jax.model import network as networks
from alexnet_jax.runtime import command, files, processes, provenance
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import metrics
from alexnet_jax.training.train import train_and_evaluate
from experiments.outcome import (
  Outcome,
  Outcomes,
  draw_curves,
  in_words,
  summary,
)

# The same figure is the same file.
matplotlib.rcParams["svg.hashsalt"] = "alexnet"


class Run(NamedTuple):
  """One training, repeated over seeds.

  Attributes:
    name: of the workdir, and in figure and table.
    config: of configs/.
    overrides: by dotted key, as for `alexnet_jax.main --config.KEY=VALUE`; in
      texts {output}, {run} and {seed} stand for what they are here.
  """

  name: str
  config: str
  overrides: Mapping[str, Any] = {}


class Experiment(NamedTuple):
  """One claim of the paper, or one sweep.

  Attributes:
    name: of its module and its results.
    question: that it answers, one sentence.
    runs: in full; `python -m experiments.NAME` trains them.
    check: asserts what must hold of `quick` outcomes and result; raises
      AssertionError.
    measure: makes the result of the outcomes.
    draw: draws it.
    claims: which numbers of the paper a full result answers, see
      `comparison.committed`: a function of the result.
    words: says a result in a sentence.
    quick: overrides beyond `QUICK` with --quick.
    quick_runs: names of the runs that --quick carries out; none: all.
    quick_data: writes into the output folder what --quick trains on, if that
      is not the embedded data as they are.
    seeds: runs of each in full.
    enough: says of a run as it stands whether it may end before its time.
    trial: overrides to try all runs with first, seed 0; none: no trial.
    choose: names of the runs that go on after the trial.
  """

  name: str
  question: str
  runs: Sequence[Run]
  check: Callable[[Outcomes, dict[str, Any]], None]
  measure: Callable[[Outcomes], dict[str, Any]] = summary
  draw: Callable[[Outcomes, Any], None] = draw_curves
  claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda result: {}
  words: Callable[[dict[str, Any]], str] = in_words
  quick: Mapping[str, Any] = {}
  quick_runs: Sequence[str] = ()
  quick_data: Callable[[str], None] = lambda output: None
  seeds: int = 1
  enough: Callable[[Outcome], bool] = lambda outcome: False
  trial: Mapping[str, Any] = {}
  choose: Callable[[Outcomes], Sequence[str]] = list


# Seconds of the embedded data: proves that it runs, not that it is so.
QUICK = {
  "dataset": "patterns/10",
  "data_dir": "",
  "num_classes": 10,
  "splits.train": "train[:512]",
  "splits.validation": "validation[:128]",
  "splits.test": "validation[:128]",
  "holdout": 0,
  "image_size": 104,
  "network.crop_size": 96,
  "network.width": 1 / 16,
  "batch_size": 32,
  "mesh.data": 1,  # the same on any number of devices
  "total_steps": 24,
  "log_every_steps": 1,
  "diagnose_every_lines": 0,
  "checkpoint_every_steps": 0,
}


def configure(
  experiment: Experiment,
  run: Run,
  output: str,
  seed: int,
  quick: bool,
  extra: dict,
) -> ConfigDict:
  """The configuration of one training.

  Narrow layers have fewer inputs: the deviation of their initial weights grows
  so that what a unit receives varies as in the whole network. A schedule cut
  by `total_epochs` in `extra` drops its rate at the same shares of it.
  """
  config = configs.load(run.config)
  fast = QUICK | dict(experiment.quick) if quick else {}
  for key, value in {"seed": seed, **run.overrides, **fast, **extra}.items():
    if isinstance(value, str):
      told = {"{output}": output, "{run}": run.name, "{seed}": str(seed)}
      for place, text in told.items():
        value = value.replace(place, text)
    group, _, name = key.rpartition(".")
    target = config
    try:
      for part in filter(None, group.split(".")):
        target = target[part]
      old = target[name]
      convert = isinstance(old, float | tuple)
      target[name] = type(old)(value) if convert else value
    except (KeyError, TypeError, ValueError):
      if key not in extra:  # the experiment's own mistake
        raise
      raise UserError(
        f"--set={key}={value}: {run.config} has no such key, or it takes other"
        " values. Compare configs/paper.py."
      ) from None
    if key == "total_epochs" and key in extra:
      share = value / old
      config.schedule.boundaries = tuple(
        epoch * share for epoch in config.schedule.boundaries
      )
      config.schedule.conv1_frozen_from *= share
      config.augmentation.lighting_until *= share
  if config.network.width < 1:
    for name in networks.LAYERS[1:-1]:
      config.network[name].std /= config.network.width**0.5
    config.network.fc8_std /= config.network.width**0.5
  return config


def carry_out(
  experiment: Experiment,
  output: str,
  *,
  quick: bool = False,
  seeds: int = 0,
  extra: Mapping[str, Any] | None = None,
  only: Sequence[str] = (),
  record: str = "",
) -> dict[str, Any]:
  """Trains what is missing, measures, checks, and writes it to `output`.

  All runs with one seed come before those with the next, and after each seed
  the result so far is written.

  Args:
    experiment: which.
    output: folder of the workdirs, `runs.jsonl`, `figure.svg`, `result.json`.
    quick: on the embedded data, at once.
    seeds: of each run; 0: as many as the experiment says.
    extra: overrides of every run.
    only: carry out the runs alone whose names begin with one of these.
    record: also write the result here, and the figure beside it.

  Returns:
    The record, as written to `result.json`.

  Raises:
    AssertionError: a quick result is not what must hold.
    UserError: the result needs a run that `only` leaves out.
  """
  with _compiled_fast() if quick else contextlib.nullcontext():
    return _carry_out(experiment, output, quick, seeds, extra, only, record)


def _carry_out(experiment, output, quick, seeds, extra, only, record):
  extra = dict(extra or {})
  options = {"quick": quick, "seeds": seeds, "extra": extra, "only": only}
  wanted = experiment.quick_runs if quick else ()
  runs = [
    run
    for run in experiment.runs
    if (not wanted or run.name in wanted)
    and (not only or run.name.startswith(tuple(only)))
  ]
  outcomes: Outcomes = {}
  if quick:
    experiment.quick_data(output)

  def train(run: Run, seed: int, overrides: dict[str, Any]) -> Outcome:
    print(f"{experiment.name}: {run.name}, seed {seed}", flush=True)
    return _train(experiment, run, output, seed, quick, extra | overrides)

  if experiment.trial and not quick:
    trial = dict(experiment.trial)
    outcomes |= {run.name: [train(run, 0, trial)] for run in runs}
    chosen = experiment.choose(outcomes)
    print(f"{experiment.name}: chosen {', '.join(chosen)}", flush=True)
    runs = [run for run in runs if run.name in chosen]
  for seed in range(1 if quick else seeds or experiment.seeds):
    for run in runs:
      before = outcomes.get(run.name, [])[:seed]  # without the trial's
      outcomes[run.name] = [*before, train(run, seed, {})]
    try:
      result = experiment.measure(outcomes)
      found = _record(experiment, outcomes, result, options)
    except KeyError as missing:
      left_out = {run.name for run in experiment.runs} - set(outcomes)
      if not only or missing.args[0] not in left_out:
        raise
      raise UserError(
        f"--runs={','.join(only)} leaves out {missing}, which the result of"
        f" {experiment.name} needs. What was trained is kept in {output}; the"
        " same command without --runs trains the rest."
      ) from None
    _write(experiment, outcomes, found, output)
    if record:
      _keep(output, record)
  if quick:
    experiment.check(outcomes, result)
  return found


@contextlib.contextmanager
def _compiled_fast():
  """Leaves out XLA's optimisations, which take longer than a few steps do."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", before)


def _train(
  experiment: Experiment,
  run: Run,
  output: str,
  seed: int,
  quick: bool,
  extra: dict[str, Any],
) -> Outcome:
  """Carries out a run with one seed, or what is missing of it."""
  config = configure(experiment, run, output, seed, quick, extra)
  workdir = f"{output}/{run.name}-{seed}"

  def outcome() -> Outcome:
    lines = metrics.read(workdir)
    return Outcome(run.name, seed, workdir, configs.to_json(config), lines)

  def enough() -> bool:
    return experiment.enough(outcome())

  pathlib.Path(output).mkdir(parents=True, exist_ok=True)
  with (
    open(pathlib.Path(output, "log.txt"), "a") as log,
    contextlib.redirect_stdout(log),
  ):
    if not (enough() or train_and_evaluate(config, workdir, enough)):
      raise KeyboardInterrupt  # it has said how to go on
  return outcome()


def _record(experiment, outcomes, result, options) -> dict[str, Any]:
  record = provenance.record(
    experiment.question,
    _command(experiment.name, **options),
    result,
    seed=sorted({one.seed for each in outcomes.values() for one in each}),
  )
  record |= {
    "experiment": experiment.name,
    "quick": options["quick"],
    "configs": {run.name: run.config for run in experiment.runs},
    "epochs": {
      name: [one.lines[-1]["epoch"] for one in each]
      for name, each in outcomes.items()
    },
    "date": datetime.date.today().isoformat(),
    "in_words": experiment.words(result),
    "claims": {} if options["quick"] else experiment.claims(result),
  }
  return json.loads(json.dumps(record))  # as whoever reads it will have it


def _command(name, quick, seeds, extra, only) -> str:
  """The command line, without the paths of one machine."""
  words = [f"python -m experiments.{name}"]
  words += ["--quick"] * quick + [f"--seeds={seeds}"] * bool(seeds)
  words += [f"--runs={','.join(only)}"] * bool(only)
  told = extra | ({"data_dir": "DIR"} if "data_dir" in extra else {})
  pairs = ",".join(f"{key}={value}" for key, value in told.items())
  return " ".join(words + [f"--set={pairs}"] * bool(told))


def _write(experiment, outcomes, record, output) -> None:
  rows = [
    {"run": one.name, "seed": one.seed, "workdir": one.workdir, **line}
    for each in outcomes.values()
    for one in each
    for line in one.lines
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  files.write_atomic(f"{output}/runs.jsonl", text)
  files.write_atomic(
    f"{output}/result.json", json.dumps(record, indent=1) + "\n"
  )
  figure = Figure(figsize=(7, 4.5), layout="constrained")
  experiment.draw(outcomes, figure.subplots())
  figure.savefig(f"{output}/figure.svg", metadata={"Date": None})


def _keep(output: str, record: str) -> None:
  """Result and figure as evidence, in the file named and beside it."""
  for name, suffix in (("result.json", ".json"), ("figure.svg", ".svg")):
    text = pathlib.Path(output, name).read_text()
    files.write_atomic(str(pathlib.Path(record).with_suffix(suffix)), text)


def main(experiment: Experiment) -> None:
  """The command of an experiment's module."""
  flags.DEFINE_bool("quick", False, "prove on the embedded data that it runs")
  flags.DEFINE_string("output", "", "folder; default runs/NAME")
  flags.DEFINE_integer("seeds", 0, "runs of each; 0: the experiment's number")
  flags.DEFINE_list("set", [], "KEY=VALUE,... overrides of every run")
  flags.DEFINE_list(
    "runs", [], "only those whose names begin with one of these"
  )
  flags.DEFINE_string(
    "record", "", "also keep the result in this .json, the figure beside it"
  )
  command.run(lambda: _main(experiment))


def _main(experiment: Experiment) -> None:
  flag = flags.FLAGS
  processes.configure()
  extra = {}
  for text in flag.set:
    key, equals, value = text.partition("=")
    if not equals:
      raise UserError(f"--set={text}: say KEY=VALUE: network.width=0.25")
    try:
      extra[key] = json.loads(value)
    except ValueError:
      extra[key] = value
  suffix = "-quick" if flag.quick else ""
  output = flag.output or f"runs/{experiment.name}{suffix}"
  known = [run.name for run in experiment.runs]
  for start in flag.runs:
    if not any(name.startswith(start) for name in known):
      raise UserError(f"--runs={start}: none of {', '.join(known)} begins so")
  record = carry_out(
    experiment,
    output,
    quick=flag.quick,
    seeds=flag.seeds,
    extra=extra,
    only=flag.runs,
    record=flag.record,
  )
  print(json.dumps(record["result"], indent=1))
  print(f"{output}: runs.jsonl, figure.svg, result.json")
