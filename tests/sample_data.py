"""Images and datasets that several tests write."""

import hashlib
import io
import json
import pathlib
import struct
import subprocess
import sys
import tarfile
import zlib

import cv2
import numpy as np
import simplejpeg
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax.data import preparing, shards
from alexnet_jax.data.originals import Options
from alexnet_jax.runtime import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENCODING = shards.Encoding()
CLASSES = ("n01440764", "n01443537", "n01484850")


def picture(seed, height=90, width=120):
  """A smooth coloured picture u8[H,W,3]."""
  coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(seed, **options):
  return simplejpeg.encode_jpeg(picture(seed, **options), 95)


def png_header(width, height):
  """A PNG whose header has this size, with hardly any pixels."""

  def chunk(kind, content):
    crc = zlib.crc32(kind + content)
    return (
      struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    )

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    + chunk(b"IEND", b"")
  )


def write_checkpoint_metadata(workdir, step, **metadata):
  """A checkpoint without arrays, whose metadata a run can read."""
  body = {"step": step, "metadata": metadata}
  folder = pathlib.Path(workdir, "checkpoints", str(step), "metadata")
  folder.mkdir(parents=True)
  text = json.dumps({**body, "crc32": files.crc32_of_json(body)})
  (folder / "metadata").write_text(text)


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Forty PNGs of 12 x 14 in train and ten in validation, three classes."""

  VERSION = tfds.core.Version("1.2.0")
  pictures = np.random.default_rng(3).integers(
    0, 256, (50, 12, 14, 3), np.uint8
  )

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(encoding_format="png"),
          "label": tfds.features.ClassLabel(names=["ash", "elm", "oak"]),
        }
      ),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples(range(40)),
      "validation": self._generate_examples(range(40, 50)),
    }

  def _generate_examples(self, numbers):
    for number in numbers:
      file = io.BytesIO()
      Image.fromarray(self.pictures[number]).save(file, "PNG")
      file.seek(0)
      yield number, {"image": file, "label": number % 3}


def write_tiny(folder):
  """Prepares Tiny in a folder; returns the folder's name."""
  builder = Tiny(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()
  return str(folder)


def write_dataset(data_dir, name, splits, class_names):
  """Writes a tfds dataset; `splits` has the (image, label) pairs of each."""
  folder = pathlib.Path(data_dir, name, "1.0.0")
  folder.mkdir(parents=True)
  infos = []
  for split, pairs in splits.items():
    path = folder / f"{name}-{split}.array_record-00000-of-00001"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for encoded, label in pairs:
      example = tf_example_pb2.Example()
      example.features.feature["image"].bytes_list.value.append(encoded)
      example.features.feature["label"].int64_list.value.append(label)
      writer.write(example.SerializeToString())
    writer.close()
    template = tfds.core.ShardedFileTemplate(
      data_dir=folder,
      dataset_name=name,
      split=split,
      filetype_suffix="array_record",
    )
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=[len(pairs)],
        num_bytes=1,
        filename_template=template,
      )
    )
  features = {
    "image": tfds.features.Image(encoding_format="jpeg"),
    "label": tfds.features.ClassLabel(names=class_names),
  }
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=tfds.features.FeaturesDict(features),
    split_infos=infos,
    check_data=False,
    supervised_keys=("image", "label"),
  )
  return folder


def add(tar, name, content):
  member = tarfile.TarInfo(name)
  member.size = len(content)
  tar.addfile(member, io.BytesIO(content))


def write_tars(folder, per_class=4, validation=6, hostile=False):
  """Writes the official layout: a tar of class tars, a flat validation tar."""
  folder.mkdir(exist_ok=True)
  with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
    for number, wnid in enumerate(CLASSES):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        for i in range(per_class):
          add(tar, f"{wnid}_{i}.JPEG", jpeg(100 * number + i))
        if hostile and number == 0:
          add(tar, "../../escape.JPEG", jpeg(7))
          link = tarfile.TarInfo("link.JPEG")
          link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
          tar.addfile(link)
          link = tarfile.TarInfo("hard.JPEG")
          link.type, link.linkname = tarfile.LNKTYPE, "../../etc/passwd"
          tar.addfile(link)
      add(train, f"{wnid}.tar", inner.getvalue())
    if hostile:
      add(train, "../README", b"no tar")
  with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as val:
    for i in range(validation):
      add(val, f"ILSVRC2012_val_{i + 1:08}.JPEG", jpeg(900 + i))
  return folder


def write_folder(folder, per_class=6, splits=("train", "validation")):
  for split, start in zip(splits, (0, 5000), strict=False):
    for number, name in enumerate(("ash", "elm", "oak")):
      place = folder / split / name
      place.mkdir(parents=True)
      for i in range(per_class):
        (place / f"{i}.jpg").write_bytes(jpeg(start + 100 * number + i))
  return folder


def make(source, data_dir, name="tiny_256", holdout=0.0, **options):
  found = preparing.open_originals(source, Options(holdout=holdout))
  options = {"encoding": ENCODING, **options}
  return preparing.prepare(found, str(data_dir), name, **options)


def command(module, *arguments):
  return subprocess.run(
    [sys.executable, "-m", f"alexnet_jax.{module}", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def run(*arguments):
  return command("prepare", *arguments)


def manifest(folder):
  return json.loads(pathlib.Path(folder, "manifest.json").read_text())


def digests(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in pathlib.Path(folder).iterdir()
  }
