"""Is it learning? What the network is like inside while the loss stands still.

AlexNet's loss may stay at ln(classes), that of guessing, for a long time: all
images look alike to the last layers, and only the frequencies of the classes
can be learnt. These numbers tell a plateau that is being left from a stall
(docs/plateau.md). They are computed tower by tower and put together on the
host, so they add no exchange.
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
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import (
  AlexNet,
  abstract_net,
  activations,
  param_specs,
)
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import BATCH, DATA, MODEL, REPLICATED

IMAGES = 32  # looked at, about as many
MARGIN = 0.05  # below ln(classes): the plateau is left
WINDOW = 100  # steps that the loss is averaged over
GROWTH = 1.2  # of the spread of the scores, over READINGS of it
READINGS = 5


def num_images(mesh: Mesh) -> int:
  """How many images to look at: some 32, divisible over the mesh."""
  data = mesh.shape[DATA]
  return data * max(1, IMAGES // data)


class Diagnostics:
  """Measures a network on images that stay the same through a run."""

  def __init__(
    self,
    network: Network,
    mesh: Mesh,
    batch: dict[str, jax.Array],
    statistics: ImageStatistics,
  ):
    """Compiles nothing yet.

    Args:
      network: the network.
      mesh: that the parameters lie on.
      batch: `image` uint8[B,S,S,3] and `weight` f32[B], over "data".
      statistics: of the training images.
    """
    self._batch, self._statistics = batch, statistics
    self._look = _make_look(network, mesh)
    self._norms = jax.jit(_squared_norms)

  def __call__(self, net: AlexNet, optimizer_state: Any) -> dict[str, float]:
    """What metrics.jsonl says of the network after a step.

    Args:
      net: the parameters.
      optimizer_state: of the training. If it has the structure of `net`, as
        `momentum_sgd`'s velocity, it is the update that led to `net`.

    Returns:
      `score_spread`: standard deviation of a class's score between images,
      mean over classes, dropout off; `fc7_correlation`: of the last hidden
      layer between images, mean over pairs; `dead_LAYER`: share of the layer's
      maps or units that are zero on every image and place;
      `update_ratio_LAYER`: length of the update over that of the weights;
      left out if the optimiser does not keep its last update.
    """
    norms = {}
    if isinstance(optimizer_state, AlexNet):
      norms = self._norms(net, optimizer_state)
    seen = self._look(net, self._batch["image"], self._statistics)
    seen, norms, weight = _to_host((seen, norms, self._batch["weight"]))
    real = weight > 0
    scores = seen.pop("scores").sum(axis=1)[real]
    hidden = seen.pop("hidden")[real]
    found = {
      "score_spread": float(scores.std(axis=0).mean()),
      "fc7_correlation": _mean_correlation(hidden),
    }
    for name, alive in seen.items():
      found[f"dead_{name}"] = float(1 - alive.any(axis=0).mean())
    for name, (updates, weights) in norms.items():
      ratio = math.sqrt(updates.sum() / max(weights.sum(), 1e-30))
      found[f"update_ratio_{name}"] = ratio
    return found


def _make_look(network: Network, mesh: Mesh):
  """Compiles a forward pass that hands out each tower's own view."""

  def look(net, images, statistics):
    x = augment.view_images(
      images, statistics, 0, network.crop_size, network.channels
    )
    layers = activations(net, x)
    scores = sum(layers.pop("fc8"))
    last = list(layers)[-1]
    hidden = [h.reshape(h.shape[0], -1) for h in layers[last]]
    alive = {
      name: jnp.concatenate(
        [(h != 0).any(axis=range(h.ndim - 1)) for h in towers]
      )[jnp.newaxis]
      for name, towers in layers.items()
    }
    return alive | {
      "scores": scores[:, jnp.newaxis],  # f32[B,1,classes]: not summed yet
      "hidden": jnp.concatenate(hidden, axis=-1),
    }

  net_specs = param_specs(abstract_net(network))
  specs = (net_specs, BATCH, REPLICATED)
  return jax.jit(sharding.on_each_device(look, mesh, specs, P(DATA, MODEL)))


def _squared_norms(net: AlexNet, velocity: AlexNet) -> dict[str, Any]:
  """By layer, sums of squares of its update and weights, f32[towers] each."""

  def sums(kernel):
    return jnp.square(kernel).sum(axis=range(1, kernel.ndim))

  found = {}
  for (path, weights), update in zip(
    jax.tree.leaves_with_path(net), jax.tree.leaves(velocity), strict=True
  ):
    names = [str(getattr(key, "name", "")) for key in path]
    if "kernel" in names:
      found[names[1]] = (sums(update), sums(weights))
  return found


def _mean_correlation(vectors: np.ndarray) -> float:
  """Of all pairs of rows; constant rows have none, and count as alike."""
  centred = vectors - vectors.mean(axis=1, keepdims=True, dtype=np.float64)
  lengths = np.linalg.norm(centred, axis=1, keepdims=True)
  units = centred / np.where(lengths, lengths, 1)
  correlation = np.where(lengths * lengths.T, units @ units.T, 1.0)
  count = len(vectors)
  return float((correlation.sum() - count) / max(count * (count - 1), 1))


def _to_host(tree: Any) -> Any:
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


class Verdict:
  """Says on the progress line whether the plateau is being left."""

  def __init__(self, num_classes: int):
    """Nothing was seen yet; a resumed run begins anew.

    Args:
      num_classes: whose logarithm is the loss of guessing.
    """
    self._bound = math.log(num_classes) - MARGIN
    self._losses = collections.deque(maxlen=WINDOW)
    self._spreads = collections.deque(maxlen=READINGS)

  def saw(self, loss: float) -> None:
    """To be told the loss of each step."""
    self._losses.append(loss)

  def measured(self, score_spread: float) -> None:
    """To be told each reading of the spread of the scores."""
    self._spreads.append(score_spread)

  def text(self) -> str:
    """One of three verdicts on a plateau; "" elsewhere, or before WINDOW steps.

    The signal is growing if the spread of the scores between images grew by a
    fifth over the last five readings.
    """
    if len(self._losses) < WINDOW:
      return ""
    if sum(self._losses) / WINDOW < self._bound:
      return ""
    if len(self._spreads) < READINGS:
      return "on the plateau"
    if self._spreads[-1] > GROWTH * self._spreads[0]:
      return "on the plateau, signal growing"
    return "stalled: see docs/plateau.md"
