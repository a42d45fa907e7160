"""How often an image's nearest training images are of its class, by distance.

Section 6.1 calls two images similar if their activations in the last hidden
layer, fc7, are near, and says that they are generally not near in pixels. Two
other distances are compared with it: between pixels, and between activations of
the same network before its training.
"""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from alexnet_jax.analysis import figures
from alexnet_jax.data import sources
from alexnet_jax.model import sharding
from alexnet_jax.training import runs as stored_runs
from experiments.common.outcome import Outcome, initial_net, load_net

PIXELS = 56  # side to which images are reduced before pixels are compared

# Turns images uint8[B,S,S,3] into vectors f32[B,D].
Vectors = Callable[[np.ndarray], np.ndarray]


def by_distance(outcome: Outcome) -> dict[str, Vectors]:
  """The vectors whose Euclidean distance counts, by name."""
  mesh = sharding.make_mesh(1, 1, towers=outcome.config["network"]["towers"])
  data = stored_runs.load_data(outcome.workdir, outcome.config)
  statistics = data.image_statistics(outcome.config, mesh)

  def of_net(net) -> Vectors:
    features = figures.make_features(net, mesh)
    return lambda images: features(net, figures.place(images, mesh), statistics)

  return {
    "last hidden layer": of_net(load_net(outcome)),
    "last hidden layer before training": of_net(initial_net(outcome)),
    "pixels": pixel_vectors,
  }


def pixel_vectors(images: np.ndarray) -> np.ndarray:
  """All pixels of the images reduced to 56 x 56: f32[B,9408]."""
  small = [
    cv2.resize(image, (PIXELS,) * 2, interpolation=cv2.INTER_AREA)
    for image in images.astype(np.float32)
  ]
  return np.array(small).reshape(len(images), -1)


def measure(outcome: Outcome, count: int) -> dict[str, Any]:
  """The nearest training images of evenly spaced validation images.

  Args:
    outcome: of a run.
    count: number of validation images.

  Returns:
    By distance: `same_class`, the share of the six nearest that are of the
    image's class, and `shared`, the share that are also among the six nearest
    by the last hidden layer.
  """
  config = outcome.config
  validation = stored_runs.open_split(config, "validation")
  chosen = np.linspace(0, len(validation) - 1, count).astype(int)
  queries = sources.select(validation, chosen)
  train = stored_runs.open_split(config, "train")
  labels = np.concatenate([x for _, x in _batches(config, queries)])
  found, same = {}, {}
  for name, vectors in by_distance(outcome).items():
    asked = np.concatenate([vectors(x) for x, _ in _batches(config, queries)])
    train_labels: list[np.ndarray] = []
    found[name], _ = figures.nearest(
      asked, _numbered(config, train, vectors, train_labels)
    )
    near = np.concatenate(train_labels)[found[name]]
    same[name] = float((near == labels[:, np.newaxis]).mean())
  by_layer = next(iter(found.values()))
  shared = {
    name: (indices[:, :, np.newaxis] == by_layer[:, np.newaxis]).any(axis=2)
    for name, indices in found.items()
  }
  return {
    name: {"same_class": same[name], "shared": float(shared[name].mean())}
    for name in found
  }


def _numbered(
  config: dict[str, Any],
  source: sources.Source,
  vectors: Vectors,
  labels: list[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Vectors and numbers of all images; appends their labels to `labels`."""
  start = 0
  for images, batch_labels in _batches(config, source):
    labels.append(batch_labels)
    yield vectors(images), np.arange(start, start + len(images))
    start += len(images)


def _batches(
  config: dict[str, Any], source: sources.Source
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """All images and labels of a split, a batch at a time."""
  mesh = sharding.make_mesh(1, 1, towers=config["network"]["towers"])
  for batch in stored_runs.example_batches(config, source, mesh, "neighbours"):
    real = batch["weight"] > 0
    yield batch["image"][real], batch["label"][real]
