"""Preparing: from original images to a dataset of fixed-size images.

The result is an ordinary tfds dataset with the statistics of its pixels and a
manifest. It depends only on the originals and the arguments, and it gets its
name only when it is complete.
"""

import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import (
  image_folders,
  imagenet_tars,
  parallel,
  parquet_originals,
  raw_pixels,
  shards,
  sources,
  tfds_originals,
  webdataset_originals,
)
from alexnet_jax.data.byte_ranges import ByteRanges
from alexnet_jax.data.images import UndecodableImage, decode
from alexnet_jax.data.originals import Options, Originals, Split
from alexnet_jax.data.shards import Encoding, Shard
from alexnet_jax.runtime import files, paths
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.paths import printable

VERSION = "1.0.0"

# The layouts of originals, as --source names them.
LAYOUTS: dict[str, Callable[[str, Options], Originals]] = {
  "tars:DIR": imagenet_tars.open_tars,
  "folder:DIR": image_folders.open_folders,
  "tfds:NAME": tfds_originals.open_tfds,
  "parquet:DIR": parquet_originals.open_parquet,
  "webdataset:DIR": webdataset_originals.open_webdataset,
}
SOURCES = ", ".join(LAYOUTS)  # for messages

# Libraries that decide the value of a pixel.
LIBRARIES = ("numpy", "opencv-python-headless", "simplejpeg", "pillow")


def open_originals(source: str, options: Options | None = None) -> Originals:
  """Opens a source such as "folder:DIR"; LAYOUTS lists them.

  Raises UserError if the source is unknown, missing, incomplete or damaged.
  """
  layout, _, place = source.partition(":")
  if layout != "tfds":  # whose names may look like an address
    place = paths.local_path(place, f"--source={layout}")
  for form, open_layout in LAYOUTS.items():
    if form.startswith(f"{layout}:") and place:
      are_files = os.path.isfile(place) or "{" in place
      are_files &= layout in ("parquet", "webdataset")
      if form.endswith(":DIR") and not (are_files or os.path.isdir(place)):
        raise UserError(f"The source folder {place} does not exist.")
      options = options or Options()
      if options.source_dir and layout != "tfds":
        raise UserError(
          f"--source_dir={options.source_dir} has no effect: it is the folder"
          f" of tfds:NAME, and the source is {source}. Leave it out."
        )
      if options.layout != "auto" and layout != "folder":
        raise UserError(
          f"--layout={options.layout} has no effect: only folder:DIR has"
          f" several layouts, and the source is {source}. Leave it out."
        )
      originals = open_layout(place, options)
      originals.check()
      originals.orient(options.exif_orientation)
      if options.holdout:
        originals.hold_out(options.holdout)
      return originals
  raise UserError(f"--source={source} must be one of {SOURCES}.")


def prepare(
  originals: Originals,
  data_dir: str,
  name: str,
  *,
  encoding: Encoding,
  limit: int = 0,
  shard_size: int = 2048,
) -> str:
  """Writes the originals as the tfds dataset `name`; returns its folder.

  A preparation that was killed continues where it stopped.

  Args:
    data_dir: the folder that holds datasets.
    name: of the dataset: a-z, 0-9 and _.
    limit: number of images of each class and split; 0 for all.
    shard_size: largest number of images in a file.

  Raises:
    UserError: the name is invalid, belongs to another dataset or to a
      preparation with other arguments, another process is preparing the
      dataset, or it cannot be written.
  """
  if not re.fullmatch("[a-z][a-z0-9_]*", name):
    raise UserError(
      f"--name={name} is not a valid dataset name: use lower-case letters,"
      " digits and underscores, starting with a letter."
    )
  chosen = {}
  for split, images in originals.splits.items():
    chosen[split] = _choose(images, limit)
    if not len(chosen[split]):
      raise UserError(
        f"The {split} split of {originals.name} has no images. Add some, or"
        " remove the split."
      )
  options = encoding._asdict() | {"limit": limit, "shard_size": shard_size}
  plan = _plan(originals, chosen, options)
  target = pathlib.Path(data_dir, name, VERSION)
  if target.exists():
    manifest = read_manifest(str(target))
    if manifest is None:
      raise UserError(
        f"{target} exists and was not made by this command. Choose another"
        " --name or --data_dir; nothing is overwritten."
      )
    _check_same(manifest["plan"], plan, target, "was made")
    print(f"{target} is already prepared.")
    return str(target)
  _check_classes(originals, chosen)
  unfinished = pathlib.Path(data_dir, f".{name}.incomplete")
  with files.WorkdirLock(str(unfinished), "--data_dir"):
    parts = {
      split: _deal(unfinished, name, originals, split, indices, shard_size)
      for split, indices in chosen.items()
    }
    try:
      _begin(unfinished, plan)
      all_parts = list(itertools.chain(*parts.values()))
      shards.write_shards(all_parts, originals, encoding)
      now = plan | {"source_state": originals.state()}
      _check_same(plan, now, unfinished, "was begun")
      _write_metadata(unfinished / "data", name, originals, parts, plan)
      target.parent.mkdir(parents=True, exist_ok=True)
      os.rename(unfinished / "data", target)
    except (OSError, RuntimeError) as error:  # array_record raises the latter
      free = shutil.disk_usage(data_dir).free
      raise UserError(
        f"Writing into {unfinished} failed: {error} ({free / 2**30:.1f} GiB"
        " free). Finished files are kept: free some space, make it writable or"
        " choose another --data_dir, and run the same command again."
      ) from error
  shutil.rmtree(unfinished, ignore_errors=True)
  return str(target)


