"""The report page and its sections.

Each section is a function that returns HTML; `report` lists them in the order
of the page.
"""

import collections
import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from alexnet_jax.analysis import (
  comparison,
  overview,
  page,
  programs,
  run_facts,
  side_by_side,
)
from alexnet_jax.analysis import picture_sections as pictures
from alexnet_jax.analysis import tower_diagram as diagram
from alexnet_jax.analysis.comparison import Ours
from alexnet_jax.analysis.differences import differing_keys
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.analysis.programs import Audit
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import DATA, MODEL
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs as stored_runs
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.runs import Run

PAPER = "configs/paper.py"
SEARCH = 1000  # training images that are searched for Figure 4


def report(
  workdirs: Sequence[str],
  search: int = SEARCH,
  data_dir: str = "",
  checkpoint: str = "newest",
) -> str:
  """The HTML page about one or several runs.

  Args:
    workdirs: directories of the runs.
    search: number of training images to search for Figure 4; 0: all.
    data_dir: directory of the dataset; "": the configurations'.
    checkpoint: which one of each run: "newest", "best" or a step.

  Raises:
    UserError: a directory is not the directory of a run, or the run has no such
      checkpoint.
  """
  runs = [stored_runs.load(workdir, checkpoint) for workdir in workdirs]
  names = run_facts.short_names(runs)
  sections: list[tuple[str, Html]] = []

  def add(title: str, content: Callable[[Any], Html], about: Any) -> None:
    try:
      sections.append((title, content(about)))
    except UserError as error:  # the reason why the section cannot be made
      sections.append((title, _note(error)))

  if len(runs) == 1:
    add("Overview", overview.overview, runs[0])
  else:
    add("Runs side by side", side_by_side.side_by_side, runs)
  add("Training curves", curves, runs)
  mistakes = functools.partial(pictures.mistakes, data_dir=data_dir)
  figure4 = functools.partial(
    pictures.figure4, search=search, data_dir=data_dir
  )
  for run, name in zip(runs, names, strict=True):
    of_run = f": {name}" if len(runs) > 1 else ""
    add(f"Mistakes{of_run}", mistakes, run)
    add(f"Predictions and nearest images (Figure 4){of_run}", figure4, run)
    add(f"Kernels of conv1 (Figure 3){of_run}", pictures.kernels, run)
    add(f"Towers and exchanges{of_run}", exchanges, run)
  add("Differences from the paper's settings", differences, runs)
  add("Results of the paper", paper_tables, runs)
  add("Environment", environment, runs)
  title = "AlexNet: " + ", ".join(workdirs)
  return page.document(title, _page(title, sections))


def _page(title: str, sections: Sequence[tuple[str, Html]]) -> Html:
  """A heading, links to the sections, and the sections."""
  links, parts = [], []
  for number, (heading, content) in enumerate(sections, 1):
    place = f"section{number}"
    links.append(element("a", heading, href=f"#{place}"))
    heading = element("h2", heading)
    parts.append(element("section", heading, content, id=place))
  contents = element("nav", *links)
  return page.join([element("h1", title), parts[0], contents, *parts[1:]])


def _note(*content: Any) -> Html:
  return element("p", *content, class_="note")


def curves(runs: Sequence[Run]) -> Html:
  """A chart for each number of metrics.jsonl over the epochs."""
  known = {key for run in runs for line in run.lines for key in line}
  diagnostics = sorted(known - {*_MAIN, *_NOT_CHARTED})
  main, more = (
    [chart for key in keys if (chart := _chart(runs, key))]
    for keys in (_MAIN, diagnostics)
  )
  note = _note(
    "Drag over a chart to zoom in. Training points are single batches with"
    " augmentation and dropout; validation points are over the whole split, one"
    " view per image."
  )
  parts = [note, element("div", *main, class_="charts")]
  if more:
    summary = element("summary", "Diagnostics by layer")
    charts = element("div", *more, class_="charts")
    parts.append(element("details", summary, charts))
  return page.join(parts)


_ERRORS = ("top1_error", "top5_error")
_SPEEDS = ("images_per_second", "data_wait_fraction")
_MAIN = ("loss", *_ERRORS, "learning_rate", *_SPEEDS)
_NOT_CHARTED = ("step", "epoch", "split", "seconds", "views", "num_examples")
_NOT_CHARTED += ("undecodable",)


def _is_share(key: str) -> bool:
  """Whether a number is a share, which is shown in percent."""
  return key in _ERRORS or key.startswith(("data_wait_", "dead_"))


def _chart(runs: Sequence[Run], key: str) -> Html | None:
  """The chart of one key; None if no line has it."""
  curves, scale = [], 100 if _is_share(key) else 1
  names = run_facts.short_names(runs)
  for number, (run, run_name) in enumerate(zip(runs, names, strict=True)):
    for split in ("train", "validation"):
      several = len(runs) > 1
      points = [
        (line["epoch"], line[key] * scale)
        for line in run.split(split)
        if isinstance(line.get(key), int | float)
        # The first line after a start has no speed yet.
        and (line[key] or key != "images_per_second")
      ]
      name = f"{run_name} {split}" if several else split
      colour = number if several else int(split == "validation")
      dashed = several and split == "train"
      curves.append(page.Curve(name, points, colour, dashed))
  ends = [x for curve in curves for x, _ in curve.points]
  if not ends:
    return None
  if (chance := _of_guessing(key, runs)) is not None:
    points = [(end, chance * scale) for end in (min(ends), max(ends))]
    curves.append(page.Curve("guessing", points, None, dashed=True))
  title = key.replace("top", "top-") if key in _ERRORS else key
  title = title.removesuffix("_fraction").replace("_", " ")
  return page.chart(title, "epoch", "%" if _is_share(key) else "", curves)


