"""The pixel sums of finished shards: small, and counted once."""

import os
import threading

import numpy as np
import pytest
from array_record.python import array_record_module
from sample_data import digests, make, picture, write_folder
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import images, pixel_statistics, preparing, shards

SMALL = shards.Encoding(size=32)


def interrupt(patch, module, name, at):
  """Lets call number `at` of a function raise an interrupt."""
  calls, function = [], getattr(module, name)

  def interrupted(*arguments):
    calls.append(arguments)
    if len(calls) == at:
      raise KeyboardInterrupt
    return function(*arguments)

  patch.setattr(module, name, interrupted)


def options():
  return {"shard_size": 4, "encoding": SMALL}


@pytest.fixture
def source(tmp_path):
  return f"folder:{write_folder(tmp_path / 'in')}"


@pytest.fixture
def whole(source, tmp_path):
  return digests(make(source, tmp_path / "whole", **options()))


@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_shard_that_is_repeated_is_counted_once(source, whole, tmp_path, at):
  """The interrupt comes between the sums and the name of a shard."""
  with pytest.MonkeyPatch.context() as patch:
    rename = os.replace

    class Os:
      def __getattr__(self, name):
        return getattr(os, name)

      def replace(self, *arguments):
        return rename(*arguments)

    patched = Os()
    patch.setattr(shards, "os", patched)
    interrupt(patch, patched, "replace", at)
    with pytest.raises(KeyboardInterrupt):
      make(source, tmp_path / "out", **options())
  facts = tmp_path / "out" / ".tiny_256.incomplete" / "facts"
  with np.load(facts / "training_sums.npz") as stored:
    assert stored["counted"].sum() == at  # one more than has its name
  assert digests(make(source, tmp_path / "out", **options())) == whole


def test_sums_of_earlier_versions_are_read(source, whole, tmp_path):
  """Each shard had its own sums, as float64, and there was no common file."""
  with pytest.MonkeyPatch.context() as patch:
    interrupt(patch, preparing, "_write_metadata", 1)
    with pytest.raises(KeyboardInterrupt):
      make(source, tmp_path / "out", **options())
  folder = tmp_path / "out" / ".tiny_256.incomplete"
  (folder / "facts" / "training_sums.npz").unlink()
  for path in (folder / "facts").glob("*train*.npz"):
    sums = pixel_statistics.PixelSums(SMALL.size)
    add_images(sums, folder / "data" / path.name.removesuffix(".npz"))
    with np.load(path) as stored:
      facts = dict(stored)
    np.savez(
      path,
      count=sums.num_images,
      total=sums.total,
      products=sums.products,
      **facts,
    )
  assert digests(make(source, tmp_path / "out", **options())) == whole


def add_images(sums, path):
  reader = array_record_module.ArrayRecordReader(str(path))
  for record in reader.read_all():
    feature = tf_example_pb2.Example.FromString(record).features.feature
    sums.add(images.decode(feature["image"].bytes_list.value[0]))


def test_threads_add_to_the_same_sums():
  pictures = [picture(i, 16, 16) for i in range(6)]
  sums, together = pixel_statistics.PixelSums(16), threading.Barrier(4)

  def add():
    together.wait()
    for image in pictures * 5:
      sums.add(image)

  threads = [threading.Thread(target=add) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  exact = np.array(pictures, np.int64)
  pixels = exact.reshape(-1, 3)
  assert sums.num_images == 120
  np.testing.assert_array_equal(sums.total, 20 * exact.sum(0))
  np.testing.assert_array_equal(sums.products, 20 * pixels.T @ pixels)
  assert len(sums._parts) <= 4  # memory is that of the threads
