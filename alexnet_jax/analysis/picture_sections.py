"""Sections of the report that show images: mistakes, kernels, neighbours."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_jax.analysis import confusion, figures, page
from alexnet_jax.analysis.figures import Figure4, Specialisation
from alexnet_jax.analysis.number_format import epochs, number, percent
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.analysis.run_facts import recorded_predictions
from alexnet_jax.analysis.run_images import read_images
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import kernel_history
from alexnet_jax.training import runs as stored_runs
from alexnet_jax.training.class_errors import ClassErrors
from alexnet_jax.training.predictions import Predictions
from alexnet_jax.training.run_data import RunData
from alexnet_jax.training.run_evaluation import evaluate_runs
from alexnet_jax.training.runs import Run

MISTAKES = 12  # pictures
TIMES = 8  # at which kernels are shown
KERNELS_IN_TIME = 10  # of each tower


def mistakes(run: Run, data_dir: str) -> Html:
  """Which classes are confused, and the wrong predictions that seem surest.

  The predictions are those that the training kept, or else the validation
  images are evaluated.

  Raises:
    UserError: the run has no checkpoint, or its dataset is missing.
  """
  data = _data(run, data_dir)
  found = recorded_predictions(run) or _evaluated(run, data_dir)
  errors = ClassErrors(data.classes, found, data.dataset)
  content = confusion.section(errors, f"{run.config['dataset']} validation")
  heading = element("h3", "Most confident mistakes")
  pictures = _confident_mistakes(run, data, data_dir, found, errors.words)
  return page.join([content, heading, pictures])


def _data(run: Run, data_dir: str) -> RunData:
  if run.net is None:
    raise UserError("There is no checkpoint yet.")
  return stored_runs.load_data(run.workdir, run.config, data_dir, run.metadata)


def _evaluated(run: Run, data_dir: str) -> Predictions:
  options = {"data_dir": data_dir, "checkpoint": run.checkpoint}
  return evaluate_runs(
    [run.workdir], views=1, split="validation", **options
  ).predictions


def _confident_mistakes(
  run: Run,
  data: RunData,
  data_dir: str,
  found: Predictions,
  words: Sequence[str],
) -> Html:
  wrong = np.flatnonzero(found.label != found.predicted)
  if not len(wrong):
    return _note("Every validation image is classified correctly.")
  surest = wrong[np.argsort(-found.probability[wrong], kind="stable")]
  surest = surest[:MISTAKES]
  try:
    source = stored_runs.open_split(run.config, "validation", data_dir)
    data.check_source(source)
  except UserError as error:
    return _note(f"The images cannot be shown: {error}")
  size, rescale = run.config["image_size"], run.config["pixels"]["rescale"]
  images, _ = read_images(source, found.index[surest], size, rescale)
  note = _note(
    f"The {len(surest)} of {len(wrong):,} wrong predictions with the highest"
    " probability. A wrong label, or an image of several classes, often shows"
    " up here."
  )
  cards = []
  for row, image in zip(surest, figures.thumbnails(images), strict=True):
    cards.append(
      element(
        "div",
        page.picture(image, "validation image", "JPEG"),
        element("p", words[found.label[row]], class_="true"),
        element("span", "predicted: "),
        f"{words[found.predicted[row]]}, {percent(found.probability[row])}",
      )
    )
  return page.join([note, element("div", *cards, class_="mistakes")])


def kernels(run: Run) -> Html:
  """The kernels of conv1 by tower, their colour scores, and their history.

  Raises:
    UserError: the run has no checkpoint, or its images are grey.
  """
  network = run.net and run.net.towers.network
  if not network or network.channels != 3 or network.conv1 is None:
    raise UserError("There is no checkpoint of a network with RGB input.")
  now = figures.kernels(run.net)
  scores = figures.colour_scores(now)
  note = (
    "Kernels of conv1, each stretched to its own range. The colour score is the"
    " share of a kernel's energy that red, green and blue do not have in"
    " common: grey 0, random weights 0.667."
  )
  parts = [_note(note)]
  for index, tower in enumerate(now):
    text = f"Tower {index}: mean colour score {number(scores[index].mean())}"
    grid = figures.kernel_grid(tower)
    parts.append(element("p", text))
    parts.append(element("div", _sharp(grid, f"kernels of tower {index}")))
  if len(now) == 2:
    found = figures.specialisation(scores)
    parts.append(element("p", specialisation_text(found)))
  parts.append(element("h3", "Kernels over time"))
  parts.append(_kernels_over_time(run, now))
  return page.join(parts)


def _kernels_over_time(run: Run, now: np.ndarray) -> Html:
  history = kernel_history.read(run.workdir)
  if history is None or history.kernels.shape[1:] != now.shape:
    return _note("This run kept no kernels: it is older than kernels.npz.")
  earlier = history.step < run.step
  times = [f"{epoch:,}" for epoch in history.epoch[earlier]]
  snapshots = [k.astype(np.float32) for k in history.kernels[earlier]]
  times.append(_epoch_of(run))
  snapshots.append(now)
  chosen = np.linspace(0, len(times) - 1, min(TIMES, len(times)))
  chosen = chosen.round().astype(int)
  note = _note(
    f"The {KERNELS_IN_TIME} kernels of each tower that changed most; a column"
    " for each epoch, a row for each kernel."
  )
  first = np.nan_to_num(snapshots[0])
  figures_of_towers = []
  for index, tower in enumerate(now):
    change = np.square(tower - first[index]).sum(axis=(1, 2, 3))
    most = np.sort(np.argsort(-change, kind="stable")[:KERNELS_IN_TIME])
    columns = [
      element(
        "div",
        element("small", times[i]),
        _sharp(
          figures.kernel_grid(
            np.nan_to_num(snapshots[i][index][most]), columns=1, scale=3
          ),
          f"kernels of tower {index} at epoch {times[i]}",
        ),
      )
      for i in chosen
    ]
    caption = element("figcaption", f"Tower {index}, by epoch")
    strips = element("div", *columns, class_="strips")
    figures_of_towers.append(element("figure", caption, strips))
  history_of_towers = element(
    "div", *figures_of_towers, class_="towers-in-time"
  )
  return page.join([note, history_of_towers])


def _epoch_of(run: Run) -> str:
  lines = [line for line in run.lines if line["step"] <= run.step]
  return epochs(lines[-1]["epoch"]) if lines else f"step {run.step:,}"


def specialisation_text(found: Specialisation) -> str:
  """What the comparison of the towers' colour scores found."""
  means = " and ".join(map(number, found.means))
  level = figures.SIGNIFICANCE
  test = f"permutation test, p = {number(found.p_value)}, threshold {level}"
  if not found.significant:
    return (
      f"No difference between the towers found: {means} ({test}). With"
      f" {found.count} kernels a tower that vary as these do, a difference of"
      f" {number(found.detectable)} is found in {percent(figures.POWER)} of"
      " cases."
    )
  return (
    f"Tower {found.tower} is more coloured, as one tower is in section 6.1:"
    f" {means} ({test})."
  )


def figure4(run: Run, search: int, data_dir: str) -> Html:
  """Predictions for some images, and the training images nearest to them.

  The arguments are those of `sections.report`.

  Raises:
    UserError: the run has no checkpoint, or its dataset is missing.
  """
  data = _data(run, data_dir)
  options = {"search": search, "data_dir": data_dir}
  found = figures.compute_figure4(
    run.net, run.config, data, run.mesh, **options
  )
  names, near = found.class_names, []
  for i, distances in enumerate(found.distances[: figures.QUERIES]):
    near.append(_thumbnail(found.images[i], names[found.labels[i]]))
    for j, distance in enumerate(distances):
      text = f"{names[found.neighbour_labels[i, j]]} {number(distance)}"
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
    " distance in the last hidden layer. The search is exact; ",
    page.code("--search=0"),
    " searches all of them.",
  )
  neighbours = element("div", *near, class_="neighbours")
  return page.join([note, predictions, heading, about_near, neighbours])


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
        percent(value),
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


def _sharp(pixels: np.ndarray, alt: str) -> Html:
  """A picture whose pixels stay visible when it is enlarged."""
  return element("span", page.picture(pixels, alt), class_="sharp")


def _note(*content: Any) -> Html:
  return element("p", *content, class_="note")
