"""Which classes a network confuses: a matrix, and the most frequent pairs."""

from collections.abc import Sequence

import numpy as np

from alexnet_jax.analysis import page
from alexnet_jax.analysis.number_format import percent
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.training.class_errors import ClassErrors

MAX_IN_TABLE = 20  # classes; a matrix of more is a picture
MAX_PAIRS = 10
SIDE = 600  # pixels of the picture


def section(errors: ClassErrors, images: str) -> Html:
  """The confusion matrix, and the pairs that are confused most often.

  Args:
    errors: of the network, on these images.
    images: what they are, such as "tiny/1.2.0 validation".
  """
  matrix, words = errors.confusion, errors.words
  note = element(
    "p",
    f"{matrix.sum():,} images of {images}, one view each. Rows are the classes"
    " of the images, columns the most probable classes; the stronger a"
    " field's colour, the larger its share of the row.",
    class_="note",
  )
  draw = _table if len(words) <= MAX_IN_TABLE else _picture
  parts = [note, draw(matrix, words)]
  pairs = []
  for label, predicted, count in errors.most_confused(MAX_PAIRS):
    share = percent(count / errors.num_examples[label])
    pairs.append((words[label], words[predicted], count, share))
  if pairs:
    headings = ("class", "taken for", "images", "share of its images")
    parts += [element("h3", "Most confused"), page.table(headings, pairs)]
  return page.join(parts)


def shares(confusion: np.ndarray) -> np.ndarray:
  """Each row's shares: i64[classes,classes] -> f64; 0 without images."""
  return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def _table(confusion: np.ndarray, words: Sequence[str]) -> Html:
  tints = np.round(80 * shares(confusion)).astype(int)

  def cell(label, predicted):
    tint = tints[label, predicted]
    style = f"background: color-mix(in srgb, var(--good) {tint}%, transparent)"
    return element("td", int(confusion[label, predicted]), style=style)

  numbers = range(len(words))
  upright = [element("th", element("span", word)) for word in words]
  head = element("tr", element("th", ""), *upright)
  rows = [
    element("tr", element("th", words[i]), *(cell(i, j) for j in numbers))
    for i in numbers
  ]
  content = element("table", element("thead", head), element("tbody", *rows))
  return element("div", content, class_="wide confusion")


def _picture(confusion: np.ndarray, words: Sequence[str]) -> Html:
  white, blue = np.array([255, 255, 255]), np.array([31, 111, 178])
  # The root makes the small shares beside the diagonal visible.
  share = np.sqrt(shares(confusion))[:, :, np.newaxis]
  pixels = np.round(white + share * (blue - white)).astype(np.uint8)
  scale = max(SIDE // len(words), 1)
  pixels = pixels.repeat(scale, 0).repeat(scale, 1)
  matrix = page.picture(pixels, f"confusion matrix of {len(words):,} classes")
  return element("div", matrix, class_="sharp")
