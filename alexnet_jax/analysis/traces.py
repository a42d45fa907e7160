"""Traces: what the towers compute for one picture, layer by layer."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from scipy import special

from alexnet_jax.data.picture_files import Picture
from alexnet_jax.training.classifier import Classifier


class Trace(NamedTuple):
  """What a network, whole or cut, computes for one picture.

  Attributes:
    maps: what each layer but fc8 hands on, by its name; a list over towers of
      f32[H,W,maps] or f32[units].
    scores: each tower's part of the class scores, f32[towers,classes].
    bias: which is added to the sum of the scores, f32[classes].
    answers: the class probabilities f64[classes] by what gives them: "tower 0 +
      tower 1" (or "the network"); without the sum at fc8, each tower.
  """

  maps: dict[str, list[np.ndarray]]
  scores: np.ndarray
  bias: np.ndarray
  answers: dict[str, np.ndarray]


def trace(
  net: Classifier,
  picture: Picture,
  silent: Collection[int] = (),
  summed: bool = True,
) -> Trace:
  """Runs a network, whole or cut, on a picture.

  Args:
    net: the network, such as a result of `Classifier.cut`.
    picture: of any size.
    silent: indices of the towers that are cut, which give no answer.
    summed: whether the towers' class scores are summed; if not, each tower
      answers from its own.

  Raises:
    UserError: the picture cannot be read.
  """
  found = {name: x[0] for name, x in net.all_activations(picture).items()}
  logits, count = found.pop("fc8"), net.model.towers.network.towers
  maps = {name: np.split(x, count, axis=-1) for name, x in found.items()}
  kernel = np.asarray(net.model.towers.fc8.kernel[...])
  last = maps[net.layers[-2]]  # what fc8 reads
  scores = np.stack([last[i].ravel() @ kernel[i] for i in range(count)])
  bias = np.asarray(net.model.fc8_bias[...])
  towers = [i for i in range(count) if i not in silent]
  if summed:
    names = [f"tower {i}" for i in towers] if count > 1 else ["the network"]
    answers = {" + ".join(names): softmax(logits)}
  else:
    answers = {f"tower {i}": softmax(scores[i] + bias) for i in towers}
  return Trace(maps, scores, bias, answers)


def softmax(scores: np.ndarray) -> np.ndarray:
  """The probabilities f64[classes] of class scores f32[classes]."""
  return special.softmax(scores.astype(np.float64))
