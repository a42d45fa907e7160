"""Datasets: encoded images with labels, and the statistics of their pixels.

Everything is a tfds dataset stored as ArrayRecord, read at random access
without TensorFlow.
"""

import concurrent.futures
import dataclasses
import hashlib
import io
import os
import pathlib
import re
import threading
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.console
import rich.progress
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import patterns
from alexnet_jax.data.images import UndecodableImage, decode, rescale
from alexnet_jax.data.moments import Moments, Statistics
from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError


class Source:
  """A split: `source[i]` is (encoded image: bytes, label: int), thread-safe.

  It raises UndecodableImage where the dataset's file is damaged.

  Attributes:
    class_names: one for each class, in the order of the labels.
    num_classes: how many.
    fingerprint: name, version, split, count and a digest of the metadata; two
      sources that differ have different ones.
    name: as one says it, e.g. "cifar10/3.0.2 train".
    directory: of the whole tfds dataset, or "" for part of a split.
  """

  def __init__(self, records, class_names, *, fingerprint, name, directory=""):
    self._records = records
    self.class_names = tuple(class_names)
    self.num_classes = len(self.class_names)
    self.fingerprint = fingerprint
    self.name = name
    self.directory = directory

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    return self._records[index]

  def example_name(self, index: int) -> str:
    """What an error message calls example `index`."""
    return f"{self.name}[{index}]"


def parse_example(
  record: bytes, image_key: str, label_key: str
) -> tuple[bytes, int]:
  """The encoded image and the label of a serialised tf.train.Example.

  Takes 2 microseconds; tfds' own parser, which makes arrays, takes 32.

  Raises:
    UndecodableImage: it is no such thing.
  """
  try:
    features = tf_example_pb2.Example.FromString(record).features.feature
    image, label = features[image_key], features[label_key]
    return image.bytes_list.value[0], label.int64_list.value[0]
  except (DecodeError, IndexError) as error:
    raise UndecodableImage(f"its record is damaged: {error}") from error


class _Examples:
  """The parsed records of an ArrayRecord data source."""

  def __init__(self, records, image_key: str, label_key: str):
    self._records, self._keys = records, (image_key, label_key)

  def __len__(self):
    return len(self._records)

  def __getitem__(self, index):
    if not 0 <= index < len(self):
      raise IndexError(f"{index} is not in 0 to {len(self) - 1}")
    try:
      record = self._records[index]
    except (RuntimeError, ValueError, IndexError) as error:
      raise UndecodableImage(f"its record is damaged: {error}") from error
    return parse_example(record, *self._keys)


class _Selection:
  """The examples of `source` at `indices`, in that order."""

  def __init__(self, source: Source, indices: np.ndarray):
    self._source, self._indices = source, indices

  def __len__(self):
    return len(self._indices)

  def __getitem__(self, index):
    return self._source[int(self._indices[index])]


def open_split(name: str, split: str, data_dir: str = "") -> Source:
  """Opens one split of a tfds image classification dataset.

  Args:
    name: tfds name, e.g. "imagenet2012", "imagenette/320px-v2",
      "cifar10:3.0.2", or "patterns/N", which is generated where missing.
    split: "train", or any tfds slice, "train[:90%]", "train+validation".
    data_dir: the folder that holds datasets; "" is tfds' own default
      (TFDS_DATA_DIR or ~/tensorflow_datasets).

  Raises:
    UserError: the dataset or the split is not there or cannot be read so.
  """
  data_dir = os.path.expanduser(data_dir)
  if re.fullmatch("patterns([/:].*)?", name):
    name, data_dir = _generated(name, data_dir)
  directory = find_dataset(name, data_dir)
  info = tfds.builder_from_directory(directory).info
  if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    raise UserError(
      f"Dataset {name} in {directory} is stored as"
      f" {info.file_format.value}, which allows no random access; only"
      " array_record does. Convert it once: python -m alexnet_jax.prepare"
      f" --source=tfds:{name} --source_dir={base_directory(data_dir)}"
      f" --data_dir=NEW, then read {prepared_name(name)} from NEW."
    )
  return open_directory(directory, split)


