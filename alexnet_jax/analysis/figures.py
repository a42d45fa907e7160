"""Computes Figures 3 and 4: conv1's kernels, predictions, nearest images."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jax.sharding import Mesh
from scipy import optimize, stats

from alexnet_jax.analysis.run_images import read_images
from alexnet_jax.data import sources
from alexnet_jax.data.class_words import in_words
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.shapes import shapes
from alexnet_jax.model.sharding import DATA
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs, step
from alexnet_jax.training.run_data import RunData

PREDICTIONS = 8  # images on the left of Figure 4
QUERIES = 5  # images on its right
NEIGHBOURS = 6
THUMBNAIL = 96  # pixels


def kernels(net: AlexNet) -> np.ndarray:
  """conv1's kernels by tower: f32[towers,48,11,11,3]."""
  return np.moveaxis(np.asarray(net.towers.conv1.kernel[...]), -1, 1)


def kernel_grid(
  tower: np.ndarray, columns: int = 16, scale: int = 4
) -> np.ndarray:
  """Kernels as Figure 3 shows them, each stretched to its own full range.

  Args:
    tower: f32[n,h,w,3].
    columns: kernels in a row at most.
    scale: pixels per weight.

  Returns:
    uint8[H,W,3], with a white line around each kernel.
  """
  count, height, width, _ = tower.shape
  columns = min(columns, count)
  rows = -(-count // columns)
  pixels = stretched(tower).repeat(scale, 1).repeat(scale, 2)
  high, wide = height * scale + 2, width * scale + 2
  grid = np.full((rows * high + 2, columns * wide + 2, 3), 255, np.uint8)
  for i, kernel in enumerate(pixels):
    y, x = i // columns * high + 2, i % columns * wide + 2
    grid[y : y + height * scale, x : x + width * scale] = kernel
  return grid


def stretched(tower: np.ndarray) -> np.ndarray:
  """Each kernel with its least weight black: f32[n,h,w,3] -> uint8[n,h,w,3]."""
  low = tower.min(axis=(1, 2, 3), keepdims=True)
  span = tower.max(axis=(1, 2, 3), keepdims=True) - low
  pixels = np.round(255 * (tower - low) / np.where(span, span, 1))
  return pixels.astype(np.uint8)


def colour_scores(all_kernels: np.ndarray) -> np.ndarray:
  """How coloured each kernel is: f32[...,h,w,3] -> f64[...], 0 to 1.

  The share of a kernel's energy (its sum of squares) that red, green and blue
  do not have in common. A grey kernel has 0, random weights have 2/3.
  """
  weights = all_kernels.astype(np.float64)
  grey = weights.mean(axis=-1, keepdims=True)
  coloured = np.square(weights - grey).sum(axis=(-3, -2, -1))
  energy = np.square(weights).sum(axis=(-3, -2, -1))
  return coloured / np.where(energy, energy, 1)


def added_by_training(
  all_kernels: np.ndarray, initial: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What is left of kernels without their part along their initial weights.

  Weight decay shrinks the initial noise slowly, and `colour_scores` counts it
  as colour.

  Args:
    all_kernels, initial: f32[...,h,w,3], after and before training.

  Returns:
    The rest of each kernel, f64[...,h,w,3], and the share of its energy that
    was along its initial weights, f64[...].
  """
  axes = (-3, -2, -1)
  w, noise = all_kernels.astype(np.float64), initial.astype(np.float64)
  scale = (w * noise).sum(axes, keepdims=True)
  scale = scale / np.square(noise).sum(axes, keepdims=True)
  along = np.square(scale * noise).sum(axes)
  return w - scale * noise, along / np.square(w).sum(axes)


SIGNIFICANCE = 0.01  # the p-value below which towers are said to differ
POWER = 0.8  # how often the smallest difference that counts as seen is found


class Specialisation(NamedTuple):
  """Whether the colours are in one tower, as section 6.1 reports."""

  means: tuple[float, ...]  # the mean colour score of each tower
  tower: int  # the index of the more coloured one
  p_value: float  # how often random halves of the same kernels differ as much
  count: int  # kernels of a tower
  # The difference of the means that is found with the probability POWER.
  detectable: float

  @property
  def significant(self) -> bool:
    """Whether the towers differ, at the level SIGNIFICANCE."""
    return self.p_value < SIGNIFICANCE


def specialisation(scores: np.ndarray) -> Specialisation:
  """A permutation test (9,999) of the towers' colour scores f64[2,n]."""
  means = scores.mean(axis=1)
  copies = np.tile(scores.ravel(), (9999, 1))
  permuted = np.random.default_rng(0).permuted(copies, axis=1)
  halves = permuted.reshape(9999, 2, -1).mean(axis=2)
  # The tolerance keeps rounding from excluding the original order.
  as_much = np.abs(np.diff(halves)) >= np.abs(np.diff(means)) * (1 - 1e-12)
  p_value = (1 + int(as_much.sum())) / 10_000
  return Specialisation(
    tuple(means.tolist()),
    int(means.argmax()),
    p_value,
    scores.shape[1],
    detectable_difference(scores),
  )


def detectable_difference(scores: np.ndarray) -> float:
  """The difference of two towers' means that a test finds with POWER.

  Of the two-sided t-test at the level SIGNIFICANCE, to which the permutation
  test is close, for kernels that vary within a tower as those of the scores
  f64[2,n] do; infinite for n = 1.
  """
  count = scores.shape[1]
  if count < 2:
    return np.inf
  freedom = 2 * (count - 1)
  critical = stats.t.isf(SIGNIFICANCE / 2, freedom)
  shift = optimize.brentq(
    lambda shift: stats.nct.sf(critical, freedom, shift) - POWER, 0, 1000
  )
  deviation = np.sqrt(scores.var(axis=1, ddof=1).mean())
  return float(shift * deviation * np.sqrt(2 / count))


def make_features(net: AlexNet, mesh: Mesh) -> Callable[..., np.ndarray]:
  """Compiles the last hidden layer of the centre view, in the paper fc7.

  Returns:
    A function of (net, images uint8[B,S,S,3], statistics) that returns
    f32[B,4096], tower 0's units first (maps are flattened).
  """
  network = net.towers.network
  *_, last, _ = shapes(network)  # the layer before fc8
  activations = step.make_activations(network, [last.name], mesh)

  def features(net, images, statistics):
    found = activations(net, images, statistics)[last.name]
    return np.asarray(found).reshape(len(images), -1)

  return features


def nearest(
  queries: np.ndarray, batches: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
  """The six nearest vectors to each query, by Euclidean distance.

  The search is exact. (`findsimilar.py` of 2012 keeps one candidate of each
  batch of about a thousand images.)

  Args:
    queries: f32[Q,D].
    batches: pairs of vectors f32[B,D] and their indices i32[B]; one batch at a
      time is in memory.

  Returns:
    Indices i64[Q,6] and distances f64[Q,6], the nearest first; of equally near
    vectors the one with the lower index.
  """
  best = np.empty((len(queries), 0))
  indices = np.empty((len(queries), 0), np.int64)
  for vectors, batch_indices in batches:
    # Differences, because the expansion of the square cancels for near ones.
    squared = [np.square(vectors - q).sum(1, np.float64) for q in queries]
    best = np.hstack([best, squared])
    indices = np.hstack([indices, np.tile(batch_indices, (len(queries), 1))])
    order = np.lexsort((indices, best), axis=1)[:, :NEIGHBOURS]
    best = np.take_along_axis(best, order, axis=1)
    indices = np.take_along_axis(indices, order, axis=1)
  return indices, np.sqrt(best)


def most_probable(
  log_probabilities: np.ndarray, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
  """The labels i64[N,count] and probabilities f64[N,count], the best first."""
  order = np.argsort(-log_probabilities, axis=1, kind="stable")[:, :count]
  found = np.take_along_axis(log_probabilities, order, axis=1)
  return order, np.exp(found.astype(np.float64))


class Figure4(NamedTuple):
  """Predictions for N images, and the training images nearest to them.

  Without the training images what belongs to neighbours is empty.
  """

  images: np.ndarray  # thumbnails uint8[N,96,96,3]
  labels: np.ndarray  # true labels i64[N]
  log_probabilities: np.ndarray  # f32[N,classes]
  features: np.ndarray  # the last hidden layer, f32[N,4096]
  class_names: Sequence[str]  # readable names of all classes
  split: str  # the name of the split that the N images are from
  # i64[N,6], indices of training images, the nearest first.
  neighbours: np.ndarray = np.empty((0, NEIGHBOURS), np.int64)
  distances: np.ndarray = np.empty((0, NEIGHBOURS))  # Euclidean, f64[N,6]
  # Thumbnails uint8[N,6,96,96,3] of the neighbours.
  neighbour_images: np.ndarray = np.empty((0, NEIGHBOURS), np.uint8)
  neighbour_labels: np.ndarray = np.empty((0, NEIGHBOURS), np.int64)
  class_counts: np.ndarray = np.empty(0, np.int64)  # i64[classes] searched
  no_neighbours: str = ""  # why there are none


def compute_figure4(
  net: AlexNet,
  config: dict[str, Any],
  data: RunData,
  mesh: Mesh,
  *,
  count: int = PREDICTIONS,
  search: int = 0,
  data_dir: str = "",
) -> Figure4:
  """Computes Figure 4 for evenly spaced images of the validation split.

  Args:
    net: on `mesh`.
    config: of the run.
    data: of the run.
    count: N.
    search: number of training images to search, evenly spaced; 0: all.
    data_dir: directory of the dataset; "": the configuration's.

  Raises:
    UserError: the validation images cannot be found, or they are not those of
      the run.
  """
  validation = runs.open_split(config, "validation", data_dir)
  data.check_source(validation)
  size, rescale = config["image_size"], config["pixels"]["rescale"]
  statistics = data.image_statistics(config, mesh)
  chosen = np.linspace(0, len(validation) - 1, count).astype(int)
  images, labels = read_images(validation, chosen, size, rescale)
  # A whole batch, so that one compiled program serves for all images.
  size_of_batch = max(runs.batch_size_on(config, mesh), count)
  filled_up = np.resize(images, (size_of_batch, *images.shape[1:]))
  on_device = place(filled_up, mesh)
  predict = step.make_predict(net.towers.network, 1, mesh)
  compute_features = make_features(net, mesh)
  log_probabilities = np.asarray(predict(net, on_device, statistics))[:count]
  features = compute_features(net, on_device, statistics)[:count]

  found = Figure4(
    images=thumbnails(images),
    labels=labels,
    log_probabilities=log_probabilities,
    features=features,
    class_names=in_words(data.classes, data.dataset),
    split=validation.name,
  )
  try:
    train = runs.open_split(config, "train", data_dir)
    data.check_source(train)
  except UserError as error:
    return found._replace(no_neighbours=str(error))
  if search and search < len(train):
    spaced = np.linspace(0, len(train) - 1, search).astype(int)
    train = sources.select(train, spaced)
  class_counts = np.zeros(train.num_classes, np.int64)

  def training_features():
    title = "Figure 4: training images"
    for batch in runs.example_batches(config, train, mesh, title):
      placed = jax.device_put(batch["image"], sharding.batch_sharding(mesh))
      real = batch["weight"] > 0
      np.add.at(class_counts, batch["label"][real], 1)
      vectors = compute_features(net, placed, statistics)
      yield vectors[real], batch["index"][real]

  neighbours, distances = nearest(features, training_features())
  near, near_labels = read_images(train, neighbours.ravel(), size, rescale)
  side = (THUMBNAIL, THUMBNAIL)
  return found._replace(
    neighbours=neighbours,
    distances=distances,
    neighbour_images=thumbnails(near).reshape(*neighbours.shape, *side, 3),
    neighbour_labels=near_labels.reshape(neighbours.shape),
    class_counts=class_counts,
  )


def thumbnails(images: np.ndarray) -> np.ndarray:
  """uint8[N,S,S,3] -> uint8[N,96,96,3]."""
  size, area = (THUMBNAIL, THUMBNAIL), cv2.INTER_AREA
  return np.stack([cv2.resize(x, size, interpolation=area) for x in images])


def place(images: np.ndarray, mesh: Mesh) -> jax.Array:
  """Images on the devices, padded so that they divide over "data"."""
  missing = -len(images) % mesh.shape[DATA]
  padded = np.concatenate([images, images[:missing]])
  return jax.device_put(padded, sharding.batch_sharding(mesh))
