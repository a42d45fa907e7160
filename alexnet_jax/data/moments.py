"""Moments: mean image and RGB principal components, by exact sums."""

import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Statistics:
  """What the training pixels have in common; pixels are 0 to 255, RGB.

  Attributes:
    mean_image: f32[S,S,3].
    eigenvalues: f64[3] of the covariance of RGB over all pixels of all
      images, descending.
    eigenvectors: f64[3,3], a column each; its largest component is positive.
    num_images: how many images were counted.
  """

  mean_image: np.ndarray
  eigenvalues: np.ndarray
  eigenvectors: np.ndarray
  num_images: int


class Moments:
  """Sums over images: exact, in whatever order they come.

  They are integers, and in float64 every integer up to 2^53 is exact: enough
  for ten million million images. OpenCV adds up, since NumPy's matrix product
  lets one thread in at a time.
  """

  def __init__(self, size: int):
    self.num_images = 0
    self.total = np.zeros((size, size, 3), np.float64)
    self.products = np.zeros((3, 3), np.int64)  # sum of x x^T over pixels

  def add(self, image: np.ndarray) -> None:
    """Adds one uint8[S,S,3]."""
    self.num_images += 1
    cv2.accumulate(image, self.total)
    pixels = image.reshape(-1, 3)
    products = cv2.mulTransposed(pixels, True, dtype=cv2.CV_64F)
    self.products += products.astype(np.int64)

  def merge(self, other: "Moments") -> None:
    self.num_images += other.num_images
    self.total += other.total
    self.products += other.products

  def covariance(self) -> np.ndarray:
    """f64[3,3] of RGB over all pixels."""
    count = self.num_images * self.total.shape[0] * self.total.shape[1]
    mean = self.total.sum((0, 1)) / count
    return self.products / count - np.outer(mean, mean)

  def statistics(self) -> Statistics:
    values, vectors = np.linalg.eigh(self.covariance())
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    # A sign is arbitrary; a fixed one makes two computations comparable.
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, range(3)])[np.newaxis]
    mean_image = (self.total / self.num_images).astype(np.float32)
    return Statistics(mean_image, values, vectors, self.num_images)