def open_directory(directory: str, split: str) -> Source:
  """Opens a split of the tfds dataset in a folder; as `open_split`."""
  builder = tfds.builder_from_directory(directory)
  info = builder.info
  name = info.full_name
  image_key, label_key = supervised_keys(info)
  try:
    parts = [part.filename for part in info.splits[split].file_instructions]
    records = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
  except (ValueError, KeyError, AssertionError) as error:
    there = ", ".join(
      f"{key} ({value.num_examples:,})" for key, value in info.splits.items()
    )
    raise UserError(
      f"Dataset {name} in {directory} has no split {split!r}. It has {there}."
      " Name one of these, or a slice such as train[:90%]."
    ) from error
  missing = [path for path in parts if not os.path.isfile(path)]
  if missing:
    raise UserError(
      f"Dataset {name} is not whole: {missing[0]} is missing"
      f" ({len(missing)} of {len(parts)} files of {split}). Copy it again, or"
      f" remove {directory} and prepare it anew (python -m"
      " alexnet_jax.prepare)."
    )
  label = info.features[label_key]
  return Source(
    _Examples(records, image_key, label_key),
    # A set without label names still has classes.
    label.names or map(str, range(label.num_classes)),
    fingerprint=f"{name}:{split}:{len(records)}:"
    + _digest(pathlib.Path(directory, "dataset_info.json").read_bytes()),
    name=f"{name} {split}",
    directory=directory,
  )


def hold_out(source: Source, count: int, seed: int) -> tuple[Source, Source]:
  """Splits a source in two, (the rest, `count` held out), by a permutation.

  The same count and seed hold out the same examples, in any process.

  Raises:
    UserError: count leaves nothing to train on.
  """
  if not 0 <= count < len(source):
    raise UserError(
      f"Cannot hold {count:,} of the {len(source):,} images of {source.name}"
      " out: choose a number from 0 to one less than that."
    )
  order = permutation(len(source), seed)
  # In ascending order: neighbours on disk stay neighbours.
  rest, held = np.sort(order[count:]), np.sort(order[:count])

  def select(part, indices):
    return Source(
      _Selection(source, indices),
      source.class_names,
      fingerprint=f"{source.fingerprint}:{part} {count} {seed}",
      name=f"{source.name} ({part} {count:,})",
    )

  whole = source if count == 0 else select("without", rest)
  return whole, select("held out", held)


def open_run(
  config: Mapping[str, Any], split: str, data_dir: str = ""
) -> Source:
  """The images of a run; those it trains on are without those it holds out.

  Args:
    config: of the run.
    split: "train", "validation" or "test" of its configuration.
    data_dir: "" for the configuration's.

  Raises:
    UserError: the data set is not here.
  """
  source = open_split(
    config["dataset"], config["splits"][split], data_dir or config["data_dir"]
  )
  if split == "train":
    source, _ = hold_out(source, config["holdout"], config["seed"])
  return source


def permutation(count: int, *seed: int) -> np.ndarray:
  """A permutation i64[count] that depends on the seeds alone.

  Ranks of the raw bits of PCG64, which NumPy keeps stable between versions;
  the stream of `Generator.permutation` it does not.
  """
  bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
  return np.argsort(bits, kind="stable")


def find_dataset(name: str, data_dir: str) -> str:
  """The folder of the newest version there is, or of the one named.

  Raises:
    UserError: there is none.
  """
  path, _, version = name.partition(":")
  folder = base_directory(data_dir) / path
  found = [
    entry
    for entry in (folder.iterdir() if folder.is_dir() else ())
    if re.fullmatch(r"\d+\.\d+\.\d+", entry.name)
    and (entry / "dataset_info.json").is_file()
    and version in ("", entry.name)
  ]
  if found:
    return str(max(found, key=lambda p: [int(n) for n in p.name.split(".")]))
  configs = sorted({p.parent.parent.name for p in folder.glob("*/*/*.json")})
  hint = f" It has the configurations {', '.join(configs)}." if configs else ""
  raise UserError(
    f"Dataset {name} is not prepared: looked for"
    f" {folder / (version or 'VERSION')}/dataset_info.json.{hint}"
    f" {_how_to_prepare(path, data_dir)}"
  )


def _how_to_prepare(name: str, data_dir: str) -> str:
  original = name.removesuffix("_256")
  target = f"--data_dir={base_directory(data_dir)}"
  if original in ("imagenet2012", "imagenet2010"):
    tars = (
      "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"
      if original == "imagenet2012"
      else "ILSVRC2010_images_train.tar, ILSVRC2010_images_val.tar and"
      " ILSVRC2010_devkit-1.0.tar.gz"
    )
    return (
      f"Register at image-net.org, fetch {tars} into a folder DIR, then run:"
      f" python -m alexnet_jax.prepare --source=tars:DIR {target}"
      f" --name={name}"
    )
  called = f" --name={name}" if re.fullmatch("[a-z][a-z0-9_]*", name) else ""
  return (
    "To prepare it, run: python -m alexnet_jax.prepare"
    f" --source=tfds:{original} {target}{called} (--source_dir=DIR where"
    " tfds keeps it elsewhere), or --source=folder:DIR for your own images in"
    " DIR/train/CLASS/ and DIR/validation/CLASS/."
    + ("" if called else f" It is then called {prepared_name(original)}.")
  )


def prepared_name(name: str, size: int = 256) -> str:
  """What `prepare` calls its version of a dataset by default."""
  return re.sub(r"\W", "_", f"{name}_{size}")