def write_raw_pixels(folder: str) -> str:
  """Decodes a prepared dataset once (`raw_pixels`); returns the folder.

  Raises:
    UserError: as `raw_pixels.write_raw`, or the dataset is not prepared.
  """
  manifest = read_manifest(folder)
  if manifest is None:
    raise UserError(
      f"{folder} was not made by this command, so its images may have any size:"
      " prepare it with --source, then use --raw."
    )
  examples = {}
  info = sources.open_builder(folder).info
  for split, split_info in info.splits.items():
    source, first = sources.open_directory(folder, split), 0
    for path, count in zip(
      split_info.filepaths, split_info.shard_lengths, strict=True
    ):
      part = np.arange(first, first + count)
      examples[os.path.basename(path)] = sources.select(source, part)
      first += count
  return raw_pixels.write_raw(
    folder,
    sources.metadata_digest(folder),
    manifest["plan"]["size"],
    examples,
    info.name,
  )


def read_manifest(folder: str) -> dict[str, Any] | None:
  """The manifest of a dataset, None if it has none; UserError if damaged."""
  path = pathlib.Path(folder, "manifest.json")
  if not path.is_file():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise UserError(
      f"{path} is not valid JSON ({error}). Restore it, or prepare the dataset"
      " again."
    ) from error


def _choose(images: Split, limit: int) -> np.ndarray:
  """i64[N], the indices of the images to prepare."""
  if not limit:
    return np.arange(len(images))
  labels = images.labels()
  order = np.argsort(labels, kind="stable")
  ranks = np.empty(len(labels), np.int64)  # of each image in its class
  ranks[order] = np.arange(len(labels)) - np.searchsorted(
    labels[order], labels[order]
  )
  return np.flatnonzero(ranks < limit)


def _check_classes(originals: Originals, chosen: dict[str, np.ndarray]) -> None:
  """Looks for a readable image of each class, where images are cheap to find.

  A folder beside the class folders, or a class that was damaged in copying,
  would otherwise be found after hours.

  Raises:
    UserError: no training image of a class can be decoded.
  """
  for split, indices in chosen.items():
    images = originals.splits[split]
    if not isinstance(images, ByteRanges):
      continue

    def why_unreadable(indices: np.ndarray, images=images) -> str:
      for index in indices.tolist():
        try:
          decode(images[index][0])
        except UndecodableImage as error:
          reason = f"{images.example_name(index)}: {error}"
        else:
          return ""
      return f"{len(indices):,} images, for example {reason}"

    labels = images.labels()[indices]
    order = np.argsort(labels, kind="stable")
    numbers, firsts = np.unique(labels[order], return_index=True)
    tasks = np.split(indices[order], firsts[1:])
    reasons = parallel.map_images(
      why_unreadable,
      tasks,
      f"Checking {split}",
      size=lambda task: 1,
      unit="classes",
    )
    for number, reason in zip(numbers.tolist(), reasons, strict=True):
      if not reason:
        continue
      class_name = originals.class_names[number]
      text = f"no image of class {class_name} can be read ({reason})"
      if split == "train":
        raise UserError(
          f"In the training images of {originals.name}, {text}. Replace them,"
          " or move the class away."
        )
      print(f"note: in the {split} images, {printable(text)}")


