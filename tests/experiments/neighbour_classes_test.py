"""Distances between images, by hand."""

import numpy as np

from experiments.common import neighbour_classes


def test_pixels_are_compared_at_a_quarter_of_112_pixels():
  images = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
  blocks = images.reshape(2, 56, 2, 56, 2, 3).mean(axis=(2, 4))
  found = neighbour_classes.pixel_vectors(images)
  np.testing.assert_allclose(found, blocks.reshape(2, -1), rtol=1e-6)
