"""Published weights: what torchvision and Caffe call the arrays of AlexNet.

Their shapes are those of `grouped`: torchvision's network is one tower without
groups, and Caffe's are one tower with groups.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from alexnet_jax.model.network import LAYERS

Arrays = dict[str, np.ndarray]


class Layout(NamedTuple):
  """How a program names the arrays of its network."""

  program: str
  # In which its conv1 reads the colours, "rgb" or "bgr"; "": either.
  order: str
  layers: dict[str, str]  # its name of each layer, by ours
  kinds: dict[str, str]  # its "weight" and "bias"

  def theirs(self, name: str) -> str:
    """The program's name of an array, such as "features.0.weight"."""
    layer, _, kind = name.partition(".")
    if layer not in self.layers or kind not in self.kinds:
      return name  # such as the arrays of batch normalisation
    return f"{self.layers[layer]}.{self.kinds[kind]}"


_KINDS = {"weight": "weight", "bias": "bias"}
_SAME = dict(zip(LAYERS, LAYERS, strict=True))
OURS = Layout("alexnet_jax", "", _SAME, _KINDS)
TORCHVISION = Layout(
  "torchvision",
  "rgb",
  {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
  },
  _KINDS,
)
# Caffe numbers the blobs of a layer.
CAFFE = Layout("caffe", "bgr", _SAME, {"weight": "0", "bias": "1"})


def rename(arrays: Mapping[str, np.ndarray]) -> tuple[Layout, Arrays]:
  """Finds out whose names these are; returns the arrays under our names.

  `conv1.0`, `conv1/0` and `conv1_0` are all Caffe's first blob of conv1. The
  `module.` that PyTorch's data parallelism inserts is dropped. An array whose
  name is in no layout keeps it. Blobs of old Caffe files have four dimensions;
  they lose those that only fill up.
  """
  plain = {}
  for name, array in arrays.items():
    name = re.sub(r"\bmodule\.", "", name)
    name = re.sub(r"^((?:conv|fc)\d)[./_]([01])$", r"\1.\2", name)
    plain[name] = array
  ours, layout = {}, OURS
  for one in (OURS, TORCHVISION, CAFFE):
    names = {one.theirs(name): name for name in _names()}
    if len(names.keys() & plain.keys()) > len(ours.keys() & plain.keys()):
      ours, layout = names, one
  renamed = {ours.get(name, name): array for name, array in plain.items()}
  if layout is CAFFE:
    renamed = {name: _squeezed(name, a) for name, a in renamed.items()}
  return layout, renamed


def _names() -> list[str]:
  return [f"{layer}.{kind}" for layer in LAYERS for kind in _KINDS]


def _squeezed(name: str, array: np.ndarray) -> np.ndarray:
  """[1,1,1,N] -> [N] of a bias, [1,1,N,M] -> [N,M] of a linear layer."""
  wanted = 1 if name.endswith(".bias") else 2 if name.startswith("fc") else 4
  extra = array.ndim - wanted
  if extra > 0 and array.shape[:extra] == (1,) * extra:
    return array.reshape(array.shape[extra:])
  return array
