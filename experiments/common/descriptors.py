"""Descriptors of images that are made by hand, as used before the paper.

`FisherVectors` and `VisualWords` describe an image by its dense SIFT
descriptors, `Patches` by small patches of pixels. Each learns from some images
without their labels (`fit`), and then turns images into one vector each
(`encode`).
"""

import functools
from typing import Protocol

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

FITTED = 200_000  # descriptors or patches that are enough to fit to


class Descriptor(Protocol):
  """Turns images into vectors."""

  def fit(self, images: np.ndarray, seed: int) -> None:
    """Learns from uint8[N,S,S,3]; `seed` decides the random choices."""

  def encode(self, images: np.ndarray) -> np.ndarray:
    """Describes uint8[N,S,S,3] by f32[N,D]."""


def dense_sift(
  image: np.ndarray, spacing: int = 6, sizes: tuple[int, ...] = (24, 36, 48)
) -> np.ndarray:
  """SIFT descriptors at all places of a grid, at several sizes.

  Lowe 2004, as RootSIFT (Arandjelovic and Zisserman, CVPR 2012): Euclidean
  distances between them are Hellinger distances between histograms.

  Args:
    image: uint8[S,S,3], RGB.
    spacing: pixels between the centres.
    sizes: sides of the described squares, in pixels.

  Returns:
    f32[M,130]: 128 numbers, and the place of the centre as x and y from -.5 to
    .5 (Sanchez et al., Pattern Recognition Letters 2012).
  """
  side = image.shape[0]
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  counts, centres = _sift(grey.tobytes(), side, spacing, sizes)
  found = counts.astype(np.float32)
  found = np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-6))
  return np.hstack([found, centres / side - 0.5]).astype(np.float32)


