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
    confusion: i64[classes,classes], number of images by label and by most
      probable class.
    top1_error, top5_error: f64[classes], sums over the images of a class of
      `step.top_error`, which counts ties in part.
  """

  def __init__(self, names: tuple[str, ...], mesh: Mesh):
    self.names = names
    self.confusion = np.zeros((len(names), len(names)), np.int64)
    self.top1_error = np.zeros(len(names))
    self.top5_error = np.zeros(len(names))
    self._outcomes = step.make_outcomes(mesh)

  @property
  def num_examples(self) -> np.ndarray:
    """The number of images of each class, i64[classes]."""
    return self.confusion.sum(axis=1)

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
    np.add.at(self.confusion, (label, found["predicted"][real]), 1)
    np.add.at(self.top1_error, label, found["top1_error"][real])
    np.add.at(self.top5_error, label, found["top5_error"][real])

  def most_confused(self, count: int) -> list[Confusion]:
    """The pairs of classes that are confused most often, at most `count`."""
    wrong = self.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    found = [Confusion(int(a), int(b), int(wrong[a, b])) for a, b in pairs]
    return [pair for pair in found if pair.count]

  def to_csv(self) -> str:
    """A line for each class: its errors, and what it is most often taken for.

    The errors of a class without images are empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    headings = ("class", "name", "num_examples", "top1_error", "top5_error")
    writer.writerow((*headings, "most_confused_with", "times"))
    wrong = self.confusion.copy()
    np.fill_diagonal(wrong, 0)
    for index, (name, count) in enumerate(
      zip(self.names, self.num_examples, strict=True)
    ):
      errors = ("", "")
      if count:
        sums = self.top1_error[index], self.top5_error[index]
        errors = tuple(f"{total / count:.6g}" for total in sums)
      other = int(wrong[index].argmax())
      times = int(wrong[index, other])
      confused = (self.names[other], times) if times else ("", 0)
      writer.writerow((index, name, count, *errors, *confused))
    return file.getvalue()
