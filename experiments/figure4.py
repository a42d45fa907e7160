"""Figure 4: what the network says of an image, and which images are near it.

  python -m experiments.figure4 [--quick] [--seeds=3]

Section 6.1: the correct label among the five most probable, and training images
whose last hidden layer (fc7) is nearest by Euclidean distance, six of them. The
paper shows 8 and 5 images and gives no number. Here 50 validation images are
looked at: in how many the correct label is first or among five, and how many of
the six neighbours are of the image's class, beside the share that chance would
find. The search is exact and over all training images.
"""

import functools
import statistics

import numpy as np

from alexnet_jax.analysis import figures, gallery
from alexnet_jax.model import sharding
from alexnet_jax.training import runs
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcome, Outcomes, learned

IMAGES = 50


@functools.cache
def _look(workdir: str, step: int) -> gallery.Figure4:
  """Once for each state of a run: over ImageNet it takes a while."""
  del step
  config = runs.load_config(workdir)
  mesh = sharding.make_mesh(towers=config["network"]["towers"])
  net, _ = runs.load_net(workdir, mesh)
  return gallery.look(net, config, mesh, count=IMAGES)


def look(one: Outcome) -> gallery.Figure4:
  """The figure of a run as it stands."""
  return _look(one.workdir, one.lines[-1]["step"])


def numbers(seen: gallery.Figure4) -> dict:
  """How often label and neighbours are right."""
  best, _ = figures.most_probable(seen.said)
  hits = best == seen.labels[:, np.newaxis]
  same = seen.near_labels == seen.labels[:, np.newaxis]
  return {
    "images": len(hits),
    "training_images": int(seen.counts.sum()),
    "top1_hits": int(hits[:, 0].sum()),
    "top5_hits": int(hits.any(axis=1).sum()),
    "neighbours_of_the_class": float(same.mean()),
    "by_chance": float((seen.counts / seen.counts.sum())[seen.labels].mean()),
  }


def measure(outcomes: Outcomes) -> dict:
  """The numbers of every seed."""
  seeds = [{"seed": o.seed} | numbers(look(o)) for o in outcomes["paper"]]
  return {"seeds": seeds}


def words(result: dict) -> str:
  """Means over the seeds."""
  keys = ("images", "top5_hits", "neighbours_of_the_class", "by_chance")
  images, hits, near, chance = (
    statistics.fmean(seed[key] for seed in result["seeds"]) for key in keys
  )
  return (
    f"{near:.1%} of the six nearest are of the image's class, {chance:.1%} by"
    f" chance; the label is among the five most probable for {hits:.3g} of"
    f" {images:.0f} images"
  )


def draw(outcomes: Outcomes, axes) -> None:
  """As in the paper: left eight images and their bars, right five and six."""
  seen = look(outcomes["paper"][0])
  figure = axes.figure
  figure.clear()
  figure.set_size_inches(10, 4.8)
  left, right = figure.subfigures(1, 2, width_ratios=(4, 5))
  _draw_predictions(seen, left.subplots(4, 4, height_ratios=(3, 2, 3, 2)))
  rows = zip(
    right.subplots(gallery.QUERIES, 1 + gallery.NEIGHBOURS),
    seen.images,
    seen.labels,
    seen.near,
    seen.near_labels,
    strict=False,
  )
  for row, image, label, near, labels in rows:
    images, each = [image, *near], [label, *labels]
    for place, shown, number in zip(row, images, each, strict=True):
      _show(place, shown, seen.names[number], number == label)


def _draw_predictions(seen: gallery.Figure4, places) -> None:
  """Bars of the five most probable labels of each image, the true one red."""
  best, probabilities = figures.most_probable(seen.said)
  pictures, bars = places[::2].ravel(), places[1::2].ravel()
  for i, (picture, bar) in enumerate(zip(pictures, bars, strict=True)):
    right = best[i] == seen.labels[i]
    _show(picture, seen.images[i], seen.names[seen.labels[i]])
    colours = np.where(right, "tab:red", "tab:blue").tolist()
    bar.barh(range(len(right)), probabilities[i], color=colours, alpha=0.5)
    for place, label in enumerate(best[i]):
      bar.text(0.02, place, seen.names[label], va="center", fontsize=7)
    bar.set(xlim=(0, 1), xticks=(), yticks=())
    bar.invert_yaxis()


def _show(place, image, title: str, same: bool = True) -> None:
  place.imshow(image)
  place.set_title(title, fontsize=7, color="black" if same else "grey")
  place.set_axis_off()


def check(outcomes: Outcomes, result: dict) -> None:
  """Searched among themselves, images are their own nearest, at no distance."""
  learned(outcomes)
  (one,) = outcomes["paper"]
  seen = look(one)
  mesh = sharding.make_mesh(towers=one.config["network"]["towers"])
  net, _ = runs.load_net(one.workdir, mesh)
  splits = one.config["splits"]
  few = one.config | {"splits": splits | {"validation": splits["train"]}}
  total = int(seen.counts.sum())
  own = gallery.look(net, few, mesh, count=total)
  np.testing.assert_array_equal(own.numbers[:, 0], np.arange(total))
  assert (own.distances[:, 0] < 1e-3 * own.distances[:, 1]).all()
  # Now the whole training set is known, and float64 finds the same six.
  apart = seen.vectors[:, np.newaxis].astype(np.float64) - own.vectors
  distances = np.linalg.norm(apart, axis=-1)
  np.testing.assert_allclose(
    np.sort(distances)[:, :6], seen.distances, rtol=1e-4
  )
  nearest = np.take_along_axis(distances, seen.numbers, axis=1)
  np.testing.assert_allclose(nearest, seen.distances, rtol=1e-4)
  assert (own.near_labels[:, 0] == own.labels).all()
  assert (seen.near_labels == own.labels[seen.numbers]).all()


EXPERIMENT = Experiment(
  name="figure4",
  question="Which labels are probable, and are near images of the same class?",
  runs=[Run("paper", "configs/paper.py")],
  check=check,
  measure=measure,
  draw=draw,
  quick={"splits.train": "train[:256]"},
  words=words,
  seeds=3,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