# It takes most of the time, and neither the method nor the seed changes it.
# 80 kB an image of 96 pixels: 2 GB for 25,000.
@functools.cache
def _sift(
  grey: bytes, side: int, spacing: int, sizes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """OpenCV's integers uint8[M,128], and the centres in pixels, f64[M,2]."""
  places = np.arange(sizes[0] // 2, side - sizes[0] // 2 + 1, spacing)
  # OpenCV's descriptor covers six times the size of its key point.
  points = [
    cv2.KeyPoint(float(x), float(y), size / 6, 0.0)
    for size in sizes
    for y in places
    for x in places
  ]
  image = np.frombuffer(grey, np.uint8).reshape(side, side)
  points, found = cv2.SIFT_create().compute(image, points)
  return found.astype(np.uint8), np.array([point.pt for point in points])


class FisherVectors:
  """Fisher vectors of dense SIFT: the features of the best entry of 2011.

  Perronnin, Sanchez and Mensink, ECCV 2010: the gradient of the likelihood of
  an image's descriptors under a mixture of Gaussians, with respect to its means
  and deviations, with signed square roots and a norm of 1.
  """

  def __init__(self, components: int = 64, dimensions: int = 64):
    """`dimensions` of SIFT are kept of 128."""
    self._components, self._dimensions = components, dimensions

  def fit(self, images: np.ndarray, seed: int) -> None:
    """See `Descriptor`."""
    sample = _sample([dense_sift(image) for image in images], seed)
    self._pca = PCA(self._dimensions, random_state=seed).fit(sample[:, :128])
    self._mixture = GaussianMixture(
      self._components,
      covariance_type="diag",
      reg_covar=1e-4,
      max_iter=30,
      tol=1e-2,
      random_state=seed,
    ).fit(self._reduce(sample))

  def encode(self, images: np.ndarray) -> np.ndarray:
    """See `Descriptor`; D is 2 * components * (dimensions + 2)."""
    vectors = [self._gradient(self._reduce(dense_sift(x))) for x in images]
    roots = np.sign(vectors) * np.sqrt(np.abs(vectors))
    norms = np.linalg.norm(roots, axis=1, keepdims=True)
    return (roots / np.maximum(norms, 1e-12)).astype(np.float32)

  def _reduce(self, descriptors: np.ndarray) -> np.ndarray:
    """The principal components, and the places: f32[M,dimensions+2]."""
    reduced = self._pca.transform(descriptors[:, :128])
    return np.hstack([reduced, descriptors[:, 128:]])

  def _gradient(self, descriptors: np.ndarray) -> np.ndarray:
    """The gradient of the mean log likelihood, by its Fisher metric."""
    weights = self._mixture.weights_[:, np.newaxis]
    means, variances = self._mixture.means_, self._mixture.covariances_
    shares = self._mixture.predict_proba(descriptors)
    zeroth = shares.mean(axis=0)[:, np.newaxis]
    first = shares.T @ descriptors / len(descriptors)
    second = shares.T @ descriptors**2 / len(descriptors)
    of_means = (first - zeroth * means) / np.sqrt(variances * weights)
    squares = second - 2 * means * first + zeroth * means**2
    of_deviations = (squares / variances - zeroth) / np.sqrt(2 * weights)
    return np.concatenate([of_means.ravel(), of_deviations.ravel()])


class VisualWords:
  """Histograms of visual words, which kernel machines compared.

  Csurka et al., ECCV workshop 2004; Zhang et al., IJCV 2007.
  """

  def __init__(self, words: int = 512):
    self._words = words

  def fit(self, images: np.ndarray, seed: int) -> None:
    """See `Descriptor`."""
    sample = _sample([dense_sift(image)[:, :128] for image in images], seed)
    self._clusters = MiniBatchKMeans(
      self._words, batch_size=4096, n_init=1, random_state=seed
    ).fit(sample)

  def encode(self, images: np.ndarray) -> np.ndarray:
    """See `Descriptor`; D is the number of words, and each row adds up to 1."""
    found = [
      np.bincount(
        self._clusters.predict(dense_sift(image)[:, :128]),
        minlength=self._words,
      )
      for image in images
    ]
    counts = np.array(found, np.float32)
    return counts / counts.sum(axis=1, keepdims=True)


class Patches:
  """Clusters of small patches of colour pixels.

  Coates, Lee and Ng, AISTATS 2011: patches of 6 x 6 of an image of 32 x 32 are
  normalised and whitened; a cluster is active by how much nearer than average
  it is; activations are added up in each quarter of the image.
  """

  SIDE, PATCH = 32, 6

  def __init__(self, clusters: int = 800):
    self._count = clusters

  def fit(self, images: np.ndarray, seed: int) -> None:
    """See `Descriptor`."""
    sample = _sample([self._patches(image) for image in images], seed)
    self._mean = sample.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(sample - self._mean, rowvar=False))
    self._whiten = (axes / np.sqrt(values + 0.1)) @ axes.T
    self._clusters = MiniBatchKMeans(
      self._count, batch_size=4096, n_init=1, random_state=seed
    ).fit((sample - self._mean) @ self._whiten)

  def encode(self, images: np.ndarray) -> np.ndarray:
    """See `Descriptor`; D is four times the number of clusters."""
    return np.array([self._quarters(image) for image in images], np.float32)

  def _quarters(self, image: np.ndarray) -> np.ndarray:
    patches = (self._patches(image) - self._mean) @ self._whiten
    distances = self._clusters.transform(patches)
    active = np.maximum(distances.mean(axis=1, keepdims=True) - distances, 0)
    side = self.SIDE - self.PATCH + 1
    grid, half = active.reshape(side, side, -1), (side + 1) // 2
    parts = (slice(None, half), slice(half, None))
    return np.concatenate(
      [grid[rows, columns].sum((0, 1)) for rows in parts for columns in parts]
    )

  def _patches(self, image: np.ndarray) -> np.ndarray:
    """All patches, each with mean 0 and deviation about 1: f64[M,108]."""
    small = cv2.resize(image, (self.SIDE,) * 2, interpolation=cv2.INTER_AREA)
    windows = sliding_window_view(small, (self.PATCH,) * 2, axis=(0, 1))
    patches = windows.reshape(-1, 3 * self.PATCH**2).astype(np.float64)
    patches -= patches.mean(axis=1, keepdims=True)
    return patches / np.sqrt(patches.var(axis=1, keepdims=True) + 10)


def _sample(parts: list[np.ndarray], seed: int) -> np.ndarray:
  """At most FITTED rows of all parts, drawn without repetition."""
  rows = np.concatenate(parts)
  generator = np.random.default_rng(seed)
  return rows[generator.permutation(len(rows))[:FITTED]]
