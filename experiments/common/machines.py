"""Support vector machines on descriptors made by hand.

`measure` trains a method on a run's training images, chooses its cost by the
validation images, and tests it once.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
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
TRAINING_IMAGES = 12_000  # at most; a kernel of more takes gigabytes
COSTS = (0.1, 1.0, 10.0, 100.0)  # of which the validation images choose
BATCH = 256

# Turns vectors f32[N,D] into their kernel with the M training vectors: [N,M].
Kernel = Callable[[np.ndarray], np.ndarray]


class Method(NamedTuple):
  """A descriptor and the kernel of a machine.

  Attributes:
    descriptor: makes a new descriptor.
    kernel: makes the kernel with the given training vectors.
  """

  descriptor: Callable[[], Descriptor]
  kernel: Callable[[np.ndarray], Kernel]


def linear(training: np.ndarray) -> Kernel:
  """The scalar product of scaled vectors, whose mean square is 1.

  Descent on thousands of numbers an image takes hours; the kernel is made once.
  """
  scaler = StandardScaler().fit(training)
  scale = 1 / math.sqrt(training.shape[1])
  columns = scale * scaler.transform(training).T
  return lambda vectors: scale * scaler.transform(vectors) @ columns


def chi_squared(training: np.ndarray) -> Kernel:
  """exp(-chi^2 / its mean), as Zhang et al., IJCV 2007."""
  some = training[:: max(1, len(training) // 500)]
  mean = -np.log(chi2_kernel(some, gamma=1.0)).mean()
  return lambda vectors: chi2_kernel(vectors, training, gamma=1 / mean)


METHODS = {
  "SIFT + Fisher vectors, linear": Method(FisherVectors, linear),
  "clusters of patches, linear": Method(Patches, linear),
  "visual words, chi-squared kernel": Method(VisualWords, chi_squared),
}


def measure(
  method: Method, splits: dict[str, RunImages], seed: int
) -> tuple[dict[str, Any], np.ndarray]:
  """Trains a method's machine with each cost, and tests the best.

  A machine is one for each pair of classes.

  Returns:
    Its numbers, and whether each test image is wrong, bool[N].
  """
  start = time.monotonic()
  train = splits["train"]
  descriptor = method.descriptor()
  some = np.linspace(0, len(train) - 1, min(FIT_IMAGES, len(train)))
  descriptor.fit(train.read(some.astype(int))[0], seed)
  vectors, labels = _encode(descriptor, train, TRAINING_IMAGES)
  kernel = method.kernel(vectors)
  products = kernel(vectors)
  machines = {
    cost: SVC(kernel="precomputed", C=cost).fit(products, labels)
    for cost in COSTS
  }
  encoded, truth = _encode(descriptor, splits["validation"])
  products = kernel(encoded)
  validation_errors = {
    cost: float(_wrong(machine, products, truth, 1).mean())
    for cost, machine in machines.items()
  }
  best = machines[min(machines, key=validation_errors.__getitem__)]
  encoded, truth = _encode(descriptor, splits["test"])
  products = kernel(encoded)
  wrong = {k: _wrong(best, products, truth, k) for k in (1, 5)}
  numbers = {
    "seed": seed,
    "test_top1_error": float(wrong[1].mean()),
    "test_top5_error": float(wrong[5].mean()),
    "validation_top1_errors": {str(k): e for k, e in validation_errors.items()},
    "training_images": len(labels),
    "dimensions": vectors.shape[1],
    "seconds": round(time.monotonic() - start),
  }
  return numbers, wrong[1]


def _encode(
  descriptor: Descriptor, images: RunImages, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """The vectors and labels of a split, or of its first `most` images."""
  count = min(len(images), most or len(images))
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
  machine: SVC, products: np.ndarray, labels: np.ndarray, k: int
) -> np.ndarray:
  """Whether the label is not among the k most probable classes, bool[N]."""
  scores = machine.decision_function(products)
  if scores.ndim == 1:  # of two classes only the second has a score
    scores = np.stack([-scores, scores], axis=1)
  ranking = machine.classes_[np.argsort(-scores, axis=1)]
  return (ranking[:, :k] != labels[:, np.newaxis]).all(axis=1)
