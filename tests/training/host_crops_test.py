"""What the host sends is what the devices would have cropped, bit for bit."""

import dataclasses
import itertools
import types

import jax
import numpy as np
import pytest
import simplejpeg

from alexnet_jax.data import augment, pipeline
from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.data.sources import Source
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.training import host_crops, streams
from alexnet_jax.training.job import Recipe

SIZE, CROP, SEED = 24, 16, 5


def source_of(count):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
  records = [(simplejpeg.encode_jpeg(image), 0) for image in images]
  return Source(records, "a", fingerprint="random", name="random train")


def batches(source, crops):
  return list(
    itertools.islice(
      pipeline.train_batches(
        source,
        batch_size=8,
        seed=SEED,
        start_step=0,
        size=SIZE,
        crops=crops,
      ),
      4,
    )
  )


def inputs(batch, augmentation, kind, mean_side):
  """What a network receives for a batch: f32[B,c,c,3]."""
  mean = np.random.default_rng(1).uniform(0, 255, (mean_side, mean_side, 3))
  statistics = ImageStatistics(
    np.float32(mean), 20 * np.eye(3, dtype=np.float32)
  )

  @jax.jit
  def run(batch):
    random = streams.make_streams(kind, SEED)
    keys, _ = random.example_keys(batch["epoch"], batch["index"])
    return augment.training_images(
      batch["image"], keys, statistics, augmentation, CROP, batch["epoch"]
    )

  return np.asarray(run(batch))


@pytest.mark.parametrize(
  ("change", "kind", "mean_side"),
  [
    ({}, "separate", SIZE),
    ({}, "shared", CROP),  # a mean image that is the same for all crops
    ({"shared_by": 4, "mixing": 0.5}, "separate", SIZE),
    ({"crop": False}, "separate", SIZE),
  ],
)
def test_the_network_receives_the_same(change, kind, mean_side):
  augmentation = dataclasses.replace(Augmentation(), **change)
  crops = host_crops.training_crops(augmentation, SIZE, CROP, kind, SEED)
  source = source_of(20)  # the third batch spans two epochs
  whole, cropped = batches(source, None), batches(source, crops)
  tops = set()
  for one, other in zip(whole, cropped, strict=True):
    assert one["image"].shape == (8, SIZE, SIZE, 3)
    assert other["image"].shape == (8, CROP, CROP, 3)
    for key in ("label", "index", "epoch", "weight"):
      np.testing.assert_array_equal(one[key], other[key])
    np.testing.assert_array_equal(
      inputs(other, augmentation, kind, mean_side),
      inputs(one, augmentation, kind, mean_side),
    )
    tops |= set(crops.offsets(one["epoch"], one["index"])[:, 0].tolist())
  assert tops <= set(range(SIZE - CROP + 1))
  assert tops == {4} if "crop" in change else len(tops) > 3


class Gpu:
  platform = "gpu"


def test_crops_are_sent_where_they_are_enough_and_something_is_sent():
  gpu = types.SimpleNamespace(devices=np.array([[Gpu()]]))
  cpu = sharding.make_mesh(1, 1)
  assert host_crops.are_sent(Augmentation(), gpu)
  # The contrast of an image is that of the whole image.
  assert not host_crops.are_sent(Augmentation(colour=0.4), gpu)
  assert not host_crops.are_sent(Augmentation(), cpu)
  recipe = Recipe(Network(width=1 / 32, num_classes=7), 8)
  assert (recipe.sent_size(gpu), recipe.sent_size(cpu)) == (224, 256)
  assert recipe.crops(0, cpu) is recipe.centre_crops(cpu) is None
  assert recipe.crops(0, gpu).size == recipe.centre_crops(gpu).size == 224


def test_the_central_view_needs_the_centre():
  source = source_of(8)
  options = {"batch_size": 8, "size": SIZE}
  (whole,) = pipeline.evaluation_batches(source, **options)
  crops = pipeline.Crops.centred(SIZE, CROP)
  (centre,) = pipeline.evaluation_batches(source, crops=crops, **options)
  for side in (SIZE, CROP):
    mean = np.random.default_rng(1).uniform(0, 255, (side, side, 3))
    statistics = ImageStatistics(np.float32(mean), np.zeros((3, 3), np.float32))
    expected, found = (
      augment.view_images(batch["image"], statistics, 0, CROP)
      for batch in (whole, centre)
    )
    np.testing.assert_array_equal(found, expected)
