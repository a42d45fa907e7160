"""The report page and its sections.

Each section is a function that returns HTML; `report` lists them in the order
of the page.
"""

import collections
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax

from alexnet_jax.analysis import comparison, confusion, figures, page, programs
from alexnet_jax.analysis import tower_diagram as diagram
from alexnet_jax.analysis.comparison import Ours
from alexnet_jax.analysis.figures import Figure4, Specialisation
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.analysis.programs import Audit
from alexnet_jax.data.class_words import in_words
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import DATA, MODEL
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import status
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs as stored_runs
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.run_evaluation import evaluate_runs
from alexnet_jax.training.runs import Run

PAPER = "configs/paper.py"


def report(
  workdirs: Sequence[str],
  search: int = 0,
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
  title = "AlexNet: " + ", ".join(workdirs)
  parts: list[Any] = [element("h1", title), summary(runs)]
  parts += _section("Training curves", curves, runs)
  parts += _section("Results of the paper", paper_tables, runs)
  figure4_of = functools.partial(figure4, search=search, data_dir=data_dir)
  confusion_of = functools.partial(confusions, data_dir=data_dir)
  for run in runs:
    name = f": {run.workdir}" if len(runs) > 1 else ""
    parts += _section(f"Figure 3: kernels of conv1{name}", figure3, run)
    parts += _section(
      f"Figure 4: predictions and nearest images{name}", figure4_of, run
    )
    parts += _section(f"Confusion between classes{name}", confusion_of, run)
    parts += _section(f"Exchanges between towers{name}", exchanges, run)
  parts += _section("Differences from the paper's settings", differences, runs)
  parts += _section("Environment", environment, runs)
  return page.document(title, page.join(parts))


def _section(
  title: str, content: Callable[[Any], Html], runs: Sequence[Run] | Run
) -> list[Html]:
  """A heading and the section, or the reason why it cannot be made."""
  try:
    return [element("h2", title), content(runs)]
  except UserError as error:
    return [element("h2", title), _note(error)]


def _note(*content: Any) -> Html:
  return element("p", *content, class_="note")


def summary(runs: Sequence[Run]) -> Html:
  """One line per run: data, duration, errors, speed, and its checkpoint."""
  rows = []
  for run in runs:
    last = run.lines[-1] if run.lines else {}
    validation = (run.split("validation") or [{}])[-1]
    minutes = last["seconds"] / 60 if last else None
    speeds = [line["images_per_second"] for line in run.split("train")]
    speed = statistics.median(filter(None, speeds)) if any(speeds) else None
    errors = (validation.get(f"top{k}_error") for k in (1, 5))
    values = (last.get("epoch"), *errors, minutes, speed)
    formats = (".4g", ".2%", ".2%", ".1f", ",.0f")
    cells = map(_format, values, formats)
    which = f"{run.checkpoint}, step {run.step:,}" if run.net else "-"
    rows.append((run.workdir, run.config["dataset"], *cells, which))
  headings = ("run", "dataset", "epochs", "validation top-1 error (one view)")
  headings += ("top-5 error", "minutes", "median images/s")
  headings += ("checkpoint of this page",)
  attempts = [
    _note(f"{run.workdir}: {attempt}.")
    for run in runs
    if (attempt := status.last_attempt(run.workdir))
  ]
  return page.join([page.table(headings, rows), *attempts])


def _format(value: float | None, spec: str) -> str:
  return "-" if value is None else f"{value:{spec}}"


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
_SHARES = (*_ERRORS, "data_wait_fraction")  # shown in percent
_MAIN = ("loss", *_ERRORS, "learning_rate", *_SPEEDS)
_NOT_CHARTED = ("step", "epoch", "split", "seconds", "views", "num_examples")
_NOT_CHARTED += ("undecodable",)


def _chart(runs: Sequence[Run], key: str) -> Html | None:
  """The chart of one key; None if no line has it."""
  curves = {}
  for run in runs:
    for split in ("train", "validation"):
      name = split if len(runs) == 1 else f"{run.workdir} {split}"
      curves[name] = [
        (line["epoch"], line[key] * (100 if key in _SHARES else 1))
        for line in run.split(split)
        if isinstance(line.get(key), int | float)
        # The first line after a start has no speed yet.
        and (line[key] or key != "images_per_second")
      ]
  if not any(curves.values()):
    return None
  title = key.replace("top", "top-") if key in _ERRORS else key
  title = title.removesuffix("_fraction").replace("_", " ")
  unit = "%" if key in _SHARES else ""
  return page.chart(title, "epoch", unit, curves)


def paper_tables(runs: Sequence[Run]) -> Html:
  """The numbers of the paper beside ours; folded if no run is on ImageNet."""
  sizes = comparison.sizes(configs.load(PAPER))
  ours = {key: Ours(value, PAPER) for key, value in sizes.items()}
  rows = {"errors": [], "sizes": []}
  for row in comparison.table(ours | comparison.committed()):
    kind = "sizes" if row["key"].startswith("size.") else "errors"
    what = row["where"], row["what"], row["measure"]
    numbers = comparison.format_row(row)
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


def figure3(run: Run) -> Html:
  """The kernels of conv1 by tower, and their colour scores.

  Raises:
    UserError: the run has no checkpoint, or its images are grey.
  """
  network = run.net and run.net.towers.network
  if not network or network.channels != 3 or network.conv1 is None:
    raise UserError("There is no checkpoint of a network with RGB input.")
  kernels = figures.kernels(run.net)
  scores = figures.colour_scores(kernels)
  note = (
    "Kernels of conv1, each stretched to its own range. The colour score is the"
    " share of a kernel's energy that red, green and blue do not have in"
    " common: grey 0, random weights 0.667."
  )
  parts = [_note(note)]
  for index, tower in enumerate(kernels):
    text = f"Tower {index}: mean colour score {scores[index].mean():.3f}"
    picture = page.picture(figures.kernel_grid(tower), f"kernels of {index}")
    parts += [element("p", text), picture]
  if len(kernels) == 2:
    found = figures.specialisation(scores)
    parts.append(element("p", specialisation_text(found)))
  return page.join(parts)


def specialisation_text(found: Specialisation) -> str:
  """What the comparison of the towers' colour scores found."""
  means = "{:.3f} and {:.3f}".format(*found.means)
  level = figures.SIGNIFICANCE
  test = f"permutation test, p = {found.p_value:.4f}, threshold {level}"
  if not found.significant:
    return (
      f"No difference between the towers found: {means} ({test}). With"
      f" {found.count} kernels a tower that vary as these do, a difference of"
      f" {found.detectable:.3f} is found in {figures.POWER:.0%} of cases."
    )
  return (
    f"Tower {found.tower} is more coloured, as one tower is in section 6.1:"
    f" {means} ({test})."
  )


def figure4(run: Run, search: int, data_dir: str) -> Html:
  """Predictions for some images, and the training images nearest to them.

  The arguments are those of `report`.

  Raises:
    UserError: the run has no checkpoint, or its dataset is missing.
  """
  if run.net is None:
    raise UserError("There is no checkpoint yet.")
  data = stored_runs.load_data(run.workdir, run.config, data_dir, run.metadata)
  options = {"search": search, "data_dir": data_dir}
  found = figures.compute_figure4(
    run.net, run.config, data, run.mesh, **options
  )
  names, near = found.class_names, []
  for i, distances in enumerate(found.distances[: figures.QUERIES]):
    near.append(_thumbnail(found.images[i], names[found.labels[i]]))
    for j, distance in enumerate(distances):
      text = f"{names[found.neighbour_labels[i, j]]} {distance:.3g}"
      near.append(_thumbnail(found.neighbour_images[i, j], text))
  note = _note(
    f"The five most probable labels for {figures.PREDICTIONS} evenly spaced"
    f" images of {found.split}, the correct one in red."
  )
  predictions = element("div", *_predictions(found), class_="predictions")
  heading = element("h3", "Nearest training images")
  if found.no_neighbours:
    reason = _note(f"Not searched: {found.no_neighbours}")
    return page.join([note, predictions, heading, reason])
  about_near = _note(
    f"For {figures.QUERIES} of these images, the {figures.NEIGHBOURS} nearest"
    f" of {found.class_counts.sum():,} training images and their Euclidean"
    " distance in the last hidden layer (exact search)."
  )
  neighbours = element("div", *near, class_="neighbours")
  return page.join([note, predictions, heading, about_near, neighbours])


def confusions(run: Run, data_dir: str) -> Html:
  """Which classes the network confuses, on the validation images.

  Raises:
    UserError: the run has no checkpoint, or its dataset is missing.
  """
  if run.net is None:
    raise UserError("There is no checkpoint yet.")
  found = evaluate_runs(
    [run.workdir],
    views=1,
    split="validation",
    data_dir=data_dir,
    checkpoint=run.checkpoint,
  )
  dataset = run.config["dataset"]
  words = in_words(found.classes.names, dataset)
  return confusion.section(found.classes, words, f"{dataset} validation")


def _predictions(found: Figure4) -> list[Html]:
  best, probabilities = figures.most_probable(found.log_probabilities)
  predictions = []
  columns = (found.images, found.labels, best, probabilities)
  for image, label, order, values in zip(*columns, strict=True):
    bars = [
      element(
        "div",
        element("b", style=f"width: {value:.1%}"),
        element("span", found.class_names[other]),
        f"{value:.0%}",
        class_="bar correct" if other == label else "bar",
      )
      for other, value in zip(order, values, strict=True)
    ]
    picture = page.picture(image, "validation image", "JPEG")
    name = element("p", found.class_names[label], class_="true")
    predictions.append(element("div", picture, name, *bars))
  return predictions


def _thumbnail(image: Any, text: str) -> Html:
  picture = page.picture(image, "training image", "JPEG")
  return element("div", picture, element("br"), text)


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
  paper = dict(configs.flatten(configs.to_json(configs.load(PAPER))))
  flat = [dict(configs.flatten(run.config)) for run in runs]
  rows = []
  for key in dict.fromkeys([*paper, *sorted(set().union(*flat))]):
    found = (config.get(key, "absent") for config in (paper, *flat))
    expected, *values = map(json.dumps, found)
    if any(value != expected for value in values):
      rows.append((key, expected, *values))
  headings = ("key", PAPER, *(run.workdir for run in runs))
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
  return page.table(("run", "property", "value"), rows)