def _of_guessing(key: str, runs: Sequence[Run]) -> float | None:
  """The loss or error of guessing, if it is the same for all runs."""
  classes, *others = {run.config["num_classes"] for run in runs}
  if others:
    return None
  guessing = {
    "loss": math.log(classes),
    "top1_error": 1 - 1 / classes,
    "top5_error": 1 - min(5 / classes, 1),
  }
  return guessing.get(key)


def paper_tables(runs: Sequence[Run]) -> Html:
  """The numbers of the paper beside ours; folded if no run is on ImageNet."""
  sizes = comparison.sizes(configs.load(PAPER))
  ours = {key: Ours(value, PAPER) for key, value in sizes.items()}
  rows = {"errors": [], "sizes": []}
  for row in comparison.table(ours | comparison.committed()):
    kind = "sizes" if row["key"].startswith("size.") else "errors"
    what = row["where"], row["what"], row["measure"]
    numbers = comparison.format_row(row, digits=1)
    rows[kind].append((*what, *numbers, row["run"], row["note"]))
  headings = ("where", "what", "measure", "paper", "authors' log", "ours")
  headings += ("difference", "authors' run", "note")
  datasets = sorted({run.config["dataset"] for run in runs})
  names = ", ".join(datasets)
  note = _note(
    f"The runs of this page were trained on {names}. The column “ours” has"
    " the committed results of this project; ",
    element("code", "python -m experiments.paper_tables --workdir=..."),
    " evaluates runs on ImageNet for these tables.",
  )
  summary = element("summary", "Sizes and hyperparameters in the text")
  errors, sizes = (page.table(headings, kind) for kind in rows.values())
  content = page.join([note, errors, element("details", summary, sizes)])
  if any(map(comparison.is_in_the_paper, datasets)):
    return content
  summary = element(
    "summary",
    f"The paper's numbers are on ImageNet; this page is about {names}",
  )
  return element("details", summary, content)


def exchanges(run: Run) -> Html:
  """The collectives of the run's programs, compiled on this machine.

  Raises:
    UserError: the batch size does not fit the mesh of this machine.
  """
  what = Recipe.from_config(run.config)
  result = programs.audit(what, run.mesh)
  layers = ", ".join(what.network.exchanges) or "no layer"
  as_declared = (
    f"As declared: the towers exchange at {layers} and nowhere else."
  )
  verdict = "; ".join(result.findings) or as_declared
  where = sharding.describe_mesh(run.mesh)
  note = f"Compiled on this machine: {where}, batch size {what.batch_size}."
  parts = [element("p", verdict), _note(note)]
  if not result.collectives:
    text = "One device holds all towers, so nothing crosses devices."
    return page.join([*parts, _note(text)])
  if result.mesh[MODEL] > 1:
    parts.append(exchange_figure(result, what.network))
  table = page.table(programs.HEADINGS, programs.rows(result))
  return page.join([*parts, table])


def exchange_figure(result: Audit, network: Network) -> Html:
  """The towers and the bytes that they exchange in one training step.

  The mesh of `result` has several devices along "model".
  """
  sizes: collections.Counter[tuple[str, str]] = collections.Counter()
  for item in result.collectives:
    if item.program == "train" and MODEL in item.axes:
      sizes[item.layer, item.phase] += item.bytes
  declared = {(item.layer, item.phase) for item in result.declared["train"]}
  exchanges = [
    diagram.Exchange(*place, size, place in declared)
    for place, size in sizes.items()
  ]
  drawing = element("div", diagram.draw(network, exchanges), class_="wide")
  images = result.batch_size // result.mesh[DATA]
  note = _note(
    "Bytes that a device holds after each exchange between towers, in a"
    f" training step of {images} images."
  )
  return element("figure", note, drawing)


def differences(runs: Sequence[Run]) -> Html:
  """The configuration keys that differ from the paper's configuration."""
  paper = configs.to_json(configs.load(PAPER))
  found = differing_keys([paper, *(run.config for run in runs)])
  rows = [(key, *values) for key, values in found.items()]
  headings = ("key", PAPER, *run_facts.short_names(runs))
  return page.table(headings, rows)


def environment(runs: Sequence[Run]) -> Html:
  """Where the runs were trained, from their checkpoints' metadata."""
  rows = []
  for run in runs:
    for key, value in configs.flatten(run.metadata):
      if key.split(".")[0] not in ("config", "schedule", "evaluation_due"):
        text = value if isinstance(value, str) else json.dumps(value)
        rows.append((run.workdir, key, text))
  here = f"{jax.default_backend()}, {len(jax.devices())} device(s)"
  rows.append(("this page", "made on", here))
  summary = element("summary", "Versions, data, mesh and machine")
  table = page.table(("run", "property", "value"), rows)
  return element("details", summary, table)
