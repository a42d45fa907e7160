"""The registered study of docs/study.md: its trainings in order, resumable.

  python -m experiments.study --data_dir=DIR [--output=runs/study]
      [--stages=lrn,dropout,...] [--parallel=2] [--analyse] [--record=FOLDER]

First finds the learning rate (`experiments.rates`), then carries out the
contrasts, one experiment a stage, on CIFAR-10 prepared at 96 pixels
(docs/study.md). The same command continues where an earlier one stopped
and repeats nothing. `--analyse` trains nothing and shows the verdicts so far.
At the end, or with `--analyse`, study.json has the family of primary contrasts.
"""

import importlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.runtime import command, files, paths, processes
from alexnet_jax.runtime.command import UserError
from experiments.common import contrasts, frame, statistics
from experiments.common.experiment import Experiment, Options

# An eighth of the width, 80 of 96 pixels, one device a training.
SMALL = {
  "dataset": "cifar10",
  "num_classes": 10,
  "splits.train": "train[:10000]",
  "splits.validation": "train[45000:]",
  "splits.test": "test",
  "total_epochs": 10,  # 100,000 images
  "eval_every_epochs": 5,
  "image_size": 96,
  "network.crop_size": 80,
  "network.width": 0.125,
  "network.fc6.std": 0.03,  # fc6 has 2 x 2 places instead of 6 x 6
  "batch_size": 64,
  "mesh.data": 1,
  "mesh.model": 1,
  "checkpoint_every_steps": 500,
}
FIGURE1 = {"mesh.data": 1, "mesh.model": 1}


class Stage(NamedTuple):
  """One experiment of the study; `only` as the flag --runs."""

  name: str
  only: Sequence[str] = ()


STAGES = (
  Stage("lrn"),
  Stage("dropout"),
  Stage(
    "two_towers", ("source", "half", "dense_eighth", "columns_apart")
  ),  # not `dense`, which is for the full width
  Stage("depth"),
  Stage("augmentation"),
  Stage("pooling"),
  Stage("relu_tanh"),
  Stage("biases"),
  Stage("weight_decay"),
  # Not `plateau`, whose patience is for 90 epochs; see `stopping`.
  Stage("schedules", ("source", "steps", "cosine")),
  Stage("hidden_layers"),
  Stage("figure4"),
  Stage("stopping"),
  Stage("mixing"),
  Stage("l1"),
)


def load(name: str) -> Experiment:
  """The experiment of a stage."""
  return importlib.import_module(f"experiments.{name}").EXPERIMENT


def find_rate(flag: Any) -> float:
  """The learning rate that `experiments.rates` finds for the base.

  Raises:
    UserError: the best rate is at an edge of those tried, so that a better one
      may lie beyond.
  """
  record = frame.carry_out(
    load("rates"),
    Options(
      f"{flag.output}/rates",
      overrides=SMALL | {"data_dir": flag.data_dir},
      record=f"{flag.record or flag.output}/rates.json",
      parallel=flag.parallel,
      analyse=flag.analyse,
    ),
  )
  result = record["result"]
  if result["at_an_edge"]:
    raise UserError(
      f"the best rate, {result['best']:g}, is at an edge of those tried. Extend"
      " experiments/rates.py."
    )
  return result["best"]


def carry_out(stage: Stage, rate: float, flag: Any) -> dict[str, Any]:
  """Trains what a stage lacks at the base's rate; its record."""
  if stage.name == "relu_tanh":
    overrides, folder = FIGURE1, f"{flag.output}/relu_tanh"
  else:
    rates = {
      "schedule.learning_rate": rate,
      "schedule.bias_learning_rate": 2 * rate,
    }
    overrides, folder = SMALL | rates, f"{flag.output}/contrasts"
  options = Options(
    folder,
    overrides=overrides | {"data_dir": flag.data_dir},
    only=stage.only,
    record=f"{flag.record or flag.output}/{stage.name}.json",
    parallel=flag.parallel,
    analyse=flag.analyse,
  )
  return frame.carry_out(load(stage.name), options)


def family(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The primary contrasts of all stages, their p-values adjusted together.

  A contrast that has not been measured counts as one with p = 1, so that the
  others do not gain by it. A verdict other than "undecided" stands only with an
  adjusted p-value below .05.
  """
  rows = []
  for stage in STAGES:
    measured = records.get(stage.name, {}).get("result", {})
    for contrast in load(stage.name).contrasts:
      if contrast.primary:
        values = measured.get("contrasts", {}).get(contrast.name, {})
        row = {"stage": stage.name, "contrast": contrast.name, "p_value": 1.0}
        row |= {"claimed": contrast.claimed, "verdict": "not run"}
        if "difference" in values:
          row |= {
            "p_value": contrasts.p_value(values),
            "verdict": values["verdict"],
            "difference": values["difference"],
          }
        rows.append(row)
  raw = {f"{row['stage']} {row['contrast']}": row["p_value"] for row in rows}
  adjusted = statistics.holm(raw)
  for row, value in zip(rows, adjusted.values(), strict=True):
    row["adjusted_p_value"] = value
    if "difference" in row and value >= 1 - statistics.CONFIDENCE:
      row["verdict"] = "undecided"
  return rows


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
  """One line a primary contrast."""
  table = Table(
    "contrast", "paper", "difference", "95% interval", "seeds", "p", "verdict"
  )
  for row in rows:
    cells = ["", "", "", ""]
    if "difference" in row:
      d = row["difference"]
      cells = [
        f"{d['mean']:+.2f}",
        f"{d['low']:+.2f} to {d['high']:+.2f}",
        str(d["seeds"]),
        f"{row['adjusted_p_value']:.3f}",
      ]
    paper = str(row["claimed"])
    table.add_row(row["contrast"], paper, *cells, row["verdict"])
  console.print(table)


def main() -> int:
  flag = flags.FLAGS
  processes.configure()
  known = [stage.name for stage in STAGES]
  for name in flag.stages:
    if name not in known:
      raise UserError(
        f"--stages={name}: no such stage. The stages are {', '.join(known)}."
      )
  rate = find_rate(flag)
  print(f"the contrasts are measured at rate {rate:g}", flush=True)
  records, failed = {}, []
  for stage in STAGES:
    if not flag.stages or stage.name in flag.stages:
      try:
        records[stage.name] = carry_out(stage, rate, flag)
      except UserError as error:  # the other stages can go on
        print(f"{stage.name}: {error}", file=sys.stderr, flush=True)
        failed.append(stage.name)
  rows = family(records)
  summary = {"rate": rate, "family": rows}
  path = pathlib.Path(flag.output, "study.json")
  files.write_atomic(path, json.dumps(summary, indent=1) + "\n")
  show(rows, Console(width=None if sys.stdout.isatty() else 140))
  return 1 if failed else 0


if __name__ == "__main__":
  paths.DEFINE_path("data_dir", None, "folder of the datasets", required=True)
  paths.DEFINE_output_folder(
    "output", "runs/study", "folder for runs and results"
  )
  flags.DEFINE_list("stages", [], "carry out only these stages")
  flags.DEFINE_integer(
    "parallel", 2, "trainings at a time, each on its share of the cores", 1
  )
  flags.DEFINE_bool("analyse", False, "train nothing, use the finished runs")
  paths.DEFINE_output_folder(
    "record", "", "folder that receives the records and figures; --output"
  )
  command.run(main)
