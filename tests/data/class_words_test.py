"""Class names in words, against drawn images and tfds' own list."""

import importlib.resources

import cv2
import numpy as np
import pytest

from alexnet_jax.data import class_words, patterns


def test_imagenet_has_a_thousand_classes_in_the_order_of_tfds():
  words = class_words.imagenet_words()
  labels = importlib.resources.files(
    "tensorflow_datasets.datasets.imagenet2012"
  ).joinpath("labels.txt")
  assert list(words) == labels.read_text().split()
  assert len(set(words.values())) == 1000
  # WordNet: the fish, the bird and the machine, the garment.
  assert words["n01440764"] == "tench"
  assert words["n02012849"] == "crane bird"
  assert words["n03126707"] == "crane"
  assert words["n15075141"] == "toilet tissue"


def test_only_ids_and_patterns_are_put_in_words():
  names = ("n01440764", "oak", "3")
  assert class_words.in_words(names, "mine") == ("tench", "oak", "3")
  digits = tuple(map(str, range(10)))
  assert class_words.in_words(digits, "mnist") == digits
  assert class_words.in_words(digits, "patterns_of_mine") == digits
  assert class_words.in_words(("a", "b"), "patterns/2") == ("a", "b")
  for dataset in ("patterns", "patterns/10", "patterns_10_256"):
    assert class_words.in_words(digits, dataset)[3] == "rings, warm above cool"


@pytest.mark.parametrize("num_classes", [10, 100, 500, 2000])
def test_no_two_patterns_have_the_same_words(num_classes):
  assert len(set(patterns.class_words(num_classes))) == num_classes


def test_the_words_describe_the_drawn_images():
  """Colours and hues, and the direction of bars, measured in the pixels."""
  for label, words in list(enumerate(patterns.class_words(100)))[::3]:
    image, drawn = patterns.draw("train", label, 100)
    assert drawn == label
    shape, colors = words.split(", ")
    middle = len(image) // 2
    halves = image[: middle // 2], image[-(middle // 2) :]
    for half, color in zip(halves, colors.split(" above "), strict=True):
      degrees = int(color.split("(")[1].rstrip("°)"))
      assert (degrees < 180) == color.startswith("warm")
      hue, saturation, value = np.moveaxis(
        cv2.cvtColor(half, cv2.COLOR_RGB2HSV_FULL).astype(float), -1, 0
      )
      strong = (saturation > 0.4 * 255) & (value > 100)
      angle = np.median((hue[strong] * 360 / 255 - degrees + 180) % 360 - 180)
      assert abs(angle) < 15, (words, angle)
      if "bars" in shape:
        grey = half.mean(-1)
        down, across = (
          np.abs(grey[8:] - grey[:-8]).mean(),
          np.abs(grey[:, 8:] - grey[:, :-8]).mean(),
        )
        assert (across > down) == shape.startswith("vertical"), words
