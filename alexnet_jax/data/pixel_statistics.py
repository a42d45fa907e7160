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
from typing import NamedTuple

import cv2
import numpy as np

from alexnet_jax.data import parallel
from alexnet_jax.data.images import RESCALE, UndecodableImage, decode
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError


class Statistics(NamedTuple):
  """Statistics of training pixels; pixels are RGB, 0 to 255."""

  mean_image: np.ndarray  # f32[S,S,3]
  # f64[3] of the covariance of RGB over all pixels of all images, descending.
  eigenvalues: np.ndarray
  # f64[3,3], one per column; the largest component of each is positive.
  eigenvectors: np.ndarray
  num_images: int

  def save(self, path: str, fingerprint: str, **more: np.ndarray) -> None:
    """Writes the statistics and further arrays as .npz, or raises OSError."""
    content = io.BytesIO()
    np.savez(content, fingerprint=fingerprint, **self._asdict(), **more)
    files.write_atomic(path, content.getvalue())

  @classmethod
  def load(cls, path: str, fingerprint: str, size: int) -> "Statistics | None":
    """Reads statistics; None if missing, damaged, or of other images."""
    try:
      # np.load does not close a file that it opened itself if it is damaged.
      with (
        open(path, "rb") as file,
        np.load(file, allow_pickle=False) as stored,
      ):
        matches = str(stored["fingerprint"]) == fingerprint
        if not matches or stored["mean_image"].shape != (size, size, 3):
          return None
        *arrays, num_images = (stored[name] for name in cls._fields)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      return None
    return cls(*arrays, int(num_images))


@dataclasses.dataclass
class _Part:
  """The sums of some images; only one thread at a time may change it."""

  num_images: int
  total: np.ndarray
  products: np.ndarray

  @classmethod
  def zeros(cls, size: int) -> "_Part":
    return cls(0, np.zeros((size, size, 3)), np.zeros((3, 3), np.int64))


class PixelSums:
  """Sums over images of side `size`, exact in whatever order they are added.

  The sums are integers, and float64 represents every integer up to 2^53
  exactly: enough for 10^13 images. OpenCV computes them, because NumPy's
  matrix product runs on one thread at a time.

  Several threads may add images at once: each takes sums that no other one is
  using, so there are as many as threads, however many images.
  """

  def __init__(self, size: int):
    self._size = size
    self._parts: list[_Part] = []
    self._idle: list[_Part] = []  # those that no thread is using

  def add(self, image: np.ndarray) -> None:
    """Adds one uint8[S,S,3] image."""
    try:
      part = self._idle.pop()
    except IndexError:
      part = _Part.zeros(self._size)
      self._parts.append(part)
    part.num_images += 1
    cv2.accumulate(image, part.total)
    pixels = image.reshape(-1, 3)
    products = cv2.mulTransposed(pixels, True, dtype=cv2.CV_64F)
    part.products += products.astype(np.int64)
    self._idle.append(part)

  def merge(
    self, num_images: int, total: np.ndarray, products: np.ndarray
  ) -> None:
    """Adds the sums over other images, as the properties return them."""
    if not self._parts:
      self._parts.append(_Part.zeros(self._size))
      self._idle.append(self._parts[0])
    part = self._parts[0]
    part.num_images += int(num_images)
    part.total += total
    part.products += products

  @property
  def num_images(self) -> int:
    return sum(part.num_images for part in self._parts)

  @property
  def total(self) -> np.ndarray:
    """f64[S,S,3], the sum of the images."""
    zero = np.zeros((self._size, self._size, 3))
    return sum((part.total for part in self._parts), zero)

  @property
  def products(self) -> np.ndarray:
    """i64[3,3], the sum of x x^T over the RGB values x of all pixels."""
    zero = np.zeros((3, 3), np.int64)
    return sum((part.products for part in self._parts), zero)

  def covariance(self) -> np.ndarray:
    """f64[3,3], the covariance of RGB over all pixels."""
    count = self.num_images * self._size**2
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


def find(
  directory: str, fingerprint: str, size: int, rescale: str = "crop"
) -> Statistics | None:
  """The statistics of some images, computed before; None if there are none.

  Args:
    directory: of the dataset, which may have a `statistics.npz`.
    fingerprint: of the images. They need not be on this machine.
    size: side of the rescaled images.
    rescale: a key of `images.RESCALE`.
  """
  beside = os.path.join(directory, "statistics.npz")
  for path in (beside, _cached(fingerprint, size, rescale)):
    if stored := Statistics.load(path, fingerprint, size):
      return stored
  return None


def _cached(fingerprint: str, size: int, rescale: str) -> str:
  digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:12]
  how = "" if rescale == "crop" else f"-{rescale}"
  name = f"statistics-{digest}-{size}{how}.npz"
  return os.path.join(files.cache_directory(), name)


def load_or_compute(
  source: Source, size: int, rescale: str = "crop", threads: int = 0
) -> Statistics:
  """Returns the pixel statistics of a source at side `size`, computed once.

  They are read from the `statistics.npz` that `prepare` wrote beside the
  dataset, else from the user's cache directory, else computed from the images
  as training decodes and rescales them (`rescale` is a key of
  `images.RESCALE`). Images that cannot be decoded are named on standard error
  and left out. They are computed on `threads` threads (0: one per core).

  Raises UserError if no image can be decoded.
  """
  stored = find(source.directory, source.fingerprint, size, rescale)
  if stored is not None:
    return stored
  result = _compute(source, size, rescale, threads)
  try:
    result.save(_cached(source.fingerprint, size, rescale), source.fingerprint)
  except OSError as error:  # training works without a cache
    print(f"Could not cache the statistics: {error}", file=sys.stderr)
  return result


def _compute(
  source: Source, size: int, rescale: str, threads: int
) -> Statistics:
  total, count = PixelSums(size), len(source)

  def add_up(indices: np.ndarray) -> list[str]:
    failures = []
    for index in indices.tolist():
      try:
        total.add(RESCALE[rescale](decode(source[index][0]), size))
      except UndecodableImage as error:
        name = source.example_name(index)
        failures.append(f"{name} cannot be decoded: {error}")
    return failures

  title = f"Statistics of {source.name}"
  tasks = parallel.chunks(np.arange(count))
  for failures in parallel.map_images(add_up, tasks, title, threads=threads):
    for failure in failures:
      print(failure, file=sys.stderr)
  if not total.num_images:
    raise UserError(f"No image of {source.name} can be decoded.")
  if skipped := count - total.num_images:
    message = f"{title}: {skipped:,} of {count:,} images are left out."
    print(message, file=sys.stderr)
  return total.statistics()
