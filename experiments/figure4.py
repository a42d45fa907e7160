"""Figure 4: which labels are probable, and which training images are near?

  python -m experiments.figure4 [--quick] [--seeds=3]

Section 6.1 shows the five most probable labels of eight images, and for five
images the six training images that are nearest by Euclidean distance in the
last hidden layer (fc7); it gives no number. Here 50 validation images are
counted: how often the correct label is first or among the first five, and how
many of the six neighbours are of the image's class, beside the share expected
by chance. For 200 images the same is counted of the neighbours in pixels, which
the paper says are other images, and in fc7 before the training. The search is
exact and covers all training images. Trains one network on ImageNet for each of
three seeds.
"""

import functools
import statistics

import numpy as np

from alexnet_jax.analysis import figures
from alexnet_jax.model import sharding
from alexnet_jax.training import runs as stored_runs
from experiments.common import frame, neighbour_classes
from experiments.common.base import SOURCE
from experiments.common.experiment import Analysis, Experiment, Quick
from experiments.common.outcome import Outcome, Outcomes, assert_learned
from experiments.common.statistics import paired_difference

IMAGES = 50
COMPARED = 200  # images whose neighbours are found by three distances


@functools.cache
def _compute(workdir: str, step: int) -> figures.Figure4:
  """Cached for each state of a run, because ImageNet takes a while."""
  del step
  config = stored_runs.load_config(workdir)
  mesh = sharding.make_mesh(towers=config["network"]["towers"])
  net = stored_runs.load_state(workdir, mesh)[0].net
  data = stored_runs.load_data(workdir, config)
  return figures.compute_figure4(net, config, data, mesh, count=IMAGES)


def compute(outcome: Outcome) -> figures.Figure4:
  """The figure's content for a run in its present state."""
  return _compute(outcome.workdir, outcome.lines[-1]["step"])


def count_hits(figure: figures.Figure4) -> dict:
  """How often the label and the neighbours' classes are right."""
  best, _ = figures.most_probable(figure.log_probabilities)
  hits = best == figure.labels[:, np.newaxis]
  same = figure.neighbour_labels == figure.labels[:, np.newaxis]
  share = figure.class_counts / figure.class_counts.sum()
  return {
    "images": len(hits),
    "training_images": int(figure.class_counts.sum()),
    "top1_hits": int(hits[:, 0].sum()),
    "top5_hits": int(hits.any(axis=1).sum()),
    "neighbours_of_the_class": float(same.mean()),
    "by_chance": float(share[figure.labels].mean()),
  }


def measure(outcomes: Outcomes) -> dict:
  """The counts of every seed; over seeds, how much more often fc7 is right."""
  seeds = [
    {
      "seed": outcome.seed,
      **count_hits(compute(outcome)),
      "distances": neighbour_classes.measure(outcome, COMPARED),
    }
    for outcome in outcomes["source"]
  ]
  result: dict = {"seeds": seeds}
  if len(seeds) > 1:
    trained, *others = by_seed = {
      name: {
        seed["seed"]: 100 * seed["distances"][name]["same_class"]
        for seed in seeds
      }
      for name in seeds[0]["distances"]
    }
    result["more_than"] = {
      name: paired_difference(by_seed[trained], by_seed[name])._asdict()
      for name in others
    }
  return result


def describe(result: dict) -> str:
  """Means over the seeds."""
  keys = ("images", "top5_hits", "neighbours_of_the_class", "by_chance")
  images, hits, near, chance = (
    statistics.fmean(seed[key] for seed in result["seeds"]) for key in keys
  )
  text = (
    f"{near:.1%} of the six nearest are of the image's class, {chance:.1%} by"
    f" chance; the label is among the five most probable for {hits:.3g} of"
    f" {images:.0f} images"
  )
  for name, found in result.get("more_than", {}).items():
    text += (
      f"; {found['mean']:.1f} points ({found['low']:.1f} to"
      f" {found['high']:.1f}) more than by {name}"
    )
  return text


