"""Figures 3 and 4: the kernels of conv1, predictions, nearest neighbours."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import augment
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet, activations, param_specs
from alexnet_jax.model.sharding import BATCH, DATA, MODEL, REPLICATED


def kernels(net: AlexNet) -> np.ndarray:
  """conv1's kernels, one tower after the other: f32[towers,48,11,11,3]."""
  return np.moveaxis(np.asarray(net.towers.conv1.kernel[...]), -1, 1)


def kernel_grid(
  tower: np.ndarray, columns: int = 16, scale: int = 4
) -> np.ndarray:
  """Kernels as Figure 3 shows them, each stretched to its own full range.

  Args:
    tower: f32[n,h,w,3].
    columns: kernels in a row at most.
    scale: pixels a weight.

  Returns:
    uint8[H,W,3], with a white line around each kernel.
  """
  count, height, width, _ = tower.shape
  columns = min(columns, count)
  rows = -(-count // columns)
  low = tower.min(axis=(1, 2, 3), keepdims=True)
  span = tower.max(axis=(1, 2, 3), keepdims=True) - low
  pixels = np.round(255 * (tower - low) / np.where(span, span, 1))
  pixels = pixels.astype(np.uint8).repeat(scale, 1).repeat(scale, 2)
  high, wide = height * scale + 2, width * scale + 2
  grid = np.full((rows * high + 2, columns * wide + 2, 3), 255, np.uint8)
  for i, kernel in enumerate(pixels):
    y, x = i // columns * high + 2, i % columns * wide + 2
    grid[y : y + height * scale, x : x + width * scale] = kernel
  return grid


def colour_scores(all_kernels: np.ndarray) -> np.ndarray:
  """How coloured each kernel is: f32[...,h,w,3] -> f64[...], 0 to 1.

  The share of a kernel's energy (its sum of squares) that is not common to
  red, green and blue. A grey kernel has 0, random weights have 2/3.
  """
  weights = all_kernels.astype(np.float64)
  grey = weights.mean(axis=-1, keepdims=True)
  coloured = np.square(weights - grey).sum(axis=(-3, -2, -1))
  energy = np.square(weights).sum(axis=(-3, -2, -1))
  return coloured / np.where(energy, energy, 1)


class Specialisation(NamedTuple):
  """Whether one tower took the colours, as section 6.1 says.

  Attributes:
    means: the mean colour score of each tower.
    tower: the more coloured one.
    p_value: how often towers dealt the same kernels at random differ as much.
  """

  means: tuple[float, ...]
  tower: int
  p_value: float

  @property
  def appears(self) -> bool:
    """At a significance of one in a hundred."""
    return self.p_value < 0.01


def specialisation(
  scores: np.ndarray, seed: int = 0, deals: int = 9999
) -> Specialisation:
  """Compares the towers' colour scores f64[2,n] by a permutation test."""
  means = scores.mean(axis=1)
  seen = abs(means[1] - means[0])
  random = np.random.default_rng(seed)
  dealt = random.permuted(np.tile(scores.ravel(), (deals, 1)), axis=1)
  halves = dealt.reshape(deals, 2, -1).mean(axis=2)
  # A hair of rounding must not tell a deal from the very same towers.
  as_much = np.abs(halves[:, 1] - halves[:, 0]) >= seen * (1 - 1e-12)
  p_value = (1 + int(as_much.sum())) / (1 + deals)
  tower = int(means.argmax())
  return Specialisation(tuple(map(float, means)), tower, p_value)


def make_features(net: AlexNet, mesh: Mesh) -> Callable[..., jax.Array]:
  """Compiles the last hidden layer of the centre view: fc7, if there is one.

  Returns:
    A function of (net, images uint8[B,S,S,3], statistics) that returns
    f32[B,4096], tower 0's units first (of a map its places). Each device hands
    out its own towers' units, so nothing is exchanged but what the network
    exchanges.
  """
  network = net.towers.network

  def features_on_device(net, images, statistics):
    x = augment.view_images(images, statistics, 0, network.crop_size)
    x = x if network.channels == 3 else augment.grey(x)
    *_, towers, _ = activations(net, x).values()  # the layer before fc8
    return jax.numpy.concatenate(
      [units.reshape(units.shape[0], -1) for units in towers], axis=-1
    )

  return jax.jit(
    sharding.on_each_device(
      features_on_device,
      mesh,
      (param_specs(net), BATCH, REPLICATED),
      P(DATA, MODEL),
    )
  )


def nearest(
  queries: np.ndarray,
  batches: Iterable[tuple[np.ndarray, np.ndarray]],
  count: int = 6,
) -> tuple[np.ndarray, np.ndarray]:
  """The `count` nearest vectors to each query, by Euclidean distance.

  Exact, whatever the batches: the `findsimilar.py` of 2012 keeps one candidate
  of each batch of about a thousand images.

  Args:
    queries: f32[Q,D].
    batches: of (vectors f32[B,D], numbers i32[B]); one at a time is in memory.
    count: how many; fewer if there are fewer vectors.

  Returns:
    numbers i64[Q,count] and distances f64[Q,count], the nearest first; of
    equally near ones the lower number.
  """
  best = np.empty((len(queries), 0))
  numbers = np.empty((len(queries), 0), np.int64)
  for vectors, its_numbers in batches:
    # Differences, not the expansion of the square: that cancels when near.
    squared = np.stack(
      [np.square(vectors - query[np.newaxis]).sum(1, np.float64)
       for query in queries]
    )  # fmt: skip
    best = np.concatenate([best, squared], axis=1)
    tiled = np.tile(its_numbers.astype(np.int64), (len(queries), 1))
    numbers = np.concatenate([numbers, tiled], axis=1)
    order = np.lexsort((numbers, best), axis=1)[:, :count]
    best = np.take_along_axis(best, order, axis=1)
    numbers = np.take_along_axis(numbers, order, axis=1)
  return numbers, np.sqrt(best)


def most_probable(
  log_probabilities: np.ndarray, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
  """The labels i64[N,count] and probabilities f64[N,count], the best first."""
  order = np.argsort(-log_probabilities, axis=1, kind="stable")[:, :count]
  found = np.take_along_axis(log_probabilities, order, axis=1)
  return order, np.exp(found.astype(np.float64))
