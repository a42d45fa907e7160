"""Times three input pipelines on the same prepared images.

  python -m benchmarks.loaders --dataset=NAME --data_dir=DIR [--json=FILE]

Each yields shuffled batches of uint8[B,256,256,3] with labels, from the same
JPEG bytes, on all cores of this machine: this project's pipeline; PyTorch's
`DataLoader` with Pillow and one worker process per core, as a user would write
it first; `tf.data` with its own decoder. The yardstick is decoding alone, by
simplejpeg on all cores. Rounds alternate.

Needs benchmarks/requirements.txt; a loader whose library is not installed is
skipped with a message.
"""

import collections
import importlib.util
import io
import itertools
import json
import os
import tempfile
import time

import numpy as np
from absl import flags
from PIL import Image

from alexnet_jax.analysis import input_timing, timing
from alexnet_jax.data import parallel, pipeline, sources
from alexnet_jax.runtime import command, files, paths, provenance

_DATASET = flags.DEFINE_string(
  "dataset", None, "a prepared dataset", required=True
)
_DATA_DIR = paths.DEFINE_path("data_dir", "", "folder that holds the dataset")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "images per batch", 1)
_STEPS = flags.DEFINE_integer("steps", 24, "batches per round", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "number of rounds", 1)
_JSON = paths.DEFINE_output("json", "", "JSON file for the results")


class PillowDataset:
  """A map-style dataset for PyTorch's DataLoader, decoded by Pillow."""

  def __init__(self, name: str, data_dir: str):
    self._name, self._data_dir, self._source = name, data_dir, None
    self._count = len(self._open())

  def _open(self):
    # Opened anew in each worker process.
    return sources.open_split(self._name, "train", self._data_dir)

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    if self._source is None:
      self._source = self._open()
    encoded, label = self._source[index]
    image = np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))
    return image, label


def torch_batches(name: str, data_dir: str, batch_size: int):
  import torch

  loader = torch.utils.data.DataLoader(
    PillowDataset(name, data_dir),
    batch_size=batch_size,
    shuffle=True,
    drop_last=True,
    num_workers=parallel.num_cores(),
    persistent_workers=True,
  )
  while True:
    for image, label in loader:
      yield image.numpy(), label.numpy()


def write_tfrecord(source, path: str) -> None:
  """Writes the same JPEG bytes as a TFRecord file for tf.data."""
  import tensorflow as tf

  with tf.io.TFRecordWriter(path) as writer:
    for index in range(len(source)):
      encoded, label = source[index]
      feature = {
        "image": tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[encoded])
        ),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
      }
      example = tf.train.Example(features=tf.train.Features(feature=feature))
      writer.write(example.SerializeToString())


def tf_batches(path: str, batch_size: int):
  import tensorflow as tf

  def parse(record):
    example = tf.io.parse_single_example(
      record,
      {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
      },
    )
    image = tf.io.decode_jpeg(example["image"], channels=3)
    return tf.ensure_shape(image, (256, 256, 3)), example["label"]

  return (
    tf.data.TFRecordDataset(path)
    .shuffle(2048)
    .repeat()
    .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(batch_size, drop_remainder=True)
    .prefetch(tf.data.AUTOTUNE)
    .as_numpy_iterator()
  )


def our_batches(source, batch_size: int):
  stream = pipeline.train_batches(
    source, batch_size=batch_size, seed=0, start_step=0, size=256
  )
  for batch in stream:
    yield batch["image"], batch["label"]


def main() -> None:
  name, data_dir = _DATASET.value, _DATA_DIR.value
  batch_size, steps = _BATCH_SIZE.value, _STEPS.value
  source = sources.open_split(name, "train", data_dir)
  makers = {"alexnet_jax": lambda: our_batches(source, batch_size)}
  with tempfile.TemporaryDirectory() as scratch:
    if importlib.util.find_spec("torch"):
      makers["torch_dataloader_pillow"] = lambda: torch_batches(
        name, data_dir, batch_size
      )
    if importlib.util.find_spec("tensorflow"):
      path = os.path.join(scratch, "train.tfrecord")
      write_tfrecord(source, path)
      makers["tf_data"] = lambda: tf_batches(path, batch_size)
    seconds = collections.defaultdict(list)
    bare = input_timing.bare_decoding(source, steps * batch_size)
    for number in range(_ROUNDS.value):
      seconds["decode_all_cores"].append(bare())
      for maker, make in makers.items():
        print(f"round {number + 1} of {_ROUNDS.value}: {maker}", flush=True)
        seconds[maker].append(time_stream(make(), steps, batch_size))
  rows = [
    timing.row(
      maker, np.array(times) / steps, batch_size, cores=parallel.num_cores()
    )
    for maker, times in seconds.items()
  ]
  timing.print_rows(rows)
  rates = {row["name"]: row["images_per_second"] for row in rows}
  for other in rates:
    ratio = rates["alexnet_jax"] / rates[other]
    print(f"alexnet_jax: {ratio:.2f} times the images/s of {other}")
  for absent in sorted({"torch_dataloader_pillow", "tf_data"} - set(rates)):
    print(f"skipped {absent}: its library is not installed")
  if _JSON.value:
    record = provenance.record(
      "loaders side by side on the same prepared images",
      f"python -m benchmarks.loaders --dataset={name}",
      {"rows": rows},
      libraries=library_versions(),
    )
    files.write_atomic(_JSON.value, json.dumps(record, indent=1))


def time_stream(stream, steps: int, batch_size: int) -> float:
  """Seconds for `steps` batches, after ten that may have been prefetched."""
  for image, label in itertools.islice(stream, 10):
    assert image.shape == (batch_size, 256, 256, 3)
    assert image.dtype == np.uint8
    assert label.shape == (batch_size,)
  start = time.perf_counter()
  collections.deque(itertools.islice(stream, steps), maxlen=0)
  return time.perf_counter() - start


def library_versions() -> dict[str, str]:
  from importlib import metadata

  names = ("numpy", "pillow", "simplejpeg", "torch", "tensorflow-cpu")
  there = {package.metadata["Name"] for package in metadata.distributions()}
  return {name: metadata.version(name) for name in names if name in there}


if __name__ == "__main__":
  command.run(main)
