"""Sources: labelled encoded images, and where they are found.

A source is a split of a tfds dataset stored as ArrayRecord, which allows
random access and is read without TensorFlow. A procedural dataset is generated
when it is first opened.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import patterns
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.data.raw_pixels import RawPixels, open_raw
from alexnet_jax.runtime import files, paths
from alexnet_jax.runtime.command import UserError

# Procedural datasets by the first part of their name. A module here has
# `full_name(name) -> name` and `generate(full_name, data_dir)`.
GENERATED = {"patterns": patterns}

NO_LABEL = -1  # the label of an image whose class is not known

PROBED = 64  # examples whose labels are checked when a split is opened

IMAGENET_FILES = {
  "imagenet2012": "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
  "imagenet2010": "ILSVRC2010_images_train.tar, ILSVRC2010_images_val.tar and"
  " ILSVRC2010_devkit-1.0.tar.gz",
}


@dataclasses.dataclass(eq=False)
class Source:
  """A split: `source[i]` is (encoded image, label), thread-safe.

  Reading raises UndecodableImage where the dataset's file is damaged, and
  UserError where the label is not one of 0 to num_classes - 1.
  """

  records: Sequence[tuple[bytes, int]]
  class_names: Sequence[str]  # in the order of the labels
  # Name, version, split, count and a digest of the metadata of the dataset;
  # different sources have different fingerprints.
  fingerprint: str
  name: str  # for messages, e.g. "cifar10/3.0.2 train"
  directory: str = ""  # of the whole tfds dataset; "" for part of a split
  # (image uint8[S,S,3], label) of the same examples, if `prepare --raw` has
  # decoded them.
  pixels: RawPixels | None = None

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> tuple[bytes, int]:
    encoded, label = self.records[index]
    # As an index of scores, -1 would count as the last class, and num_classes
    # would give a loss that is not a number.
    if not 0 <= label < self.num_classes:
      raise UserError(describe_wrong_label(self, index, label))
    return encoded, label

  def example_name(self, index: int) -> str:
    """The name of example `index` in messages."""
    return f"{self.name}[{index}]"


def describe_wrong_label(source: Source, index: int, label: int) -> str:
  """The error message for an example whose label is not that of a class."""
  hint = "Correct the labels of the dataset, or its number of classes."
  if label == NO_LABEL:
    hint = (
      "Choose a split with labels: without them, images can be used neither for"
      " training nor for evaluation."
    )
  problem = problem_of_label(label, source.num_classes)
  return f"{source.example_name(index)} {problem}. {hint}"


def problem_of_label(label: int, num_classes: int) -> str:
  """What is wrong with a label that is not that of a class."""
  if label == NO_LABEL:
    return f"has no label ({NO_LABEL})"
  return (
    f"has the label {label}, but the labels of {num_classes:,} classes are 0 to"
    f" {num_classes - 1:,}"
  )


class Examples:
  """(encoded image, label) of serialised tf.train.Examples; thread-safe.

  Parsing takes 2 microseconds; tfds' own parser, which makes arrays, takes 32.
  A damaged record raises UndecodableImage.
  """

  def __init__(self, records: Sequence[bytes], image_key: str, label_key: str):
    self._records, self._keys = records, (image_key, label_key)

  def __len__(self):
    return len(self._records)

  def __getitem__(self, index):
    if not 0 <= index < len(self):
      raise IndexError(f"index {index} is outside 0 to {len(self) - 1}")
    try:
      example = tf_example_pb2.Example.FromString(self._records[index])
      image, label = (example.features.feature[key] for key in self._keys)
      return image.bytes_list.value[0], label.int64_list.value[0]
    except (DecodeError, RuntimeError, ValueError, IndexError) as error:
      raise UndecodableImage(f"its record is damaged: {error}") from error


class _Selection:
  """The examples of `source` at `indices`, in that order."""

  def __init__(self, source: Source, indices: np.ndarray):
    self._source, self._indices = source, indices

  def __len__(self):
    return len(self._indices)

  def __getitem__(self, index):
    return self._source[int(self._indices[index])]


def select(source: Source, indices: np.ndarray) -> Source:
  """The examples of a source at `indices` i64[N], in that order."""
  pixels = source.pixels and source.pixels.select(indices)
  records = _Selection(source, indices)
  return dataclasses.replace(source, records=records, pixels=pixels)


def open_split(name: str, split: str, data_dir: str = "") -> Source:
  """Opens one split of a tfds image classification dataset.

  Args:
    name: tfds name, e.g. "imagenet2012", "imagenette/320px-v2",
      "cifar10:3.0.2", or "patterns/N", which is generated if it is missing.
    split: "train", or any tfds slice, "train[:90%]", "train+validation".
    data_dir: the folder that holds datasets; "" for the default of tfds
      (TFDS_DATA_DIR or ~/tensorflow_datasets).

  Raises:
    UserError: the dataset or the split is missing, its format does not allow
      random access, or one of PROBED examples has no label of a class.
  """
  data_dir = paths.local_path(data_dir, "data_dir")
  if procedural := GENERATED.get(re.split("[/:]", name)[0]):
    name = procedural.full_name(name)
    if not data_dir or not os.path.isdir(os.path.join(data_dir, name)):
      data_dir = data_dir if _is_own(data_dir) else files.cache_directory()
      procedural.generate(name, data_dir)
  directory = find_dataset(name, data_dir)
  info = open_builder(directory).info
  if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
    raise UserError(
      f"Dataset {name} in {directory} is stored as {info.file_format.value},"
      " which has no random access; training needs array_record. Convert it"
      f" once: python -m alexnet_jax.prepare --source=tfds:{name}"
      f" --source_dir={base_directory(data_dir)} --data_dir=NEW, then read"
      f" {prepared_name(name)} from NEW."
    )
  source = open_directory(directory, split)
  # Found here, a split without labels does not cost an epoch of training.
  for index in np.linspace(0, len(source) - 1, PROBED).astype(int).tolist():
    with contextlib.suppress(UndecodableImage, IndexError):  # if it is empty
      source[index]
  return source


def open_builder(directory: str) -> tfds.core.DatasetBuilder:
  """The tfds dataset in a folder; UserError if its metadata are damaged."""
  try:
    return tfds.builder_from_directory(directory)
  except Exception as error:  # tfds, protobuf and json raise their own kinds
    reason = " ".join(str(error).split())
    for name in ("dataset_info.json", "features.json"):
      try:
        json.loads(pathlib.Path(directory, name).read_bytes())
      except OSError as missing:
        reason = f"{name}: {missing.strerror}"
      except ValueError as damaged:
        reason = f"{name} is not valid JSON: {damaged}"
    raise UserError(
      f"The metadata of the dataset in {directory} cannot be read ({reason})."
      " Copy dataset_info.json and features.json again from the place that the"
      " dataset came from, or make the dataset again."
    ) from error


def open_directory(directory: str, split: str) -> Source:
  """Opens a split of the tfds dataset in a folder; as `open_split`."""
  builder = open_builder(directory)
  info = builder.info
  name = info.full_name
  keys, class_names = read_features(info)
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  try:
    parts = info.splits[split].file_instructions
    records = builder.as_data_source(split, deserialize_method=raw)
  except (ValueError, KeyError, AssertionError) as error:
    splits = [f"{s.name} ({s.num_examples:,})" for s in info.splits.values()]
    raise UserError(
      f"Dataset {name} in {directory} has no split {split!r}. Its splits are"
      f" {', '.join(splits)}; choose one, or a slice such as train[:90%]."
    ) from error
  missing = [part for part in parts if not os.path.isfile(part.filename)]
  if missing:
    raise UserError(
      f"Dataset {name} is incomplete: {missing[0].filename} is missing"
      f" ({len(missing)} of {len(parts)} files of {split}). Copy it again, or"
      f" remove {directory} and prepare the dataset again (python -m"
      " alexnet_jax.prepare)."
    )
  digest = metadata_digest(directory)
  return Source(
    Examples(records, *keys),
    class_names,
    fingerprint=f"{name}:{split}:{len(records)}:{digest}",
    name=f"{name} {split}",
    directory=directory,
    pixels=open_raw(directory, digest, parts),
  )


def metadata_digest(directory: str) -> str:
  """Of the dataset in a folder: 12 hexadecimal digits, another for any change.

  The part of a source's fingerprint that tells versions of a dataset apart.
  """
  metadata = pathlib.Path(directory, "dataset_info.json").read_bytes()
  return hashlib.sha256(metadata).hexdigest()[:12]


def dataset_of(fingerprint: str) -> str:
  """The part of a source's fingerprint that all splits of its dataset share.

  That is the dataset's name and version, and the digest of its metadata.
  """
  match = re.match(
    r"([^:]+):.*:\d+:([0-9a-f]{12})(?:$|:with|:held)", fingerprint
  )
  return ":".join(match.groups()) if match else fingerprint


def stored_rescaling(source: Source) -> str:
  """How `prepare` rescaled the images, a key of `images.RESCALE`.

  "" if they are not a prepared dataset, or only a part of a split.
  """
  path = pathlib.Path(source.directory, "manifest.json")
  if not source.directory or not path.is_file():
    return ""
  try:
    return str(json.loads(path.read_bytes())["plan"]["rescale"])
  except (ValueError, KeyError, TypeError):
    return ""


def hold_out(source: Source, count: int, *seeds: int) -> tuple[Source, Source]:
  """Splits a source at random into (the rest, `count` held-out examples).

  The same count and seeds hold out the same examples in every process. Raises
  UserError if no example is left to train on.
  """
  if not 0 <= count < len(source):
    raise UserError(
      f"Cannot hold out {count:,} of the {len(source):,} images of"
      f" {source.name}: set holdout to a number from 0 to {len(source) - 1:,}."
    )

  def choose(part, indices):
    return dataclasses.replace(
      # In ascending order, because neighbours on disk are faster to read.
      select(source, np.sort(indices)),
      fingerprint=f"{source.fingerprint}:{part} {count} {numbers}",
      name=f"{source.name} ({part} {count:,})",
      directory="",
    )

  numbers = " ".join(map(str, seeds))
  order = permutation(len(source), *seeds)
  rest = choose("without", order[count:]) if count else source
  return rest, choose("held out", order[:count])


def permutation(count: int, *seed: int) -> np.ndarray:
  """A permutation i64[count] that depends only on the seeds.

  It ranks raw bits of PCG64, which NumPy keeps stable between versions;
  the stream of `Generator.permutation` may change.
  """
  bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
  return np.argsort(bits, kind="stable")


def find_dataset(name: str, data_dir: str) -> str:
  """The folder of a dataset's newest version, or of the version in its name.

  If the dataset is missing, the UserError shows how to prepare it.
  """
  path, _, version = name.partition(":")
  folder = base_directory(data_dir) / path
  found = [
    info.parent
    for info in folder.glob("*/dataset_info.json")
    if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    and version in ("", info.parent.name)
  ]
  if found:
    return str(max(found, key=lambda p: [int(n) for n in p.name.split(".")]))
  configs = sorted({p.parent.parent.name for p in folder.glob("*/*/*.json")})
  hint = f" Its configurations are {', '.join(configs)}." if configs else ""
  raise UserError(
    f"Dataset {name} is missing: looked for"
    f" {folder / (version or 'VERSION')}/dataset_info.json.{hint}"
    f" {_how_to_prepare(path, data_dir)}"
  )


def _how_to_prepare(name: str, data_dir: str) -> str:
  original = name.removesuffix("_256")
  target = f"--data_dir={base_directory(data_dir)}"
  if original in IMAGENET_FILES:
    return (
      f"Register at image-net.org, download {IMAGENET_FILES[original]} into a"
      " folder DIR, then run: python -m alexnet_jax.prepare --source=tars:DIR"
      f" {target} --name={name}"
    )
  prepared = name if name.isidentifier() else prepared_name(original)
  return (
    f"To prepare it as {prepared}, run: python -m alexnet_jax.prepare"
    f" --source=tfds:{original} {target} --name={prepared} (add"
    " --source_dir=DIR if the original is in another folder), or use"
    f" --source=folder:DIR --holdout=0.1 {target} --name={prepared} for your"
    " own images in DIR/CLASS/."
  )


def prepared_name(name: str, size: int = 256) -> str:
  """The default name of the prepared version of a dataset."""
  return re.sub(r"\W", "_", f"{name}_{size}")


def base_directory(data_dir: str) -> pathlib.Path:
  """The folder that holds datasets; for "" the default of tfds."""
  if not data_dir:
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(paths.local_path(default, "TFDS_DATA_DIR"))
  return pathlib.Path(paths.local_path(data_dir, "data_dir"))


def _is_own(directory: str) -> bool:
  """Whether this user owns the folder and may write to it."""
  if not os.path.isdir(directory):
    return False
  status = os.stat(directory)
  # The owner and mode, not os.access: root may write everywhere but should
  # not write into another user's folder.
  return status.st_uid == os.geteuid() and bool(status.st_mode & 0o200)


def read_features(
  info: tfds.core.DatasetInfo,
) -> tuple[tuple[str, str], tuple[str, ...]]:
  """The keys of image and label, and the class names (else their numbers).

  Raises UserError if it is not an image classification dataset.
  """
  keys = info.supervised_keys or ("image", "label")
  kinds = (tfds.features.Image, tfds.features.ClassLabel)
  if len(keys) != 2 or not all(
    key in info.features and isinstance(info.features[key], kind)
    for key, kind in zip(keys, kinds, strict=True)
  ):
    raise UserError(
      f"Dataset {info.full_name} is not an image classification dataset: its"
      f" features are {', '.join(info.features)}; it needs an Image and a"
      " ClassLabel feature."
    )
  label = info.features[keys[1]]
  return keys, tuple(label.names or map(str, range(label.num_classes)))
