"""The report's confusion matrix."""

import base64
import io
import re

import numpy as np
from PIL import Image

from alexnet_jax.analysis import confusion
from alexnet_jax.training.class_errors import ClassErrors
from alexnet_jax.training.predictions import Predictions


def make_errors(counts, names):
  """Errors of images with `counts` i64[classes,classes] as confusion."""
  labels, predicted = np.nonzero(counts)
  times = np.array(counts)[labels, predicted]
  labels, predicted = np.repeat(labels, times), np.repeat(predicted, times)
  wrong, none = labels != predicted, np.zeros(len(labels))
  index = np.arange(len(labels))
  found = Predictions(index, labels, predicted, none + 1, wrong, none)
  return ClassErrors(names, found)


def test_few_classes_are_a_table_with_the_counts():
  counts = [[8, 2, 0], [1, 3, 0], [0, 0, 0]]
  names = ("ash", "<elm>", "oak")
  html = confusion.section(make_errors(counts, names), "tiny test")
  assert "14 images of tiny test" in html
  cells = re.findall(r"<td style=\"[^\"]* (\d+)%[^\"]*\">(\d+)</td>", html)
  assert cells == [
    *(("64", "8"), ("16", "2"), ("0", "0")),
    *(("20", "1"), ("60", "3"), ("0", "0")),
    *3 * [("0", "0")],
  ]
  pairs = re.findall(r"<td>([^<]*)</td>", html)
  first, second = ("ash", "&lt;elm&gt;"), ("&lt;elm&gt;", "ash")
  assert pairs == [*first, "2", "20.0%", *second, "1", "25.0%"]


def test_many_classes_are_a_picture():
  """Class i is half right; the other half is taken for class 0."""
  count = 30
  counts = np.diag(np.full(count, 5))
  counts[1:, 0] += 5
  names = list(map(str, range(count)))
  html = confusion.section(make_errors(counts, names), "x")
  data = re.search(r"base64,([^\"]*)", html)[1]
  pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
  assert pixels.shape == (600, 600, 3)
  fields = pixels[10::20, 10::20].astype(int)
  np.testing.assert_array_equal(fields[0, 0], [31, 111, 178])
  assert (fields[0, 1:] == 255).all()
  # White less the root of a half of its difference from the blue.
  halves = np.abs(fields[1:, 0] - (97, 153, 201)).max()
  assert halves <= 1
  assert (
    fields[np.arange(1, count), np.arange(1, count)] == fields[1:, 0]
  ).all()
  assert html.count("<tr>") == 1 + confusion.MAX_PAIRS
