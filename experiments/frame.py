"""What all experiments share: runs, their outcomes, a check, a record.

An experiment is a question, the runs that answer it, and what is made of them.
A run is a configuration with overrides; its workdir is OUTPUT/NAME-SEED, so
what was interrupted goes on, and what is finished is left alone.
"""

import contextlib
import datetime
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from alexnet_jax import command, evaluate, files, metrics, provenance
from alexnet_jax import config as configs
from alexnet_jax import network as networks
from alexnet_jax.command import UserError
from alexnet_jax.model import AlexNet
from alexnet_jax.sharding import make_mesh
from alexnet_jax.train import train_and_evaluate

# The same figure is the same file.
matplotlib.rcParams["svg.hashsalt"] = "alexnet"


class Run(NamedTuple):
  """One training, repeated over seeds.

  Attributes:
    name: of the workdir, and in figure and table.
    config: of configs/.
    overrides: by dotted key, as for `alexnet_jax.main --config.KEY=VALUE`; in
      texts {output} and {seed} stand for the experiment's.
  """

  name: str
  config: str
  overrides: Mapping[str, Any] = {}


class Outcome(NamedTuple):
  """What came of a run with one seed.

  Attributes:
    name, seed, workdir: which.
    config: of the run.
    lines: of its metrics.jsonl.
  """

  name: str
  seed: int
  workdir: str
  config: dict[str, Any]
  lines: list[dict[str, Any]]

  def train(self, key: str) -> list[float]:
    """A number of every training line."""
    return [line[key] for line in self.lines if line["split"] == "train"]

  def last(self, key: str) -> float:
    """A number of the last validation line."""
    lines = [line for line in self.lines if line["split"] == "validation"]
    return lines[-1][key]

  def final(self, key: str) -> float:
    """The mean of a number over the last tenth of the training lines."""
    values = self.train(key)
    return statistics.fmean(values[-max(1, len(values) // 10) :])


Outcomes = dict[str, list[Outcome]]


def summary(outcomes: Outcomes) -> dict[str, Any]:
  """The last errors of every run, over its seeds: mean and each."""
  result = {}
  for name, each in outcomes.items():
    values = {
      "validation_top1_error": [one.last("top1_error") for one in each],
      "validation_top5_error": [one.last("top5_error") for one in each],
      "train_top1_error": [one.final("top1_error") for one in each],
      "train_loss": [one.final("loss") for one in each],
    }
    result[name] = {"seeds": [one.seed for one in each]} | {
      key: {"mean": statistics.fmean(found), "each": found}
      for key, found in values.items()
    }
  return result


def in_words(result: dict[str, Any]) -> str:
  """A summary as one sentence."""
  runs = result.get("runs", result)
  return "; ".join(
    f"{name}: validation top-1 error"
    f" {values['validation_top1_error']['mean']:.1%}, training"
    f" {values['train_top1_error']['mean']:.1%}"
    for name, values in runs.items()
  )


def draw_curves(outcomes: Outcomes, axes) -> None:
  """Training error, thin, and validation error over epochs, a colour a run."""
  for colour, (name, each) in enumerate(outcomes.items()):
    for one in each:
      for split, width in (("train", 0.6), ("validation", 1.8)):
        lines = [line for line in one.lines if line["split"] == split]
        axes.plot(
          [line["epoch"] for line in lines],
          [line["top1_error"] for line in lines],
          color=f"C{colour}",
          linewidth=width,
          label=name if split == "validation" and one is each[0] else None,
        )
  axes.set(xlabel="epoch", ylabel="top-1 error (thin: training batches)")
  axes.legend()


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
    seeds: runs of each in full.
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
  seeds: int = 1


# A few seconds of the embedded data: proves that it runs, not that it is so.
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
  so that what a unit receives varies as in the whole network.
  """
  config = configs.load(run.config)
  fast = QUICK | dict(experiment.quick) if quick else {}
  for key, value in {"seed": seed, **run.overrides, **fast, **extra}.items():
    if isinstance(value, str):
      value = value.replace("{output}", output).replace("{seed}", str(seed))
    group, _, name = key.rpartition(".")
    target = config
    for part in filter(None, group.split(".")):
      target = target[part]
    old = target[name]
    target[name] = type(old)(value) if isinstance(old, float | tuple) else value
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
) -> dict[str, Any]:
  """Trains what is missing, measures, checks, and writes it to `output`.

  Args:
    experiment: which.
    output: folder of the workdirs, `runs.jsonl`, `figure.svg`, `result.json`.
    quick: on the embedded data, at once.
    seeds: of each run; 0: as many as the experiment says.
    extra: overrides of every run.

  Returns:
    The record, as written to `result.json`.

  Raises:
    AssertionError: a quick result is not what must hold.
  """
  outcomes: Outcomes = {}
  chosen = experiment.quick_runs if quick else ()
  for run in experiment.runs:
    if chosen and run.name not in chosen:
      continue
    for seed in range(1 if quick else seeds or experiment.seeds):
      config = configure(
        experiment, run, output, seed, quick, dict(extra or {})
      )
      workdir = f"{output}/{run.name}-{seed}"
      print(f"{experiment.name}: {run.name}, seed {seed}", flush=True)
      with (
        open(pathlib.Path(_made(output), "log.txt"), "a") as log,
        contextlib.redirect_stdout(log),
      ):
        train_and_evaluate(config, workdir)
      outcome = Outcome(
        run.name, seed, workdir, configs.to_json(config), metrics.read(workdir)
      )
      outcomes.setdefault(run.name, []).append(outcome)
  result = experiment.measure(outcomes)
  record: dict[str, Any] = {
    "experiment": experiment.name,
    "what": experiment.question,
    "quick": quick,
    "configs": {run.name: run.config for run in experiment.runs},
    "epochs": {
      name: [one.lines[-1]["epoch"] for one in each]
      for name, each in outcomes.items()
    },
    "overrides": dict(extra or {}),
    "hardware": provenance.hardware(),
    "versions": provenance.versions(),
    "seed": sorted({one.seed for each in outcomes.values() for one in each}),
    "command": " ".join(["python -m experiments." + experiment.name, *_told()]),
    "date": datetime.date.today().isoformat(),
    "commit": provenance.git_commit(),
    "result": result,
    "in_words": experiment.words(result),
    "claims": {} if quick else experiment.claims(result),
  }
  record = json.loads(json.dumps(record))  # as whoever reads it will have it
  _write(experiment, outcomes, record, output)
  if quick:
    experiment.check(outcomes, result)
  return record


def _made(folder: str) -> str:
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  return folder


def _told() -> list[str]:
  """The flags of the command line that matter for what came out."""
  return [a for a in sys.argv[1:] if not a.startswith(("--output", "--record"))]


def _write(experiment, outcomes, record, output) -> None:
  rows = [
    {"run": one.name, "seed": one.seed, "workdir": one.workdir, **line}
    for each in outcomes.values()
    for one in each
    for line in one.lines
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  files.write_whole(f"{output}/runs.jsonl", text)
  files.write_whole(
    f"{output}/result.json", json.dumps(record, indent=1) + "\n"
  )
  figure = Figure(figsize=(7, 4.5), layout="constrained")
  experiment.draw(outcomes, figure.subplots())
  figure.savefig(f"{output}/figure.svg", metadata={"Date": None})


def learned(outcomes: Outcomes) -> None:
  """Asserts that every run's loss was finite and ended below its maximum."""
  for each in outcomes.values():
    for one in each:
      losses = one.train("loss")
      assert np.isfinite(losses).all(), one.name
      assert one.final("loss") < max(losses), one.name


def parameters(outcome: Outcome) -> int:
  """Of a run's network."""
  config = outcome.config
  net = networks.from_dict(config["network"], config["num_classes"])
  shapes = jax.eval_shape(lambda: AlexNet(net, jax.random.key(0)))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def load_net(outcome: Outcome):
  """The trained network of a run, on one device."""
  mesh = make_mesh(1, 1, towers=outcome.config["network"]["towers"])
  return evaluate.load_net(outcome.workdir, mesh)[0]


def main(experiment: Experiment) -> None:
  """The command of an experiment's module."""
  flags.DEFINE_bool("quick", False, "prove on the embedded data that it runs")
  flags.DEFINE_string("output", "", "folder; default runs/NAME")
  flags.DEFINE_integer("seeds", 0, "runs of each; 0: the experiment's number")
  flags.DEFINE_list("set", [], "KEY=VALUE,... overrides of every run")
  flags.DEFINE_string("record", "", "also write the result here, as evidence")
  command.run(lambda: _main(experiment))


def _main(experiment: Experiment) -> None:
  flag = flags.FLAGS
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
  record = carry_out(
    experiment, output, quick=flag.quick, seeds=flag.seeds, extra=extra
  )
  if flag.record:
    files.write_whole(flag.record, json.dumps(record, indent=1) + "\n")
  print(json.dumps(record["result"], indent=1))
  print(f"{output}: runs.jsonl, figure.svg, result.json")
