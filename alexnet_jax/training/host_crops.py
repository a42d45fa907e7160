"""Host crops: the parts of the training images that the devices will read.

A device crops each image where random numbers of the example say. The host
computes the same numbers on a CPU device and sends these parts alone: 23% fewer
bytes at the paper's sizes. Integers are the same on every platform, so the
pixels are those that the device would have cropped.

Nothing is sent to the devices of a CPU, and there the host's random numbers
would wait for the training step. So they crop by themselves.
"""

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data import augment
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.pipeline import Crops
from alexnet_jax.training import streams


def are_sent(augmentation: Augmentation, mesh: Mesh) -> bool:
  """Whether the devices of a mesh receive crops, not the whole images."""
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  return augmentation.reads_crops_only and not on_cpu and bool(_host_devices())


def training_crops(
  augmentation: Augmentation,
  image_size: int,
  crop_size: int,
  random_streams: str,
  seed: int,
) -> Crops:
  """The crops of a run, drawn on a CPU device.

  Args:
    augmentation: of the training images.
    image_size: side of the stored images.
    crop_size: side of the crops.
    random_streams: as of `streams.make_streams`.
    seed: of the run.
  """
  margin = image_size - crop_size
  device = _host_devices()[0]
  with jax.default_device(device):
    random = streams.make_streams(random_streams, seed)

  @jax.jit
  def draw(random, epoch, index):
    # As in a training step: JAX_DEBUG_KEY_REUSE sees a copy used up.
    random = jax.tree.map(jax.random.clone, random)
    keys, _ = random.example_keys(epoch, index)
    return augment.crop_offsets(keys, augmentation, margin)

  def offsets(epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
    with jax.default_device(device):
      return np.asarray(draw(random, epoch, index))

  return Crops(crop_size, offsets)


def _host_devices() -> list[jax.Device]:
  """The CPU devices of this process; none if JAX_PLATFORMS leaves them out."""
  try:
    return jax.local_devices(backend="cpu")
  except RuntimeError:
    return []
