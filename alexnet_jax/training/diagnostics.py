"""Diagnostics of a network that may be stuck on a plateau.

AlexNet's loss may stay at ln(classes), the chance level, for a long time: to
the last layers all images look alike, and only the class frequencies can be
learnt. These numbers tell a plateau that is being left from a stalled run
(docs/plateau.md). They are computed per tower and combined on the host, so
they add no exchange.
"""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import augment
from alexnet_jax.data.augment import ImageStatistics
from alexnet_jax.model import alexnet, sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import BATCH, DATA, MODEL, REPLICATED

NUM_IMAGES = 32  # approximate size of the batch that is measured
MARGIN = 0.05  # the plateau is left when the loss is this far below chance
WINDOW = 100  # number of steps over which the loss is averaged
READINGS = 5  # number of score spreads that are kept
GROWTH = 1.2  # the signal grows if the spread grew by this factor over them


def num_images(mesh: Mesh) -> int:
  """Number of images to measure: about 32, divisible over the mesh."""
  data = mesh.shape[DATA]
  return data * max(1, NUM_IMAGES // data)


class Diagnostics:
  """Measures a network on the same images through a whole run."""

  def __init__(
    self,
    network: Network,
    mesh: Mesh,
    batch: dict[str, jax.Array],
    statistics: ImageStatistics,
  ):
    """Compiles nothing yet.

    Args:
      mesh: the mesh that the parameters lie on.
      batch: `image` uint8[B,S,S,3] and `weight` f32[B], over "data".
      statistics: of the training images.
    """
    self._batch, self._statistics = batch, statistics
    self._probe = _make_probe(network, mesh)
    self._squared_norms = jax.jit(_squared_norms)

  def __call__(self, net: AlexNet, optimizer_state: Any) -> dict[str, float]:
    """Measures the network after a step, for a line of metrics.jsonl.

    If `optimizer_state` has the structure of `net`, as `momentum_sgd`'s
    velocity, it is the update that led to `net`.

    Returns:
      `score_spread`: standard deviation of a class's score between images,
      mean over classes, without dropout.
      `fc7_correlation`: correlation of the last hidden layer between images,
      mean over pairs.
      `dead_LAYER`: fraction of the layer's maps or units that are zero for
      every image at every position.
      `update_ratio_LAYER`: norm of the update divided by that of the weights;
      left out for a layer that was not updated, such as a frozen one, and if
      the optimiser does not keep its last update.
    """
    norms = {}
    if isinstance(optimizer_state, AlexNet):
      norms = self._squared_norms(net, optimizer_state)
    measured = self._probe(net, self._batch["image"], self._statistics)
    measured, norms, weight = multihost_utils.process_allgather(
      (measured, norms, self._batch["weight"]), tiled=True
    )
    real = weight > 0
    scores = measured.pop("scores").sum(axis=1)[real]
    hidden = measured.pop("hidden")[real]
    with np.errstate(over="ignore", invalid="ignore"):  # of a diverging run
      found = {
        "score_spread": float(scores.std(axis=0).mean()),
        "fc7_correlation": _mean_correlation(hidden),
      }
    for name, alive in measured.items():
      found[f"dead_{name}"] = float(1 - alive.any(axis=0).mean())
    for name, (updates, weights) in norms.items():
      if updates.any():
        ratio = math.sqrt(updates.sum() / max(weights.sum(), 1e-30))
        found[f"update_ratio_{name}"] = ratio
    return found


def _make_probe(network: Network, mesh: Mesh):
  """Compiles a forward pass that returns what each tower computed.

  Of (net, images uint8[B,S,S,3], statistics) it returns `scores`
  f32[B,towers,classes], not yet summed over towers; `hidden` f32[B,units], the
  last hidden layer; and for each layer bool[data,units or maps], whether a unit
  is non-zero for any image of a device.
  """

  def probe(net, images, statistics):
    x = augment.view_images(
      images, statistics, 0, network.crop_size, network.channels
    )
    layers = alexnet.activations(net, x)
    scores = sum(layers.pop("fc8"))
    last = list(layers)[-1]
    hidden = [h.reshape(h.shape[0], -1) for h in layers[last]]

    def alive(towers):
      units = [(h != 0).any(axis=range(h.ndim - 1)) for h in towers]
      return jnp.concatenate(units)[jnp.newaxis]

    return {name: alive(towers) for name, towers in layers.items()} | {
      "scores": scores[:, jnp.newaxis],
      "hidden": jnp.concatenate(hidden, axis=-1),
    }

  net_specs = alexnet.param_specs(alexnet.abstract_net(network))
  specs = (net_specs, BATCH, REPLICATED)
  return jax.jit(sharding.on_each_device(probe, mesh, specs, P(DATA, MODEL)))


def _squared_norms(net: AlexNet, update: AlexNet) -> dict[str, Any]:
  """By layer, squared norms of its update and its weights, f32[towers] each."""

  def squared_norms(kernel):
    return jnp.square(kernel).sum(axis=range(1, kernel.ndim))

  found = {}
  leaves = zip(
    jax.tree.leaves_with_path(net), jax.tree.leaves(update), strict=True
  )
  for (path, weights), step in leaves:
    names = [str(getattr(key, "name", "")) for key in path]
    if "kernel" in names:
      found[names[1]] = squared_norms(step), squared_norms(weights)
  return found


def _mean_correlation(vectors: np.ndarray) -> float:
  """Mean over all pairs of rows; a constant row counts as equal to any."""
  centred = vectors - vectors.mean(axis=1, keepdims=True, dtype=np.float64)
  lengths = np.linalg.norm(centred, axis=1, keepdims=True)
  units = centred / np.where(lengths, lengths, 1)
  correlation = np.where(lengths * lengths.T, units @ units.T, 1.0)
  count = len(vectors)
  return float((correlation.sum() - count) / max(count * (count - 1), 1))


class PlateauDetector:
  """Tells on the progress line whether the plateau is being left."""

  def __init__(self, num_classes: int):
    """Starts without readings, also in a resumed run."""
    self._bound = math.log(num_classes) - MARGIN  # below chance level
    self._losses = collections.deque(maxlen=WINDOW)
    self._spreads = collections.deque(maxlen=READINGS)

  def add_loss(self, loss: float) -> None:
    self._losses.append(loss)

  def add_spread(self, score_spread: float) -> None:
    self._spreads.append(score_spread)

  def message(self) -> str:
    """One of three messages on the plateau; "" elsewhere and at the start.

    "signal growing": the spread of the scores between images grew by a fifth
    over the last five readings.
    """
    full = len(self._losses) == WINDOW
    if not full or sum(self._losses) / WINDOW < self._bound:
      return ""
    if len(self._spreads) < READINGS:
      return "on the plateau"
    if self._spreads[-1] > GROWTH * self._spreads[0]:
      return "on the plateau, signal growing"
    return "stalled: see docs/plateau.md"
