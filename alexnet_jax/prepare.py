"""Prepares a dataset once: rescaled images, their statistics, a manifest.

  python -m alexnet_jax.prepare --source=tars:DIR --data_dir=DIR
  python -m alexnet_jax.prepare --source=folder:DIR --data_dir=DIR
  python -m alexnet_jax.prepare --source=tfds:NAME [--source_dir=DIR]
      --data_dir=DIR
  python -m alexnet_jax.prepare --check --data_dir=DIR [--name=NAME]

The paper's input is a fixed set of 256 x 256 images (section 2); this makes
it, as an ordinary tfds dataset NAME in DATA_DIR. The same command again goes
on where a killed one stopped; nothing is named NAME before it is whole.
--check examines a prepared set, a verdict a line.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import time
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from alexnet_jax.data import originals, pixel_statistics, shards, sources
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.runtime import command, files
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import WorkdirLock

VERSION = "1.0.0"

_SOURCE = flags.DEFINE_string("source", "", "tars:DIR, folder:DIR or tfds:NAME")
_SOURCE_DIR = flags.DEFINE_string("source_dir", "", "where tfds:NAME is kept")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "folder to hold the dataset")
_NAME = flags.DEFINE_string("name", "", "default: the source's name + _256")
_LIMIT = flags.DEFINE_integer("limit", 0, "images of a class; 0: all", 0)
_QUALITY = flags.DEFINE_integer("quality", 95, "of the JPEGs", 1, 100)
_SUBSAMPLING = flags.DEFINE_enum(
  "subsampling", "444", ["444", "422", "420"], "of the JPEGs' colours"
)
_SIZE = flags.DEFINE_integer("size", 256, "side of the images", 8, 4096)
_RESCALE = flags.DEFINE_enum(
  "rescale",
  "crop",
  ["crop", "warp"],
  "the centre, as the paper; or all of it",
)
_HOLDOUT = flags.DEFINE_float(
  "holdout", 0.0, "share of each class to validate on, if a folder has none"
)
_SHARD_SIZE = flags.DEFINE_integer(
  "shard_size", 2048, "images in a file, the most that a kill can cost", 1
)
_CHECK = flags.DEFINE_bool("check", False, "examine a prepared dataset instead")
_NEED = flags.DEFINE_float("need", 0, "--check: images/s that training uses")


def prepare(
  found: originals.Originals,
  data_dir: str,
  name: str,
  *,
  encoding: shards.Encoding,
  limit: int = 0,
  shard_size: int = 2048,
) -> str:
  """Writes `found` as the tfds dataset `name`; returns its folder.

  Every file of the result depends on the originals and the arguments alone.

  Args:
    found: the original images.
    data_dir: folder to hold the dataset.
    name: of the dataset: a-z, 0-9 and _.
    encoding: what to make of each image.
    limit: how many images of each class and split, 0 for all.
    shard_size: how many images a file holds at most.

  Raises:
    UserError: `name` is another dataset already, was begun in another way,
      is being made by another process, or cannot be written.
  """
  if not re.fullmatch("[a-z][a-z0-9_]*", name):
    raise UserError(
      f"--name={name} is no name of a tfds dataset: write a small letter, then"
      " small letters, digits and _."
    )
  chosen = {
    split: _choose(found.splits[split], limit) for split in found.splits
  }
  for split, indices in chosen.items():
    if not len(indices):
      raise UserError(
        f"There is no image in the {split} split of {found.name}."
      )
  plan = _plan(found, chosen, encoding, limit, shard_size)
  target = pathlib.Path(data_dir, name, VERSION)
  if target.exists():
    return _already_there(target, plan)
  unfinished = pathlib.Path(data_dir, f".{name}.incomplete")
  with _lock(unfinished):
    _begin(unfinished, plan)
    parts = [
      shards.Shard(unfinished, name, split, number, count, indices)
      for split in found.splits
      for number, count, indices in _deal(chosen[split], shard_size)
    ]
    try:
      shards.write_shards(parts, found.splits, encoding, found.upright)
      _write_metadata(unfinished / "data", name, found, parts, encoding, plan)
      target.parent.mkdir(parents=True, exist_ok=True)
      os.rename(unfinished / "data", target)
    except (OSError, RuntimeError) as error:  # array_record raises the latter
      free = shutil.disk_usage(data_dir).free
      raise UserError(
        f"Writing into {unfinished} failed: {error} ({free / 2**30:.1f} GiB"
        " are free there). What is finished is kept: make room, or choose"
        " another --data_dir, and run the same command again."
      ) from error
  shutil.rmtree(unfinished, ignore_errors=True)
  return str(target)


def _choose(split: shards.Split, limit: int):
  """The indices i64[N] of the images to take."""
  if not limit:
    return np.arange(len(split))
  taken = collections.Counter()
  chosen = []
  for index in range(len(split)):
    try:
      label = split.label(index)
    except UndecodableImage:  # is to be counted as such
      label = -1
    taken[label] += 1
    if taken[label] <= limit:
      chosen.append(index)
  return np.array(chosen, np.int64)


def _deal(chosen: np.ndarray, shard_size: int):
  """Yields (number, how many, i64[N] indices) of each shard of a split.

  A source is often sorted by class: its runs of neighbours are shuffled, and
  then dealt in turn.
  """
  runs = shards.runs(chosen)
  order = sources.permutation(len(runs), len(chosen))
  shuffled = np.concatenate([runs[place] for place in order])
  count = -(-len(shuffled) // shard_size)
  for number, indices in enumerate(np.array_split(shuffled, count)):
    yield number, count, indices


def _write_metadata(
  folder: pathlib.Path, name: str, found, parts, encoding, plan
) -> None:
  """Makes a tfds dataset of the finished shards."""
  splits, manifest = [], {}
  for split in found.splits:
    facts = [shard.facts() for shard in parts if shard.split == split]
    labels = np.concatenate([fact["labels"] for fact in facts])
    if not len(labels):
      raise UserError(
        f"Not one image of the {split} split can be decoded, such as"
        f" {json.loads(str(facts[0]['skipped']))[0]}."
      )
    skipped = [
      pair for fact in facts for pair in json.loads(str(fact["skipped"]))
    ]
    digest = "".join(str(fact["digest"]) for fact in facts)
    counts = np.bincount(labels, minlength=len(found.class_names)).tolist()
    manifest[split] = {
      "num_examples": len(labels),
      "num_bytes": sum(int(fact["num_bytes"]) for fact in facts),
      "source_sha256": hashlib.sha256(digest.encode()).hexdigest(),
      "skipped": [{"name": n, "reason": r} for n, r in sorted(skipped)],
      "classes": dict(zip(found.class_names, counts, strict=True)),
    }
    splits.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[int(fact["count"]) for fact in facts],
        num_bytes=manifest[split]["num_bytes"],
        filename_template=tfds.core.ShardedFileTemplate(
          data_dir=folder,
          dataset_name=name,
          split=split,
          filetype_suffix="array_record",
        ),
      )
    )
  side = encoding.size
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(
          shape=(side, side, 3), encoding_format="jpeg"
        ),
        "label": tfds.features.ClassLabel(names=found.class_names),
        "file_name": tfds.features.Text(),
      }
    ),
    split_infos=splits,
    version=VERSION,
    check_data=False,
    description=f"{found.name}, prepared by alexnet_jax: {side} pixels a side,"
    f" rescale={encoding.rescale}.",
    supervised_keys=("image", "label"),
  )
  train = pixel_statistics.PixelSums(side)
  for shard in parts:
    if shard.split == "train":
      train.merge(shard.moments())
  source = sources.open_directory(str(folder), "train")
  pixel_statistics.save(
    str(folder / "statistics.npz"),
    train.statistics(),
    source.fingerprint,
    covariance=train.covariance(),
    num_pixels=train.num_images * side * side,
  )
  text = json.dumps({"plan": plan, "splits": manifest}, indent=1)
  (folder / "manifest.json").write_text(text)


def _plan(found, chosen, encoding, limit, shard_size) -> dict[str, Any]:
  """All that decides what the result is; kept in the manifest."""
  libraries = ("numpy", "opencv-python-headless", "simplejpeg", "pillow")
  return {
    "source": found.name,
    "source_files": found.files,
    "images": {split: len(indices) for split, indices in chosen.items()},
    "inventory": {
      split: images.inventory() for split, images in found.splits.items()
    },
    "num_classes": len(found.class_names),
    "left_out": found.left_out,
    "upright": found.upright,
    **dataclasses.asdict(encoding),
    "limit": limit,
    "shard_size": shard_size,
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in libraries},
    },
  }


def _lock(folder: pathlib.Path) -> WorkdirLock:
  try:
    return WorkdirLock(str(folder))
  except UserError as error:
    raise UserError(
      f"{folder} cannot be worked in: {error} (Here --data_dir and --name"
      " decide the folder.)"
    ) from None


def _begin(folder: pathlib.Path, plan: dict[str, Any]) -> None:
  """Makes the folder of a new preparation, or checks that of a begun one."""
  kept = folder / "plan.json"
  try:
    if kept.exists():
      _compare(json.loads(kept.read_text()), plan, folder, "was begun")
    for part in ("data", "facts"):
      (folder / part).mkdir(exist_ok=True)
    files.write_atomic(kept, json.dumps(plan))
  except OSError as error:
    raise UserError(f"{folder} cannot be written: {error.strerror}.") from error


def _already_there(target: pathlib.Path, plan: dict[str, Any]) -> str:
  try:
    manifest = json.loads((target / "manifest.json").read_text())
  except (OSError, ValueError):
    raise UserError(
      f"{target} exists and was not made by this command. Choose another"
      " --name or --data_dir; nothing is written over."
    ) from None
  _compare(manifest["plan"], plan, target, "was made")
  print(f"{target} is prepared already.")
  return str(target)


def _compare(kept, plan, folder: pathlib.Path, how: str) -> None:
  plan = json.loads(json.dumps(plan))
  differ = [
    f"{key} ({kept.get(key)} there, {plan[key]} now)"
    for key in plan
    if kept.get(key) != plan[key]
  ]
  if differ:
    raise UserError(
      f"{folder} {how} in another way: {'; '.join(differ)}. Choose another"
      " --name, or remove that folder; nothing is written over."
    )


def main() -> int | None:
  if not _DATA_DIR.value:
    raise UserError("Say where the dataset is to be: --data_dir=DIR.")
  data_dir = os.path.expanduser(_DATA_DIR.value)
  if _CHECK.value:
    from alexnet_jax.data import inspection

    return inspection.inspect(data_dir, _NAME.value, _NEED.value)
  if not _SOURCE.value:
    raise UserError(
      "Say what to prepare: --source=tars:DIR, --source=folder:DIR or"
      " --source=tfds:NAME; or examine a prepared dataset with --check."
    )
  found = originals.open_originals(
    _SOURCE.value, _SOURCE_DIR.value, _HOLDOUT.value
  )
  name = _NAME.value or sources.prepared_name(found.name, _SIZE.value)
  start = time.monotonic()
  folder = prepare(
    found,
    data_dir,
    name,
    encoding=shards.Encoding(
      _SIZE.value, _QUALITY.value, _SUBSAMPLING.value, _RESCALE.value
    ),
    limit=_LIMIT.value,
    shard_size=_SHARD_SIZE.value,
  )
  _tell(folder, name, data_dir, time.monotonic() - start)
  return None


def _tell(folder: str, name: str, data_dir: str, seconds: float) -> None:
  manifest = json.loads(pathlib.Path(folder, "manifest.json").read_text())
  for split, facts in manifest["splits"].items():
    print(
      f"{split}: {facts['num_examples']:,} images,"
      f" {facts['num_bytes'] / 2**20:,.1f} MiB,"
      f" {len(facts['skipped']):,} skipped"
    )
  for line in manifest["plan"]["left_out"][:10]:
    print(f"left out: {line}")
  print(
    f"{folder} in {seconds:,.0f} s; train on it with --config.dataset={name}"
    f" --config.data_dir={data_dir}"
  )


if __name__ == "__main__":
  command.run(main)
