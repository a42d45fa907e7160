"""Prints every number of the paper, the authors' logged one, and ours.

  python -m experiments.paper_tables [--workdir=DIR,...] [--json=FILE]

Our numbers come from the committed results and from the runs given, which are
evaluated on the split that a number is about, with one view and with ten. A run
answers for its configuration file only if it is that training to the end; two
runs are subtracted only with the same seed and the same recipe; several seeds
give a mean. What does not fit is listed as not comparable, with the reason.
Several runs of one dataset are also evaluated as an ensemble: with equal
weights, and with weights fitted to the validation labels. The authors' script
(`avg-valid.py`) offered such a fit; it is tuned on the images that it is
measured on.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.analysis import claims, comparison
from alexnet_jax.analysis.comparison import Ours
from alexnet_jax.data import sources
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.runtime import command, files, paths
from alexnet_jax.runtime import config as configs
from alexnet_jax.training import metrics, step
from alexnet_jax.training import runs as stored_runs
from experiments.common import pairing

GRID = np.arange(21) / 20  # the weights tried by the authors' search


def probabilities(
  workdir: str, *, split: str, views: int, data_dir: str = ""
) -> tuple[np.ndarray, np.ndarray]:
  """A network's class probabilities for every example of a split.

  Args:
    workdir: run directory.
    split: "train", "validation" or "test" of the run's configuration.
    views: 1 or 10, whose probabilities are averaged.
    data_dir: folder of the dataset; "" for the configuration's.

  Returns:
    The probabilities f32[N,num_classes], and the labels i32[N].
  """
  config = stored_runs.load_config(workdir)
  network = networks.from_dict(config["network"], config["num_classes"])
  mesh = sharding.make_mesh(towers=network.towers)
  # In the configurations "test" is ILSVRC-2012's validation split, because that
  # year's test labels were never published. ILSVRC-2010 has test labels.
  name = "test" if _has_test(config) and split == "test" else ""
  source = sources.open_split(
    config["dataset"],
    name or config["splits"][split],
    data_dir or config["data_dir"],
  )
  predict = stored_runs.load_predictor(workdir, mesh, views, data_dir)
  batches = stored_runs.example_batches(
    config, source, mesh, f"{workdir} {split}"
  )
  found, labels = [], []
  for batch in batches:
    real = batch["weight"] > 0
    images = jax.device_put(batch["image"], sharding.batch_sharding(mesh))
    found.append(np.exp(np.asarray(predict(images)))[real])
    labels.append(batch["label"][real])
  return np.concatenate(found), np.concatenate(labels)


def top_error(found: np.ndarray, labels: np.ndarray, k: int) -> float:
  """The mean top-k error of probabilities f32[N,classes]."""
  errors = np.asarray(step.top_error(found, labels, k))
  return float(errors.mean(dtype=np.float64))


def average(
  predictions: Sequence[np.ndarray], weights: Sequence[float]
) -> np.ndarray:
  """The weighted sum of several networks' probabilities, f32[N,classes]."""
  return sum(
    np.float32(weight) * found
    for weight, found in zip(weights, predictions, strict=True)
  )


def fit_weights(
  predictions: Sequence[np.ndarray], labels: np.ndarray, k: int = 5
) -> list[float]:
  """Weights of a low top-k error, by a search one coordinate at a time.

  Starts from ones. Sets each weight in turn to the best of 0, 0.05, ..., 1 with
  the others fixed, until no weight changes; ties change nothing. (The authors'
  script starts from 0.5.)
  """
  weights = [1.0] * len(predictions)
  least = top_error(average(predictions, weights), labels, k)
  changed = True
  while changed:
    changed = False
    for i in range(len(predictions)):
      rest = average(predictions, [*weights[:i], 0.0, *weights[i + 1 :]])
      for value in GRID:
        if not (value or any(weights[:i] + weights[i + 1 :])):
          continue  # all weights would be 0
        error = top_error(rest + np.float32(value) * predictions[i], labels, k)
        if error < least:
          least, weights[i], changed = error, float(value), True
  return weights


def of_runs(
  workdirs: Sequence[str], data_dir: str = ""
) -> tuple[dict[str, Ours], dict[str, str], list[dict[str, Any]]]:
  """Evaluates runs for every claim that they can answer.

  Returns:
    Our numbers by the claims' keys; by key, why runs that look like an answer
    are not comparable; and all measurements: one dict for each run or ensemble,
    with `workdirs`, `config`, `dataset`, `split`, `views`, `weights`,
    `top1_error` and `top5_error`.
  """
  runs = [_trained(path) for path in workdirs]
  measured = []
  for dataset in sorted({run.dataset for run in runs}):
    group = [run for run in runs if run.dataset == dataset]
    split = "test" if _has_test(group[0].config) else "validation"
    for views in (1, 10):
      predictions = []
      for run in group:
        found, labels = probabilities(
          run.workdir, split=split, views=views, data_dir=data_dir
        )
        predictions.append(found)
        where = {"dataset": dataset, "split": split, "views": views}
        entry = {"workdirs": [run.workdir], "config": run.name, **where}
        measured.append(entry | _errors(found, labels, [1.0]))
      if len(group) > 1:
        for weights in ([1.0] * len(group), fit_weights(predictions, labels)):
          paths = [run.workdir for run in group]
          entry = {"workdirs": paths, "config": "ensemble", **where}
          found = average(predictions, weights)
          measured.append(entry | _errors(found, labels, weights))
  return *_answers(measured, runs), measured


