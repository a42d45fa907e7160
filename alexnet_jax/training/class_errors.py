"""The errors of a network by class, and which classes it confuses."""

import csv
import io
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.training import step


class Confusion(NamedTuple):
  """Images of one class that are taken for another."""

  label: int  # the class of the images
  predicted: int  # the most probable class
  count: int  # number of such images


class ClassErrors:
  """Sums over evaluated images, by their class.

  Attributes:
    names: class names, in the order of the labels.
    top1_error, top5_error: f64[classes], sums over the images of a class of
      `step.top_error`, which counts ties in part.
  """

  def __init__(self, names: tuple[str, ...], mesh: Mesh):
    self.names = names
    self.top1_error = np.zeros(len(names))
    self.top5_error = np.zeros(len(names))
    # Of each image label * classes + prediction: far less than a matrix of
    # thousands of classes.
    self._pairs = [np.zeros(0, np.int64)]
    self._outcomes = step.make_outcomes(mesh)

  @property
  def confusion(self) -> np.ndarray:
    """Images by label and most probable class, i64[classes,classes]."""
    count = len(self.names)
    pairs = np.concatenate(self._pairs)
    return np.bincount(pairs, minlength=count**2).reshape(count, count)

  @property
  def num_examples(self) -> np.ndarray:
    """The number of images of each class, i64[classes]."""
    labels = np.concatenate(self._pairs) // len(self.names)
    return np.bincount(labels, minlength=len(self.names))

  def add(self, log_probabilities: jax.Array, batch: step.Batch) -> None:
    """Adds the images of weight 1 of a batch.

    `log_probabilities` f32[B,classes] are on the devices, as the batch.
    """
    outcomes = self._outcomes(log_probabilities, batch["label"])
    found, label, weight = jax.device_get(
      (outcomes, batch["label"], batch["weight"])
    )
    real = weight > 0
    label = label[real]
    pairs = label.astype(np.int64) * len(self.names) + found["predicted"][real]
    self._pairs.append(pairs)
    np.add.at(self.top1_error, label, found["top1_error"][real])
    np.add.at(self.top5_error, label, found["top5_error"][real])

  def most_confused(self, count: int = 0) -> list[Confusion]:
    """The pairs of classes that are confused most often, at most `count`.

    0: all pairs that occur.
    """
    pairs, counts = np.unique(np.concatenate(self._pairs), return_counts=True)
    labels, predicted = np.divmod(pairs, len(self.names))
    order = np.argsort(-counts, kind="stable")
    order = order[labels[order] != predicted[order]][: count or None]
    columns = (labels[order], predicted[order], counts[order])
    return [Confusion(*map(int, row)) for row in zip(*columns, strict=True)]

  def to_csv(self) -> str:
    """A line for each class: its errors, and what it is most often taken for.

    The errors of a class without images are empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    headings = ("class", "name", "num_examples", "top1_error", "top5_error")
    writer.writerow((*headings, "most_confused_with", "times"))
    # The most frequent one of each class; the last to be set stays.
    confusions = {pair.label: pair for pair in self.most_confused()[::-1]}
    for index, (name, count) in enumerate(
      zip(self.names, self.num_examples, strict=True)
    ):
      errors = ("", "")
      if count:
        sums = self.top1_error[index], self.top5_error[index]
        errors = tuple(f"{total / count:.6g}" for total in sums)
      confused = ("", 0)
      if pair := confusions.get(index):
        confused = (self.names[pair.predicted], pair.count)
      writer.writerow((index, name, count, *errors, *confused))
    return file.getvalue()
