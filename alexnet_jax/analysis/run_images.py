"""Run images: the images of one split of a run's dataset, if they are here."""

import contextlib
from collections.abc import Sequence

import numpy as np

from alexnet_jax.data.images import UndecodableImage, decode_into
from alexnet_jax.data.sources import Source
from alexnet_jax.training import runs


class RunImages:
  """The images of a split, rescaled as in training; `len` counts them.

  Attributes:
    split: the name of the split in its dataset, such as "validation".
  """

  def __init__(self, source: Source, size: int, rescale: str):
    """As `read_images` takes them."""
    self._source, self._size, self._rescale = source, size, rescale
    self.split = source.name

  def __len__(self) -> int:
    return len(self._source)

  def read(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[N,S,S,3] and labels i64[N], as `read_images`."""
    return read_images(self._source, indices, self._size, self._rescale)


def open_images(workdir: str, split: str, data_dir: str = "") -> RunImages:
  """Opens the images of a run.

  Args:
    workdir: of the run.
    split: "train" (without held-out images), "validation" or "test".
    data_dir: where the dataset is now; "": where it was in training.

  Raises:
    UserError: `workdir` holds no run, its dataset is missing, or the dataset is
      not the one of the run.
  """
  config = runs.load_config(workdir)
  source = runs.open_split(config, split, data_dir)
  runs.load_data(workdir, config, data_dir).check_source(source)
  return RunImages(source, config["image_size"], config["pixels"]["rescale"])


def read_images(
  source: Source, indices: Sequence[int], size: int, rescale: str
) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8[N,S,S,3] and labels i64[N]; damaged images are black.

  Args:
    source: of N images or more.
    indices: of the images to read.
    size: side S of the squares.
    rescale: how they are rescaled, a key of `images.RESCALE`.
  """
  found = np.zeros((len(indices), size, size, 3), np.uint8)
  labels = np.zeros(len(indices), np.int64)
  for i, index in enumerate(indices):
    with contextlib.suppress(UndecodableImage):
      encoded, labels[i] = source[int(index)]
      decode_into(found[i], encoded, rescale)
  return found, labels
