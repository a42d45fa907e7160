"""Readable names of classes that a dataset calls by an id or a number.

These are ImageNet's classes, by WordNet id, and those of the drawn patterns. In
files classes keep the names of the dataset; output for people has both.
"""

import functools
import pathlib
import re
from collections.abc import Sequence

from alexnet_jax.data import patterns

# `n01440764 tench`: the classes of ILSVRC-2012 to 2017 by WordNet id, in the
# order of their labels, and the first word of each class. (Of two classes whose
# first words are the same, one has two: crane, crane bird.) The same in the
# lists of torchvision 0.29.1 and timm 1.0.31.
IMAGENET = pathlib.Path(__file__).with_name("imagenet_classes.txt")


def in_words(names: Sequence[str], dataset: str = "") -> tuple[str, ...]:
  """The readable names of classes; of most datasets, the names themselves.

  Args:
    names: class names as the dataset has them, in the order of the labels.
    dataset: tfds name, by which drawn patterns are recognised.
  """
  numbers = [str(number) for number in range(len(names))]
  drawn = re.match(r"patterns(/\d+)?(:.*)?$|patterns_\d+_\d+$", dataset)
  if drawn and list(names) == numbers:
    return tuple(patterns.class_words(len(names)))
  known = imagenet_words()
  return tuple(known.get(name, name) for name in names)


def is_imagenet(names: Sequence[str]) -> bool:
  """Whether the classes are called by WordNet ids, such as n01440764."""
  return all(re.fullmatch(r"n\d{8}", name) for name in names)


@functools.cache
def imagenet_words() -> dict[str, str]:
  """The readable names of ImageNet's thousand classes, by WordNet id."""
  lines = IMAGENET.read_text().splitlines()
  return dict(line.split(" ", 1) for line in lines)
