"""Noise: a prepared dataset of noise with the spectrum of photographs.

It is drawn where it is needed. Its JPEGs are encoded as `prepare` does, and
have about the size of prepared photographs, which decides how long they take
to decode.
"""

import concurrent.futures
import io
import pathlib

import numpy as np
import simplejpeg
import tensorflow_datasets as tfds

from alexnet_jax.data import shards
from benchmarks.gpu.sizes import DRAWN

DEVIATION = 55.0  # of the pixels, of 255
EXPONENT = 1.6  # with which the spectrum falls


class Noise(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Training images, and an eighth as many for validation."""

  VERSION = tfds.core.Version("1.0.0")
  name = DRAWN

  def __init__(self, data_dir: str, count: int, side: int, classes: int):
    self._count, self._side, self._classes = count, side, classes
    super().__init__(data_dir=data_dir, file_format="array_record")

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="jpeg"),
          "label": tfds.features.ClassLabel(num_classes=self._classes),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    training = range(self._count)
    validation = range(self._count, self._count + self._count // 8)
    return {
      "train": self._generate_examples(training),
      "validation": self._generate_examples(validation),
    }

  def _generate_examples(self, numbers):
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for number, encoded in zip(
        numbers, pool.map(self._draw, numbers), strict=True
      ):
        label = number % self._classes
        yield number, {"image": io.BytesIO(encoded), "label": label}

  def _draw(self, number: int) -> bytes:
    side, random = self._side, np.random.default_rng(number)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1
    parts = random.standard_normal((2, 3, *frequency.shape))
    spectrum = parts[0] + 1j * parts[1]
    spectrum[1:] = 0.9 * spectrum[0] + 0.44 * spectrum[1:]  # mostly grey
    x = np.fft.irfft2(spectrum / frequency**EXPONENT, s=(side, side))
    x = (120 + DEVIATION * x / x.std()).clip(0, 255).astype(np.uint8)
    encoding = shards.Encoding()
    return simplejpeg.encode_jpeg(
      np.ascontiguousarray(x.transpose(1, 2, 0)),
      encoding.quality,
      colorsubsampling=encoding.subsampling,
    )


def draw(data_dir: str, count: int, side: int, classes: int) -> None:
  """Draws the dataset in a folder, unless it is there."""
  if not pathlib.Path(data_dir, DRAWN).exists():
    tfds.disable_progress_bar()
    Noise(data_dir, count, side, classes).download_and_prepare()
