"""The errors of a network by class, and which classes it confuses."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.class_words import in_words
from alexnet_jax.training.predictions import Predictions


class Confusion(NamedTuple):
  """Images of one class that are taken for another."""

  label: int  # the class of the images
  predicted: int  # the most probable class
  count: int  # number of such images


class ClassErrors:
  """The errors of evaluated images, by their class.

  Attributes:
    names: class names, in the order of the labels.
    words: readable names of the classes.
    num_examples: images of each class, i64[classes].
    top1_error, top5_error: f64[classes], sums over the images of a class of
      `step.top_error`, which counts ties in part.
  """

  def __init__(
    self, names: Sequence[str], predictions: Predictions, dataset: str = ""
  ):
    """Sums up the predictions, whose labels are positions in `names`.

    `dataset` is its name, from which words for the classes may follow.
    """
    self.names, self.words = tuple(names), in_words(names, dataset)
    # Of each image label * classes + prediction: far less than a matrix of
    # thousands of classes.
    label = predictions.label.astype(np.int64)
    self._pairs = label * len(names) + predictions.predicted

    def by_class(values=None):
      return np.bincount(label, values, minlength=len(names))

    self.num_examples = by_class()
    self.top1_error = by_class(predictions.top1_error)
    self.top5_error = by_class(predictions.top5_error)

  @property
  def confusion(self) -> np.ndarray:
    """Images by label and most probable class, i64[classes,classes]."""
    count = len(self.names)
    found = np.bincount(self._pairs, minlength=count**2)
    return found.reshape(count, count)

  def most_confused(self, count: int = 0) -> list[Confusion]:
    """The pairs of classes that are confused most often, at most `count`.

    0: all pairs that occur.
    """
    pairs, counts = np.unique(self._pairs, return_counts=True)
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
    headings = ["class", "name", "words", "num_examples"]
    headings += ["top1_error", "top5_error"]
    headings += ["most_confused_with", "most_confused_words", "times"]
    writer.writerow(headings)
    # The most frequent one of each class; the last to be set stays.
    confusions = {pair.label: pair for pair in self.most_confused()[::-1]}
    names = list(zip(self.names, self.words, strict=True))
    for index, (name, count) in enumerate(
      zip(names, self.num_examples, strict=True)
    ):
      errors = ("", "")
      if count:
        sums = self.top1_error[index], self.top5_error[index]
        errors = tuple(f"{total / count:.6g}" for total in sums)
      confused = ("", "", 0)
      if pair := confusions.get(index):
        confused = (*names[pair.predicted], pair.count)
      writer.writerow((index, *name, count, *errors, *confused))
    return file.getvalue()
