"""Neighbours: the training images nearest to a picture, by the last features.

As on the right of Figure 4 (section 6.1): Euclidean distance between the
activations of the last hidden layer, in the paper the 4096 units of fc7.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alexnet_jax.analysis import figures
from alexnet_jax.analysis.run_images import RunImages
from alexnet_jax.training.classifier import BATCH, Classifier


class Neighbours(NamedTuple):
  """The N training images nearest to a picture, the nearest first."""

  images: np.ndarray  # uint8[N,S,S,3]
  labels: np.ndarray  # i64[N]
  distances: np.ndarray  # f64[N]


class NeighbourSearch:
  """Searches training images, whose features are computed once.

  Attributes:
    searched: the number of training images that are searched.
    total: the number of training images.
    layer: the last hidden layer, whose units are compared.
  """

  def __init__(self, net: Classifier, train: RunImages, limit: int):
    """Reads nothing yet.

    Args:
      net: the network.
      train: the training images.
      limit: how many of them are searched at most, evenly spaced; 0: all.
    """
    self._net, self._train = net, train
    self.total = len(train)
    self.searched = min(limit, self.total) if limit else self.total
    self.layer = net.layers[-2]
    self._indices = np.linspace(0, self.total - 1, self.searched).astype(int)
    self._features: np.ndarray | None = None
    self._one_at_a_time = threading.Lock()

  @property
  def ready(self) -> bool:
    """Whether the features of the training images are computed."""
    return self._features is not None

  def nearest(
    self, features: np.ndarray, progress: Callable[[float], None]
  ) -> Neighbours:
    """The six nearest images (fewer if fewer are searched).

    Args:
      features: of the picture, f32[units], tower 0's units first.
      progress: called with the share of the training images that is done, while
        their features are computed: at the first call of this method.
    """
    with self._one_at_a_time:
      if self._features is None:
        self._features = self._compute(progress)
    positions = np.arange(self.searched)
    query = features.reshape(1, -1)
    found, distances = figures.nearest(query, [(self._features, positions)])
    images, labels = self._train.read(self._indices[found[0]])
    return Neighbours(images, labels, distances[0])

  def _compute(self, progress) -> np.ndarray:
    """The features of all images that are searched, f32[searched,units]."""
    parts = []
    for start in range(0, self.searched, BATCH):
      images, _ = self._train.read(self._indices[start : start + BATCH])
      found = self._net.activations(images, self.layer)
      parts.append(found.reshape(len(images), -1))
      progress((start + len(images)) / self.searched)
    return np.concatenate(parts)
