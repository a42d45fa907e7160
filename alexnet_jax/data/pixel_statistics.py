"""Mean image and RGB principal components of the training images.

The mean image is subtracted from every input (paper, section 2); the
principal components are the directions of the lighting noise (section 4.1).
"""

import dataclasses
import hashlib
import io
import os
import sys
import zipfile

import cv2
import numpy as np

from alexnet_jax.data import parallel
from alexnet_jax.data.images import UndecodableImage, decode, rescale
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Statistics of training pixels; pixels are RGB, 0 to 255.

  Attributes:
    mean_image: f32[S,S,3].
    eigenvalues: f64[3] of the covariance of RGB over all pixels of all
      images, descending.
    eigenvectors: f64[3,3], one per column; the largest component of each is
      positive.
    num_images: number of images counted.
  """

  mean_image: np.ndarray
  eigenvalues: np.ndarray
  eigenvectors: np.ndarray
  num_images: int


class PixelSums:
  """Sums over images, exact in whatever order the images are added.

  The sums are integers, and float64 represents every integer up to 2^53
  exactly: enough for 10^13 images. OpenCV computes them, because NumPy's
  matrix product runs on one thread at a time.

  Args:
    size: side S of the images.

  Attributes:
    num_images: number of images added.
    total: f64[S,S,3], the sum of the images.
    products: i64[3,3], the sum of x x^T over the RGB values x of all pixels.
  """

  def __init__(self, size: int):
    self.num_images = 0
    self.total = np.zeros((size, size, 3), np.float64)
    self.products = np.zeros((3, 3), np.int64)

  def add(self, image: np.ndarray) -> None:
    """Adds one uint8[S,S,3] image."""
    self.num_images += 1
    cv2.accumulate(image, self.total)
    pixels = image.reshape(-1, 3)
    products = cv2.mulTransposed(pixels, True, dtype=cv2.CV_64F)
    self.products += products.astype(np.int64)

  def merge(self, other: "PixelSums") -> None:
    """Adds all images of another sum."""
    self.num_images += other.num_images
    self.total += other.total
    self.products += other.products

  def covariance(self) -> np.ndarray:
    """f64[3,3], the covariance of RGB over all pixels."""
    count = self.num_images * self.total.shape[0] * self.total.shape[1]
    mean = self.total.sum((0, 1)) / count
    return self.products / count - np.outer(mean, mean)

  def statistics(self) -> Statistics:
    values, vectors = np.linalg.eigh(self.covariance())
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    # The sign of an eigenvector is arbitrary; a fixed one makes two
    # computations comparable.
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, range(3)])[np.newaxis]
    mean_image = (self.total / self.num_images).astype(np.float32)
    return Statistics(mean_image, values, vectors, self.num_images)


def load_or_compute(
  source: Source, size: int, cache_dir: str = ""
) -> Statistics:
  """Returns the pixel statistics of a source, computed at most once.

  They are read from the `statistics.npz` that `prepare` wrote beside the
  dataset, else from the cache, else computed from the images as training
  decodes and rescales them. Images that cannot be decoded are named on
  standard error and left out.

  Args:
    source: the training images.
    size: side S of the rescaled images.
    cache_dir: "" for the user's cache directory.

  Raises:
    UserError: no image of the source can be decoded.
  """
  digest = hashlib.sha256(source.fingerprint.encode()).hexdigest()[:12]
  cached = os.path.join(
    cache_dir or files.cache_directory(), f"statistics-{digest}-{size}.npz"
  )
  for path in (os.path.join(source.directory, "statistics.npz"), cached):
    stored = load(path, source.fingerprint, size)
    if stored is not None:
      return stored
  result = _compute(source, size)
  try:
    save(cached, result, source.fingerprint)
  except OSError as error:  # training works without a cache
    print(f"Could not cache the statistics: {error}", file=sys.stderr)
  return result


def _compute(source: Source, size: int) -> Statistics:
  def add_up(indices: np.ndarray) -> tuple[PixelSums, list[str]]:
    sums, failures = PixelSums(size), []
    for index in indices.tolist():
      try:
        sums.add(rescale(decode(source[index][0]), size))
      except UndecodableImage as error:
        name = source.example_name(index)
        failures.append(f"{name} cannot be decoded: {error}")
    return sums, failures

  title = f"Statistics of {source.name}"
  total = PixelSums(size)
  tasks = parallel.chunks(np.arange(len(source)))
  for sums, failures in parallel.map_images(add_up, tasks, title):
    total.merge(sums)
    for failure in failures:
      print(failure, file=sys.stderr)
  if total.num_images == 0:
    raise UserError(f"No image of {source.name} can be decoded.")
  if skipped := len(source) - total.num_images:
    print(
      f"{title}: {skipped:,} of {len(source):,} images are left out.",
      file=sys.stderr,
    )
  return total.statistics()


def save(
  path: str, result: Statistics, fingerprint: str, **more: np.ndarray
) -> None:
  """Writes statistics as .npz, atomically.

  Args:
    path: of the file.
    result: the statistics.
    fingerprint: of the source that they describe.
    **more: further arrays to store, which `load` ignores.

  Raises:
    OSError: the file cannot be written.
  """
  content = io.BytesIO()
  arrays = dataclasses.asdict(result) | more
  np.savez(content, fingerprint=fingerprint, **arrays)
  files.write_atomic(path, content.getvalue())


def load(path: str, fingerprint: str, size: int) -> Statistics | None:
  """Reads the statistics of a source and image size.

  Returns:
    None if the file is missing, damaged, or describes another source or size.
  """
  try:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
      matches = str(stored["fingerprint"]) == fingerprint
      if not matches or stored["mean_image"].shape != (size, size, 3):
        return None
      names = [field.name for field in dataclasses.fields(Statistics)]
      loaded = {name: stored[name] for name in names}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  return Statistics(**loaded | {"num_images": int(loaded["num_images"])})
