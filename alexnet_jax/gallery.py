"""Figures 3 and 4 as parts of a page."""

import contextlib
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import track

from alexnet_jax import datasets, evaluate, figures, page, sharding, step
from alexnet_jax.command import UserError
from alexnet_jax.images import UndecodableImage, decode, rescale
from alexnet_jax.input_pipeline import evaluation_batches
from alexnet_jax.model import AlexNet
from alexnet_jax.page import Html, element

PREDICTIONS = 8  # images on the left of Figure 4
QUERIES = 5  # and on its right
NEIGHBOURS = 6
THUMBNAIL = 96  # pixels


def figure3(net: AlexNet | None) -> Html:
  """The kernels of conv1, a picture a tower, and what their colours say.

  Raises:
    UserError: there is no network, or it sees no colours.
  """
  if net is None or net.towers.network.channels != 3:
    raise UserError("there is no checkpoint of a network that sees colours.")
  kernels = figures.kernels(net)
  scores = figures.colour_scores(kernels)
  parts = []
  for index, tower in enumerate(kernels):
    grid = figures.kernel_grid(tower)
    text = f"Tower {index}: mean colour score {scores[index].mean():.3f}"
    image = page.picture(grid, f"kernels of tower {index}")
    parts += [element("p", text), image]
  note = (
    "conv1's kernels, each stretched to its own range. The colour score is the"
    " share of a kernel's energy that red, green and blue do not have in"
    " common: grey 0, random weights 0.667."
  )
  parts.insert(0, element("p", note, class_="note"))
  if len(kernels) == 2:
    parts.append(element("p", _verdict(figures.specialisation(scores))))
  return page.join(parts)


def _verdict(found: figures.Specialisation) -> str:
  first, second = found.means
  said = "have specialised" if found.appears else "have not specialised"
  return (
    f"The towers {said} (section 6.1): tower {found.tower} is the more coloured"
    f" one, {first:.3f} and {second:.3f}; a random deal of the same kernels"
    f" differs as much with probability {found.p_value:.4f}."
  )


def figure4(
  net: AlexNet | None,
  config: dict[str, Any],
  mesh: Mesh,
  search: int,
  data_dir: str,
) -> Html:
  """What the network says of some images, and their nearest neighbours.

  Args:
    net: on `mesh`.
    config: of the run.
    mesh: the devices.
    search: how many training images to search; 0: all.
    data_dir: "" for the configuration's.

  Raises:
    UserError: there is no network, or its data set is not here.
  """
  if net is None:
    raise UserError("there is no checkpoint yet.")
  data_dir = data_dir or config["data_dir"]
  train, test = (
    datasets.open_split(config["dataset"], config["splits"][split], data_dir)
    for split in ("train", "validation")
  )
  seen = evaluate.run_statistics(config, train, mesh)
  chosen = np.linspace(0, len(test) - 1, PREDICTIONS).astype(int)
  images, labels = _images(test, chosen, config["image_size"])
  on_device = place(images, mesh)
  predict = step.make_predict(net.towers.network, 1, mesh)
  features = figures.make_features(net, mesh)
  said = np.asarray(predict(net, on_device, seen))[:PREDICTIONS]
  queries = np.asarray(features(net, on_device, seen))[:QUERIES]

  searched = search or len(train)
  size = config["batch_size"]
  size += -size % mesh.shape[sharding.DATA]
  batches = evaluation_batches(
    train, batch_size=size, size=config["image_size"]
  )
  total = -(-searched // size)

  def vectors():
    shown = track(batches, "Figure 4: training images", total, transient=True)
    for _, batch in zip(range(total), shown, strict=False):
      placed = jax.device_put(batch["image"], sharding.batch_sharding(mesh))
      real = (batch["weight"] > 0) & (batch["index"] < searched)
      found = np.asarray(features(net, placed, seen))
      yield found[real], batch["index"][real]

  numbers, distances = figures.nearest(queries, vectors(), NEIGHBOURS)
  near, near_labels = _images(train, numbers.ravel(), config["image_size"])
  names = train.class_names
  right = []
  for i in range(len(queries)):
    right.append(_thumbnail(images[i], names[labels[i]]))
    for j in range(numbers.shape[1]):
      k = i * numbers.shape[1] + j
      text = f"{names[near_labels[k]]} {distances[i, j]:.3g}"
      right.append(_thumbnail(near[k], text))
  note = (
    f"{PREDICTIONS} images of {test.name}, evenly spaced, with the five most"
    " probable labels; the correct one is red. Below, the first"
    f" {len(queries)} of them and the {NEIGHBOURS} nearest of {searched:,}"
    " training images by Euclidean distance in the last hidden layer, exact;"
    " the number is the distance."
  )
  return page.join(
    [
      element("p", note, class_="note"),
      element("div", *_predictions(images, labels, said, names),
              class_="predictions"),
      element("h3", "Nearest training images"),
      element("div", *right, class_="neighbours"),
    ]
  )  # fmt: skip


def _predictions(images, labels, said, names) -> list[Html]:
  best, probabilities = figures.most_probable(said)
  found = []
  for image, label, order, values in zip(
    images, labels, best, probabilities, strict=True
  ):
    bars = [
      element(
        "div",
        element("b", style=f"width: {value:.1%}"),
        f"{names[other]} {value:.0%}",
        class_="bar correct" if other == label else "bar",
      )
      for other, value in zip(order, values, strict=True)
    ]
    found.append(
      element(
        "div",
        page.picture(_small(image), "validation image", "JPEG"),
        element("p", names[label], class_="true"),
        *bars,
      )
    )
  return found


def _thumbnail(image: np.ndarray, text: str) -> Html:
  picture = page.picture(_small(image), "training image", "JPEG")
  return element("div", picture, element("br"), text)


def _small(image: np.ndarray) -> np.ndarray:
  size = (THUMBNAIL, THUMBNAIL)
  return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _images(source: datasets.Source, indices: Sequence[int], size: int):
  """uint8[N,S,S,3] and the labels of some examples, black where damaged."""
  found = np.zeros((len(indices), size, size, 3), np.uint8)
  labels = []
  for i, index in enumerate(indices):
    encoded, label = source[int(index)]
    labels.append(label)
    with contextlib.suppress(UndecodableImage):
      found[i] = rescale(decode(encoded), size)
  return found, labels


def place(images: np.ndarray, mesh: Mesh) -> jax.Array:
  """A batch on the devices, filled up so that it divides."""
  missing = -len(images) % mesh.shape[sharding.DATA]
  filled = np.concatenate([images, images[:missing]])
  return jax.device_put(filled, sharding.batch_sharding(mesh))