def _deal(
  folder: pathlib.Path,
  name: str,
  originals: Originals,
  split: str,
  chosen: np.ndarray,
  size: int,
) -> list[Shard]:
  """The shards of a split, of at most `size` images.

  Originals are often sorted by class, so chunks of neighbours are shuffled
  before they are dealt to shards.
  """
  chunks = originals.splits[split].chunks(chosen)
  order = sources.permutation(len(chunks), len(chosen))
  shuffled = np.concatenate([chunks[place] for place in order])
  count = -(-len(shuffled) // size)
  stem = f"{name}-{split}.array_record"
  return [
    Shard(folder, f"{stem}-{number:05}-of-{count:05}", split, number, indices)
    for number, indices in enumerate(np.array_split(shuffled, count))
  ]


def _plan(
  originals: Originals, chosen: dict[str, np.ndarray], options: dict[str, Any]
) -> dict[str, Any]:
  """Everything that determines the result; stored in the manifest."""
  splits = originals.splits.items()
  return {
    "source": originals.name,
    "source_files": {p.name: p.stat().st_size for p in originals.files},
    "images": {split: len(indices) for split, indices in chosen.items()},
    "inventory": {split: images.fingerprint for split, images in splits},
    "source_state": originals.state(),
    "num_classes": len(originals.class_names),
    "left_out": originals.left_out,
    "upright": originals.upright,
    **options,
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in LIBRARIES},
    },
  }


def _begin(folder: pathlib.Path, plan: dict[str, Any]) -> None:
  """Creates the folder of a preparation, or checks that of an earlier one."""
  stored = folder / "plan.json"
  if stored.exists():
    _check_same(json.loads(stored.read_text()), plan, folder, "was begun")
  for part in ("data", "facts"):
    (folder / part).mkdir(exist_ok=True)
  files.write_atomic(stored, json.dumps(plan))


def _check_same(
  stored: dict[str, Any], plan: dict[str, Any], folder: pathlib.Path, how: str
) -> None:
  plan = json.loads(json.dumps(plan))
  # Plans of before have no state of the source. What is left out determines
  # nothing beside the inventory of what is not.
  stored = {"source_state": plan["source_state"]} | stored
  digests = {"inventory": "another list of images"}
  differences = [
    f"{key} ({digests.get(key, f'{stored.get(key)} there, {plan[key]} now')})"
    for key in plan
    if stored.get(key) != plan[key] and key not in ("source_state", "left_out")
  ]
  if not differences and stored["source_state"] != plan["source_state"]:
    raise UserError(
      f"{folder} {how} from files that have been modified or replaced since:"
      f" sizes or times of modification of {plan['source']} differ. Remove that"
      " folder to prepare them anew, or choose another --name; nothing is"
      " overwritten."
    )
  if differences:
    raise UserError(
      f"{folder} {how} with other arguments or images:"
      f" {'; '.join(differences)}. Choose another --name, or remove that"
      " folder; nothing is overwritten."
    )


def _write_metadata(
  folder: pathlib.Path,
  name: str,
  originals: Originals,
  parts: dict[str, list[Shard]],
  plan: dict[str, Any],
) -> None:
  """Makes a tfds dataset of the finished shards in `folder`."""
  entries, infos = {}, []
  for split, split_shards in parts.items():
    facts = [shard.facts() for shard in split_shards]
    entries[split] = _summarize(split, facts, originals.class_names)
    template = tfds.core.ShardedFileTemplate(
      data_dir=folder,
      dataset_name=name,
      split=split,
      filetype_suffix="array_record",
    )
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(labels) for _, labels, _, _ in facts],
        num_bytes=entries[split]["num_bytes"],
        filename_template=template,
      )
    )
  size = plan["size"]
  features = {
    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
    "label": tfds.features.ClassLabel(names=originals.class_names),
    "file_name": tfds.features.Text(),
  }
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=tfds.features.FeaturesDict(features),
    split_infos=infos,
    version=VERSION,
    check_data=False,
    description=f"{originals.name}, prepared by alexnet_jax: {size} pixels a"
    f" side, rescale={plan['rescale']}.",
    supervised_keys=("image", "label"),
  )
  sums = shards.TrainingSums(parts["train"], size).sums
  sums.statistics().save(
    str(folder / "statistics.npz"),
    sources.open_directory(str(folder), "train").fingerprint,
    covariance=sums.covariance(),
    num_pixels=sums.num_images * size * size,
  )
  manifest = {"plan": plan, "splits": entries}
  (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _summarize(
  split: str, facts: list[tuple], class_names: Sequence[str]
) -> dict[str, Any]:
  """The manifest's entry for a split."""
  num_bytes, labels, skipped, digests = zip(*facts, strict=True)
  labels = np.concatenate(labels)
  skipped = sorted(itertools.chain(*skipped))
  if not len(labels):
    name, reason = skipped[0]
    raise UserError(
      f"No image of the {split} split can be decoded, for example {name}"
      f" ({reason})."
    )
  digest = hashlib.sha256("".join(digests).encode()).hexdigest()
  counts = np.bincount(labels, minlength=len(class_names)).tolist()
  return {
    "num_examples": len(labels),
    "num_bytes": sum(num_bytes),
    "source_sha256": digest,
    "skipped": [{"name": name, "reason": reason} for name, reason in skipped],
    "classes": dict(zip(class_names, counts, strict=True)),
  }
