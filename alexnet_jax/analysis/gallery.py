"""Figures 3 and 4 as parts of a page."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jax.sharding import Mesh
from rich.progress import track

from alexnet_jax.analysis import figures, page
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.data import sources
from alexnet_jax.data.images import UndecodableImage, decode, rescale
from alexnet_jax.data.pipeline import evaluation_batches
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs, step

PREDICTIONS = 8  # images on the left of Figure 4
QUERIES = 5  # and on its right
NEIGHBOURS = 6
THUMBNAIL = 96  # pixels


def figure3(net: AlexNet | None) -> Html:
  """The kernels of conv1, a picture a tower, and what their colours say.

  Raises:
    UserError: there is no network, or it sees no colours.
  """
  network = net and net.towers.network
  if not network or network.channels != 3 or network.conv1 is None:
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


class Figure4(NamedTuple):
  """What a network says of N images, and the training images near them.

  Attributes:
    images: uint8[N,96,96,3], the images' thumbnails.
    labels: i64[N], the true ones.
    said: f32[N,classes], log-probabilities.
    vectors: f32[N,4096], the last hidden layer.
    numbers: i64[N,6], of the nearest training images, the nearest first.
    distances: f64[N,6], to them, Euclidean and exact.
    near: uint8[N,6,96,96,3], their thumbnails.
    near_labels: i64[N,6].
    counts: i64[classes], the training images searched of each class.
    names: of the classes.
    split: the name of the split that the N images are from.
  """

  images: np.ndarray
  labels: np.ndarray
  said: np.ndarray
  vectors: np.ndarray
  numbers: np.ndarray
  distances: np.ndarray
  near: np.ndarray
  near_labels: np.ndarray
  counts: np.ndarray
  names: Sequence[str]
  split: str


def look(
  net: AlexNet,
  config: dict[str, Any],
  mesh: Mesh,
  *,
  count: int = PREDICTIONS,
  search: int = 0,
  data_dir: str = "",
) -> Figure4:
  """Computes Figure 4 for evenly spaced images of the validation split.

  Args:
    net: on `mesh`.
    config: of the run.
    mesh: the devices.
    count: N, of images.
    search: how many training images to search; 0: all.
    data_dir: "" for the configuration's.

  Raises:
    UserError: the data set is not here.
  """
  train, test = (
    sources.open_run(config, split, data_dir)
    for split in ("train", "validation")
  )
  seen = runs.load_statistics(config, train, mesh)
  chosen = np.linspace(0, len(test) - 1, count).astype(int)
  images, labels = _images(test, chosen, config["image_size"])
  on_device = place(images, mesh)
  predict = step.make_predict(net.towers.network, 1, mesh)
  features = figures.make_features(net, mesh)
  said = np.asarray(predict(net, on_device, seen))[:count]
  vectors = np.asarray(features(net, on_device, seen))[:count]

  searched = search or len(train)
  size = config["batch_size"]
  size += -size % mesh.shape[sharding.DATA]
  batches = evaluation_batches(
    train,
    batch_size=size,
    size=config["image_size"],
    max_undecodable=config["max_undecodable"],
  )
  total = -(-searched // size)
  counts = np.zeros(train.num_classes, np.int64)

  def hidden():
    shown = track(batches, "Figure 4: training images", total, transient=True)
    for _, batch in zip(range(total), shown, strict=False):
      placed = jax.device_put(batch["image"], sharding.batch_sharding(mesh))
      real = (batch["weight"] > 0) & (batch["index"] < searched)
      found = np.asarray(features(net, placed, seen))
      np.add.at(counts, batch["label"][real], 1)
      yield found[real], batch["index"][real]

  numbers, distances = figures.nearest(vectors, hidden(), NEIGHBOURS)
  near, near_labels = _images(train, numbers.ravel(), config["image_size"])
  small = _small(near).reshape(*numbers.shape, THUMBNAIL, THUMBNAIL, 3)
  return Figure4(
    images=_small(images),
    labels=labels,
    said=said,
    vectors=vectors,
    numbers=numbers,
    distances=distances,
    near=small,
    near_labels=near_labels.reshape(numbers.shape),
    counts=counts,
    names=train.class_names,
    split=test.name,
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
  seen = look(net, config, mesh, search=search, data_dir=data_dir)
  names = seen.names
  right = []
  for i, distances in enumerate(seen.distances[:QUERIES]):
    right.append(_thumbnail(seen.images[i], names[seen.labels[i]]))
    for j, distance in enumerate(distances):
      text = f"{names[seen.near_labels[i, j]]} {distance:.3g}"
      right.append(_thumbnail(seen.near[i, j], text))
  note = (
    f"{PREDICTIONS} images of {seen.split}, evenly spaced, with the five most"
    " probable labels; the correct one is red. Below, the first"
    f" {QUERIES} of them and the {NEIGHBOURS} nearest of {seen.counts.sum():,}"
    " training images by Euclidean distance in the last hidden layer, exact;"
    " the number is the distance."
  )
  return page.join(
    [
      element("p", note, class_="note"),
      element("div", *_predictions(seen), class_="predictions"),
      element("h3", "Nearest training images"),
      element("div", *right, class_="neighbours"),
    ]
  )


def _predictions(seen: Figure4) -> list[Html]:
  best, probabilities = figures.most_probable(seen.said)
  found = []
  for image, label, order, values in zip(
    seen.images, seen.labels, best, probabilities, strict=True
  ):
    bars = [
      element(
        "div",
        element("b", style=f"width: {value:.1%}"),
        element("span", seen.names[other]),
        f"{value:.0%}",
        class_="bar correct" if other == label else "bar",
      )
      for other, value in zip(order, values, strict=True)
    ]
    found.append(
      element(
        "div",
        page.picture(image, "validation image", "JPEG"),
        element("p", seen.names[label], class_="true"),
        *bars,
      )
    )
  return found


def _thumbnail(image: np.ndarray, text: str) -> Html:
  picture = page.picture(image, "training image", "JPEG")
  return element("div", picture, element("br"), text)


def _small(images: np.ndarray) -> np.ndarray:
  """Thumbnails: uint8[N,S,S,3] -> uint8[N,96,96,3]."""
  size = (THUMBNAIL, THUMBNAIL)
  each = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in images]
  return np.stack(each)


def _images(source: sources.Source, indices: Sequence[int], size: int):
  """uint8[N,S,S,3], black where damaged, and i64[N] labels of some examples."""
  found = np.zeros((len(indices), size, size, 3), np.uint8)
  labels = np.zeros(len(indices), np.int64)
  for i, index in enumerate(indices):
    with contextlib.suppress(UndecodableImage):
      encoded, labels[i] = source[int(index)]
      found[i] = rescale(decode(encoded), size)
  return found, labels


def place(images: np.ndarray, mesh: Mesh) -> jax.Array:
  """A batch on the devices, filled up so that it divides."""
  missing = -len(images) % mesh.shape[sharding.DATA]
  filled = np.concatenate([images, images[:missing]])
  return jax.device_put(filled, sharding.batch_sharding(mesh))
