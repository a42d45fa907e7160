"""Support vector machines on descriptors made by hand.

`measure` trains a method on a run's training images, chooses its penalty by the
validation images, and tests it once.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.metrics.pairwise import chi2_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from alexnet_jax.analysis.run_images import RunImages
from experiments.common.descriptors import (
  Descriptor,
  FisherVectors,
  Patches,
  VisualWords,
)

FIT_IMAGES = 1_000  # training images that a descriptor learns from
KERNEL_IMAGES = 12_000  # a kernel of more images takes gigabytes
BATCH = 256

# Ranks the classes for other vectors, the most probable first: i64[N,classes].
Ranking = Callable[[np.ndarray], np.ndarray]


class Method(NamedTuple):
  """A descriptor and a machine.

  Attributes:
    descriptor: makes a new descriptor.
    train: trains a machine on vectors and labels, with a penalty and a seed.
    penalties: that are tried.
    most: training images that are used at most; 0: all.
  """

  descriptor: Callable[[], Descriptor]
  train: Callable[[np.ndarray, np.ndarray, float, int], Ranking]
  penalties: tuple[float, ...]
  most: int = 0


def train_linear(
  vectors: np.ndarray, labels: np.ndarray, penalty: float, seed: int
) -> Ranking:
  """A linear machine for each class against the others, on scaled vectors."""
  scaler = StandardScaler().fit(vectors)
  machine = SGDClassifier(
    loss="hinge", alpha=penalty, average=True, random_state=seed, n_jobs=-1
  ).fit(scaler.transform(vectors), labels)
  return lambda other: _rank(machine, scaler.transform(other))


def train_chi_squared(
  vectors: np.ndarray, labels: np.ndarray, penalty: float, seed: int
) -> Ranking:
  """A machine with the kernel exp(-chi^2 / its mean), for pairs of classes."""
  del seed  # nothing is drawn
  some = vectors[:: max(1, len(vectors) // 500)]
  mean = -np.log(chi2_kernel(some, gamma=1.0)).mean()
  kernel = chi2_kernel(vectors, gamma=1 / mean)
  machine = SVC(kernel="precomputed", C=1 / penalty).fit(kernel, labels)
  return lambda other: _rank(
    machine, chi2_kernel(other, vectors, gamma=1 / mean)
  )


def _rank(machine: SGDClassifier | SVC, vectors: np.ndarray) -> np.ndarray:
  scores = machine.decision_function(vectors)
  if scores.ndim == 1:  # of two classes only the second has a score
    scores = np.stack([-scores, scores], axis=1)
  return machine.classes_[np.argsort(-scores, axis=1)]


METHODS = {
  "SIFT + Fisher vectors, linear": Method(
    FisherVectors, train_linear, (1e-4, 1e-3, 1e-2, 1e-1)
  ),
  "clusters of patches, linear": Method(
    Patches, train_linear, (1e-4, 1e-3, 1e-2, 1e-1)
  ),
  "visual words, chi-squared kernel": Method(
    VisualWords, train_chi_squared, (1.0, 0.1, 0.01), KERNEL_IMAGES
  ),
}


def measure(
  method: Method, splits: dict[str, RunImages], seed: int
) -> tuple[dict[str, Any], np.ndarray]:
  """Trains a method with each penalty, and tests the best.

  Returns:
    Its numbers, and whether each test image is wrong, bool[N].
  """
  start = time.monotonic()
  train = splits["train"]
  descriptor = method.descriptor()
  some = np.linspace(0, len(train) - 1, min(FIT_IMAGES, len(train)))
  descriptor.fit(train.read(some.astype(int))[0], seed)
  encoded = {
    name: _encode(descriptor, images, method.most if name == "train" else 0)
    for name, images in splits.items()
  }
  rankings = {
    penalty: method.train(*encoded["train"], penalty, seed)
    for penalty in method.penalties
  }
  validation_errors = {
    penalty: float(_wrong(ranking, encoded["validation"], 1).mean())
    for penalty, ranking in rankings.items()
  }
  best = rankings[min(rankings, key=validation_errors.__getitem__)]
  wrong = {k: _wrong(best, encoded["test"], k) for k in (1, 5)}
  numbers = {
    "seed": seed,
    "test_top1_error": float(wrong[1].mean()),
    "test_top5_error": float(wrong[5].mean()),
    "validation_top1_errors": {str(k): e for k, e in validation_errors.items()},
    "training_images": len(encoded["train"][1]),
    "dimensions": encoded["train"][0].shape[1],
    "seconds": round(time.monotonic() - start),
  }
  return numbers, wrong[1]


def _encode(
  descriptor: Descriptor, images: RunImages, most: int
) -> tuple[np.ndarray, np.ndarray]:
  """The vectors and labels of a split, or of its first `most` images."""
  count = min(len(images), most) if most else len(images)
  parts = [
    (descriptor.encode(pixels), labels)
    for pixels, labels in _batches(images, count)
  ]
  vectors, labels = zip(*parts, strict=True)
  return np.concatenate(vectors), np.concatenate(labels)


def _batches(
  images: RunImages, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  for start in range(0, count, BATCH):
    yield images.read(range(start, min(start + BATCH, count)))


def _wrong(
  ranking: Ranking, split: tuple[np.ndarray, np.ndarray], k: int
) -> np.ndarray:
  """Whether the label is not among the k most probable classes, bool[N]."""
  vectors, labels = split
  return (ranking(vectors)[:, :k] != labels[:, np.newaxis]).all(axis=1)
