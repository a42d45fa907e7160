"""Real ImageNet images become the same bytes, whatever the route."""

import hashlib
import io
import tarfile

import pytest
from PIL import Image
from sample_data import add, make
from sample_layouts import write, write_parquet

from alexnet_jax.data import label_lists, preparing, sources
from alexnet_jax.data.originals import Options
from alexnet_jax.data.shards import Encoding

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def originals(shared_data):
  """Name, encoded image and WordNet id of each, by split.

  The validation images are training images, too: no class has several images.
  """
  found = {"train": [], "validation": []}
  wnids = label_lists.official("validation_labels.txt")
  for split in ("train", "validation"):
    source = sources.open_split("imagenet2012", split, shared_data)
    for i in range(len(source)):
      encoded, label = source[i]
      wnid = source.class_names[label]
      found["train"].append((f"{wnid}_{split}{i}.JPEG", encoded, wnid))
      if split == "validation":  # a number that the official list gives to it
        number = wnids.index(wnid) + 1
        name = f"ILSVRC2012_val_{number:08}.JPEG"
        found[split].append((name, encoded, wnid))
  return found


def write_tars(folder, originals):
  by_class = {}
  for name, encoded, wnid in originals["train"]:
    by_class.setdefault(wnid, []).append((name, encoded))
  folder.mkdir()
  with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
    for wnid, images in by_class.items():
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        for name, encoded in images:
          add(tar, name, encoded)
      add(train, f"{wnid}.tar", inner.getvalue())
  with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
    for name, encoded, _ in originals["validation"]:
      add(tar, name, encoded)
  return f"tars:{folder}"


def write_kaggle(folder, originals):
  for name, encoded, wnid in originals["train"]:
    write(folder / "train" / wnid / name, encoded)
  lines = ["ImageId,PredictionString"]
  for name, encoded, wnid in originals["validation"]:
    write(folder / "val" / name, encoded)
    lines.append(f"{name.removesuffix('.JPEG')},{wnid} 1 2 3 4 ")
  write(folder / "LOC_val_solution.csv", "\n".join(lines).encode())
  return f"folder:{folder}"


def write_hugging_face(folder, originals):
  names = label_lists.official("labels.txt")
  for split, images in originals.items():
    pairs = [(encoded, names.index(wnid)) for _, encoded, wnid in images]
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    write_parquet(path, pairs, names, group=100)
  return f"parquet:{folder}"


def write_webdataset(folder, originals):
  folder.mkdir()
  for split, images in originals.items():
    with tarfile.open(folder / f"{split}-0.tar", "w") as tar:
      for name, encoded, wnid in images:
        key = name.removesuffix(".JPEG")
        add(tar, f"{key}.jpg", encoded)
        add(tar, f"{key}.cls", wnid.encode())
  return f"webdataset:{folder}"


def contents(source):
  """The class and the digest of each image, sorted."""
  examples = (source[i] for i in range(len(source)))
  return sorted(
    (source.class_names[label], hashlib.sha256(encoded).hexdigest())
    for encoded, label in examples
  )


def test_one_original_has_an_exif_orientation(originals):
  """So the routes would differ if one of them turned it."""
  images = [
    Image.open(io.BytesIO(encoded)) for _, encoded, _ in originals["train"]
  ]
  assert [image.getexif().get(0x0112) for image in images].count(6) == 1


def test_five_routes_give_the_same_bytes(originals, shared_data, tmp_path):
  prepared = {}
  for writer in (
    write_tars,
    write_kaggle,
    write_hugging_face,
    write_webdataset,
  ):
    source = writer(tmp_path / writer.__name__, originals)
    folder = make(source, tmp_path, writer.__name__, encoding=Encoding(128))
    for split in originals:
      made = sources.open_directory(folder, split)
      prepared.setdefault(split, []).append(contents(made))
  assert [len(images) for images in prepared["train"]] == [360] * 4
  for split, images in originals.items():
    classes = sorted(wnid for _, _, wnid in images)
    for route in prepared[split]:
      assert [wnid for wnid, _ in route] == classes
      assert route == prepared[split][0]
  # The originals as tfds stores them, whose validation images are trained on
  # in the other routes.
  place = Options(source_dir=shared_data)
  found = preparing.open_originals("tfds:imagenet2012", place)
  folder = preparing.prepare(
    found, str(tmp_path), "of_tfds", encoding=Encoding(128)
  )
  both = sources.open_directory(folder, "train+validation")
  assert prepared["train"][0] == contents(both)
