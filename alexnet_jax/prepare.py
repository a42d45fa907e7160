"""Prepares a dataset once: rescaled images, their statistics, a manifest.

  python -m alexnet_jax.prepare --source=SOURCE --data_dir=DIR [--raw]
  python -m alexnet_jax.prepare --raw --data_dir=DIR --name=NAME
  python -m alexnet_jax.prepare --check --data_dir=DIR [--name=NAME]

SOURCE is one of:
  tars:DIR         the official tars of ILSVRC-2012 or ILSVRC-2010
  folder:DIR       images in folders: torchvision's ImageFolder, Kaggle's
                   ILSVRC, Tiny ImageNet, a tar per class, or class folders
                   alone with --holdout; --layout asks for one of these
  tfds:NAME        a tfds dataset in --source_dir
  parquet:DIR      image sets of Hugging Face
  webdataset:DIR   shards of KEY.jpg and KEY.cls

The paper's input is a fixed set of 256 x 256 images (section 2). This command
writes it as an ordinary tfds dataset NAME in DATA_DIR. If it is killed, rerun
it to continue; the dataset gets its name only when it is complete. --raw also
stores its decoded pixels, which training then reads memory-mapped instead of
decoding JPEGs. --check examines prepared datasets, one line per check.
"""

import time

from absl import flags

from alexnet_jax.data import (
  image_folders,
  images,
  preparing,
  raw_pixels,
  sources,
)
from alexnet_jax.data.originals import Options
from alexnet_jax.data.shards import Encoding
from alexnet_jax.runtime import command, paths
from alexnet_jax.runtime.command import UserError

_SOURCE = flags.DEFINE_string("source", "", f"originals: {preparing.SOURCES}")
_SOURCE_DIR = paths.DEFINE_path(
  "source_dir", "", "folder that holds tfds:NAME; default: that of tfds"
)
_DATA_DIR = paths.DEFINE_path("data_dir", "", "folder for the dataset")
_NAME = flags.DEFINE_string("name", "", "default: the source's name + _256")
_LAYOUT = flags.DEFINE_enum(
  "layout",
  "auto",
  ["auto", *image_folders.LAYOUTS],
  "layout of folder:DIR; auto: found by looking",
)
_LIMIT = flags.DEFINE_integer(
  "limit", 0, "number of images per class and split; 0: all", 0
)
_QUALITY = flags.DEFINE_integer("quality", 95, "JPEG quality", 1, 100)
_SUBSAMPLING = flags.DEFINE_enum(
  "subsampling", "444", ["444", "422", "420"], "JPEG chroma subsampling"
)
_SIZE = flags.DEFINE_integer("size", 256, "side of the images", 8, 4096)
_RESCALE = flags.DEFINE_enum(
  "rescale",
  "crop",
  list(images.RESCALE),
  "keep the centre (paper), warp it all, or as torchvision or Caffe",
)
_HOLDOUT = flags.DEFINE_float(
  "holdout", 0.0, "share of each class for a missing validation split", 0, 0.99
)
_EXIF_ORIENTATION = flags.DEFINE_enum(
  "exif_orientation",
  "auto",
  ["auto", "apply", "ignore"],
  "auto: applied to image files (folder), ignored for ImageNet and archives",
)
_SHARD_SIZE = flags.DEFINE_integer(
  "shard_size", 2048, "images per file; a kill repeats at most one file", 1
)
_RAW = flags.DEFINE_bool(
  "raw", False, "also store the decoded pixels; without --source, of --name"
)
_CHECK = flags.DEFINE_bool("check", False, "check prepared datasets instead")
_NEED = flags.DEFINE_float(
  "need", 0, "--check: images/s that training needs", 0
)
# The flags that --check does not read, and those that only it reads.
ONLY_PREPARE = (
  _SOURCE, _SOURCE_DIR, _LAYOUT, _LIMIT, _QUALITY, _SUBSAMPLING, _SIZE,
  _RESCALE, _HOLDOUT, _EXIF_ORIENTATION, _SHARD_SIZE,
)  # fmt: skip
ONLY_CHECK = (_NEED,)

LISTED = 10  # lines that are printed of what is left out


def main() -> int | None:
  if not _DATA_DIR.value:
    raise UserError(
      "--data_dir is missing: add --data_dir=DIR, a folder for datasets."
    )
  data_dir = _DATA_DIR.value
  raw_alone = _RAW.value and bool(_NAME.value) and not _SOURCE.value
  unread, why = ONLY_CHECK, "without --check"
  if _CHECK.value:
    unread, why = (*ONLY_PREPARE, _RAW), "with --check"
  elif raw_alone:
    unread, why = ONLY_PREPARE, "with --raw and without --source"
  if without_effect := [f"--{flag.name}" for flag in unread if flag.present]:
    raise UserError(
      f"{', '.join(without_effect)} would have no effect {why}. Leave it out."
    )
  if _CHECK.value:
    from alexnet_jax.data import inspection  # imports JAX

    return inspection.inspect(data_dir, _NAME.value, _NEED.value)
  if raw_alone:
    return _store_raw_pixels(sources.find_dataset(_NAME.value, data_dir))
  if not _SOURCE.value:
    raise UserError(
      f"--source is missing: set it to one of {preparing.SOURCES}, or use"
      " --check to examine a prepared dataset, or --raw --name=NAME to store"
      " the decoded pixels of one."
    )
  paths.check_output_folder(data_dir, "--data_dir")
  options = Options(
    source_dir=_SOURCE_DIR.value,
    holdout=_HOLDOUT.value,
    layout=_LAYOUT.value,
    exif_orientation=_EXIF_ORIENTATION.value,
  )
  originals = preparing.open_originals(_SOURCE.value, options)
  print(originals.description())
  for line in originals.left_out[:LISTED]:
    print(f"left out: {line}")
  if (more := len(originals.left_out) - LISTED) > 0:
    print(f"left out: {more:,} more, which manifest.json will list")
  if set(originals.splits) == {"train"}:
    print("no validation images: hold some out, for example --holdout=0.1")
  name = _NAME.value or sources.prepared_name(originals.name, _SIZE.value)
  start = time.monotonic()
  folder = preparing.prepare(
    originals,
    data_dir,
    name,
    encoding=Encoding(
      _SIZE.value, _QUALITY.value, _SUBSAMPLING.value, _RESCALE.value
    ),
    limit=_LIMIT.value,
    shard_size=_SHARD_SIZE.value,
  )
  seconds = time.monotonic() - start
  manifest = preparing.read_manifest(folder)
  for split, facts in manifest["splits"].items():
    print(
      f"{split}: {facts['num_examples']:,} images,"
      f" {facts['num_bytes'] / 2**20:,.1f} MiB,"
      f" {len(facts['skipped']):,} skipped"
    )
    if facts["skipped"]:
      first = facts["skipped"][0]
      print(
        f"skipped: {first['name']} ({first['reason']}); manifest.json lists all"
      )
  print(
    f"{folder} in {seconds:,.0f} s; train on it with --config.dataset={name}"
    f" --config.data_dir={data_dir}"
  )
  if _RAW.value:
    _store_raw_pixels(folder)
  return None


def _store_raw_pixels(folder: str) -> None:
  preparing.write_raw_pixels(folder)
  print(raw_pixels.memory_note(folder))


if __name__ == "__main__":
  command.run(main)