def draw(outcomes: Outcomes, axes) -> None:
  """The paper's layout: left eight images with bars, right five with six."""
  content = compute(outcomes["source"][0])
  figure = axes.figure
  figure.clear()
  figure.set_size_inches(10, 4.8)
  left, right = figure.subfigures(1, 2, width_ratios=(4, 5))
  _draw_predictions(content, left.subplots(4, 4, height_ratios=(3, 2, 3, 2)))
  rows = zip(
    right.subplots(figures.QUERIES, 1 + figures.NEIGHBOURS),
    content.images,
    content.labels,
    content.neighbour_images,
    content.neighbour_labels,
    strict=False,
  )
  for row, image, label, near, near_labels in rows:
    images, labels = [image, *near], [label, *near_labels]
    for axis, shown, number in zip(row, images, labels, strict=True):
      _show(axis, shown, content.class_names[number], number == label)


def _draw_predictions(content: figures.Figure4, axes) -> None:
  """Bars of the five most probable labels of each image, the true one red."""
  best, probabilities = figures.most_probable(content.log_probabilities)
  pictures, bars = axes[::2].ravel(), axes[1::2].ravel()
  for i, (picture, bar) in enumerate(zip(pictures, bars, strict=True)):
    right = best[i] == content.labels[i]
    _show(picture, content.images[i], content.class_names[content.labels[i]])
    colours = np.where(right, "tab:red", "tab:blue").tolist()
    bar.barh(range(len(right)), probabilities[i], color=colours, alpha=0.5)
    for place, label in enumerate(best[i]):
      name = content.class_names[label]  # may be longer than its panel
      bar.text(0.02, place, name, va="center", fontsize=7, in_layout=False)
    bar.set(xlim=(0, 1), xticks=(), yticks=())
    bar.invert_yaxis()


def _show(axis, image, title: str, same_class: bool = True) -> None:
  axis.imshow(image)
  axis.set_title(title, fontsize=7, color="black" if same_class else "grey")
  axis.set_axis_off()


def check(outcomes: Outcomes, result: dict) -> None:
  """A search among the queries themselves finds each at distance 0."""
  assert_learned(outcomes)
  (outcome,) = outcomes["source"]
  found = compute(outcome)
  by_layer, _, by_pixels = neighbour_classes.measure(outcome, IMAGES).values()
  (seed,) = result["seeds"]
  assert by_layer["same_class"] == seed["neighbours_of_the_class"]
  assert by_layer["shared"] == 1 > by_pixels["shared"]
  mesh = sharding.make_mesh(towers=outcome.config["network"]["towers"])
  net = stored_runs.load_state(outcome.workdir, mesh)[0].net
  splits = outcome.config["splits"]
  train_only = outcome.config | {
    "splits": splits | {"validation": splits["train"]}
  }
  total = int(found.class_counts.sum())
  data = stored_runs.load_data(outcome.workdir, outcome.config)
  own = figures.compute_figure4(net, train_only, data, mesh, count=total)
  np.testing.assert_array_equal(own.neighbours[:, 0], np.arange(total))
  assert (own.distances[:, 0] < 1e-3 * own.distances[:, 1]).all()
  # `own` holds the vectors of all training images: in float64 the same six
  # are the nearest.
  apart = found.features[:, np.newaxis].astype(np.float64) - own.features
  distances = np.linalg.norm(apart, axis=-1)
  np.testing.assert_allclose(
    np.sort(distances)[:, :6], found.distances, rtol=1e-4
  )
  nearest = np.take_along_axis(distances, found.neighbours, axis=1)
  np.testing.assert_allclose(nearest, found.distances, rtol=1e-4)
  assert (own.neighbour_labels[:, 0] == own.labels).all()
  assert (found.neighbour_labels == own.labels[found.neighbours]).all()


EXPERIMENT = Experiment(
  name="figure4",
  question="Which labels are probable, and are near images of the same class?",
  runs=[SOURCE],
  quick=Quick(check, overrides={"splits.train": "train[:256]"}),
  analysis=Analysis(measure, describe, draw),
  seeds=3,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