def base_directory(data_dir: str) -> pathlib.Path:
  """The folder that holds datasets; tfds' own for ""."""
  default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  return pathlib.Path(data_dir or default).expanduser()


def _generated(name: str, data_dir: str) -> tuple[str, str]:
  """The full name of a drawn dataset, and the folder where it now is."""
  name = "patterns/10" if name == "patterns" else name
  if not data_dir or not os.path.isdir(os.path.join(data_dir, name)):
    data_dir = _own_directory(data_dir) or files.cache_directory()
    patterns.generate(name, data_dir)
  return name, data_dir


def _own_directory(data_dir: str) -> str:
  """`data_dir` if it is this user's own and writable, else ""."""
  if not data_dir or not os.path.isdir(data_dir):
    return ""
  status = os.stat(data_dir)
  # The mode, not os.access: root may write everywhere, and should not.
  own = status.st_uid == os.geteuid() and status.st_mode & 0o200
  return data_dir if own else ""


def supervised_keys(info) -> tuple[str, str]:
  """The names of the image and of the label among a dataset's features.

  Raises:
    UserError: it has no such two.
  """
  keys = info.supervised_keys or ("image", "label")
  kinds = (tfds.features.Image, tfds.features.ClassLabel)
  if len(keys) != 2 or not all(
    key in info.features and isinstance(info.features[key], kind)
    for key, kind in zip(keys, kinds, strict=True)
  ):
    raise UserError(
      f"Dataset {info.full_name} is no image classification set: it has the"
      f" features {', '.join(info.features)}; an image and a class label are"
      " wanted."
    )
  return keys


def _digest(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()[:12]


def statistics(source: Source, size: int, cache_dir: str = "") -> Statistics:
  """Mean image and RGB principal components of a source, computed once.

  Images are decoded and rescaled as for training; those that cannot be
  decoded are left out, and it says how many. Taken from the `statistics.npz`
  that `prepare` left beside the dataset, else from the cache.

  Args:
    source: the training images.
    size: side S of the rescaled images.
    cache_dir: "" is the user's cache directory.
  """
  cached = os.path.join(
    cache_dir or files.cache_directory(),
    f"statistics-{_digest(source.fingerprint.encode())}-{size}.npz",
  )
  for path in (os.path.join(source.directory, "statistics.npz"), cached):
    stored = load_statistics(path, source.fingerprint, size)
    if stored is not None:
      return stored
  moments = _sum_over(source, size)
  result = moments.statistics()
  try:
    save_statistics(cached, result, source.fingerprint)
  except OSError as error:  # a cache is a convenience
    _console().print(f"The statistics could not be cached: {error}")
  return result


def _sum_over(source: Source, size: int) -> Moments:
  """One pass over all images on all cores."""
  console = _console()
  total, lock = Moments(size), threading.Lock()
  task = f"Statistics of {source.name}"
  with rich.progress.Progress(console=console, transient=True) as progress:
    bar = progress.add_task(task, total=len(source))

    def add(indices):
      part = Moments(size)
      for index in indices:
        try:
          part.add(rescale(decode(source[index][0]), size))
        except UndecodableImage as error:
          name = source.example_name(index)
          progress.console.print(f"{name} cannot be decoded: {error}")
      with lock:
        total.merge(part)
      progress.advance(bar, len(indices))

    with concurrent.futures.ThreadPoolExecutor(num_cores()) as pool:
      chunks = np.array_split(range(len(source)), len(source) // 64 + 1)
      for done in [pool.submit(add, chunk.tolist()) for chunk in chunks]:
        done.result()
  if total.num_images == 0:
    raise UserError(f"Not one image of {source.name} can be decoded.")
  if total.num_images < len(source):
    skipped = len(source) - total.num_images
    console.print(f"{task}: left {skipped:,} of {len(source):,} images out.")
  return total


def save_statistics(
  path: str, result: Statistics, fingerprint: str, **more: np.ndarray
) -> None:
  """Writes them as .npz, atomically, with more arrays for the curious."""
  content = io.BytesIO()
  arrays = dataclasses.asdict(result) | more
  np.savez(content, fingerprint=fingerprint, **arrays)
  files.write_atomic(path, content.getvalue())


def load_statistics(path: str, fingerprint: str, size: int):
  """The Statistics in a file, or None if there is none that fits."""
  try:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
      fits = str(stored["fingerprint"]) == fingerprint
      if not fits or stored["mean_image"].shape != (size, size, 3):
        return None
      names = [field.name for field in dataclasses.fields(Statistics)]
      loaded = {name: stored[name] for name in names}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  return Statistics(**loaded | {"num_images": int(loaded["num_images"])})


def _console() -> rich.console.Console:
  return rich.console.Console(stderr=True)


def num_cores() -> int:
  """Cores this process may use, which may be fewer than the machine has."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