def _trained(workdir: str) -> pairing.Trained:
  """A run with the configuration file that it is like, if there is one."""
  config = stored_runs.load_config(workdir)
  known = sorted(map(str, pathlib.Path("configs").glob("[!_]*.py")))
  name = comparison.name_of(config, known)
  path = f"configs/{name}.py"
  file = configs.to_json(configs.load(path)) if name else {}
  lines = metrics.read(workdir)
  epochs = lines[-1]["epoch"] if lines else 0.0
  return pairing.Trained(workdir, name, config, file, epochs)


def _answers(
  measured: list[dict[str, Any]], runs: Sequence[pairing.Trained]
) -> tuple[dict[str, Ours], dict[str, str]]:
  """Our numbers for the claims, and why other runs are not comparable."""
  answers, refused = {}, {}
  for claim in claims.ERRORS:
    if claim.net is None:
      continue
    metric = claim.measure.replace("-", "").replace(" ", "_")

    def error(paths, net=claim.net, metric=metric):
      return next(
        entry[metric]
        for entry in measured  # equal weights come before fitted ones
        if entry["workdirs"] == list(paths) and entry["views"] == net.views
      )

    found = pairing.answer(claim.net, runs, error)
    if found.value is not None:
      answers[claim.key] = Ours(found.value, found.source)
    if found.refused:
      refused[claim.key] = " | ".join(found.refused)
  return answers, refused


def _errors(found, labels, weights) -> dict[str, Any]:
  return {
    "weights": list(weights),
    "tuned_on_validation": any(weight != weights[0] for weight in weights),
    "num_examples": len(labels),
    "top1_error": top_error(found, labels, 1),
    "top5_error": top_error(found, labels, 5),
  }


def _has_test(config: dict[str, Any]) -> bool:
  """Whether the dataset has a labelled test split: only ILSVRC-2010."""
  return _dataset(config) == "imagenet2010"


def _dataset(config: dict[str, Any]) -> str:
  return config["dataset"].split(":")[0].removesuffix("_256")


def collect(
  workdirs: Sequence[str] = (), data_dir: str = ""
) -> dict[str, list[dict[str, Any]]]:
  """The tables as JSON: `claims` (`comparison.table`) and `measured`."""
  text = comparison.sizes(configs.load("configs/paper.py"))
  ours = {key: Ours(value, "configs/paper.py") for key, value in text.items()}
  ours |= comparison.committed()
  answers, refused, measured = {}, {}, []
  if workdirs:
    answers, refused, measured = of_runs(workdirs, data_dir)
  rows = comparison.table(ours | answers)
  for row in rows:
    row["not_comparable"] = refused.get(row["key"], "")
  return {"claims": rows, "measured": measured}


def show(tables: dict[str, list[dict[str, Any]]], console: Console) -> None:
  """Prints the tables, their notes and their sources."""
  table = Table("", "", "", "paper", "logged", "in run", "ours", "difference")
  notes = []
  for row in tables["claims"]:
    mark = ""
    if row["note"]:
      notes += [row["note"]] if row["note"] not in notes else []
      mark = f" ({notes.index(row['note']) + 1})"
    paper, logged, ours, difference = comparison.format_row(row)
    what = f"{row['what']}{mark}"
    measure = row["measure"]
    table.add_row(
      row["where"], what, measure, paper, logged, row["run"], ours, difference
    )
  console.print(table)
  for number, note in enumerate(notes, 1):
    console.print(f"({number}) {note}", markup=False, highlight=False)
  for row in tables["claims"]:
    if row["source"] not in ("", "configs/paper.py"):
      text = f"ours, {row['key']}: {row['source']}"
      console.print(text, markup=False, highlight=False)
  for row in tables["claims"]:
    if row["not_comparable"]:
      text = f"not comparable, {row['key']}: {row['not_comparable']}"
      console.print(text, markup=False, highlight=False)
  for entry in tables["measured"]:
    tuned = (
      f"; weights {entry['weights']}, TUNED on these labels"
      if entry["tuned_on_validation"]
      else ""
    )
    console.print(
      f"{' + '.join(entry['workdirs'])} ({entry['config'] or 'own config'}):"
      f" {entry['dataset']} {entry['split']}, {entry['num_examples']:,} images,"
      f" {entry['views']} view(s): top-1 error {entry['top1_error']:.6f}, top-5"
      f" {entry['top5_error']:.6f}{tuned}",
      markup=False,
      highlight=False,
    )


def main() -> None:
  flag = flags.FLAGS
  tables = collect(flag.workdir, flag.data_dir)
  # Without a terminal, rich assumes 80 columns and breaks words.
  show(tables, Console(width=None if sys.stdout.isatty() else 160))
  if flag.json:
    files.write_atomic(flag.json, json.dumps(tables, indent=2) + "\n")


if __name__ == "__main__":
  paths.DEFINE_paths(
    "workdir", [], "run directories to evaluate, separated by commas"
  )
  paths.DEFINE_path(
    "data_dir", "", "folder of the datasets, if they have moved"
  )
  paths.DEFINE_output("json", "", "JSON file to write the tables to")
  command.run(main)
