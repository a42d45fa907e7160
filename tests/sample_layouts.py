"""The layouts that `prepare` reads, written small; a picture tells its class.

Each writer fills a folder and returns the arguments of `open_originals` that
read it. There are four training and two validation images of each class.
"""

import colorsys
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import simplejpeg
from pyarrow import parquet
from sample_data import CLASSES, ROOT, add

from alexnet_jax.data import images, label_lists
from alexnet_jax.data.originals import Options

TRAIN, VALIDATION = 4, 2  # images of each class


def painted(class_number, variant=0):
  """A JPEG of one hue: red, green or blue for class 0, 1 or 2."""
  color = colorsys.hsv_to_rgb(class_number / 3, 0.8, 0.5 + 0.05 * variant)
  pixels = np.broadcast_to(np.uint8([255 * c for c in color]), (70, 80, 3))
  return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95)


def class_of(encoded):
  """The class of a painted picture."""
  return int(images.decode(encoded).mean((0, 1)).argmax())


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def write_classes(folder, count, start=0, below=""):
  """A folder per class; returns `folder`."""
  for number, name in enumerate(CLASSES):
    for i in range(start, start + count):
      path = folder / name / below / f"{name}_{i}.JPEG"
      write(path, painted(number, i))
  return folder


def mixed(count):
  """Classes of `count` images each, in an order that repeats nothing."""
  return [(2 * i + i // 3) % 3 for i in range(3 * count)]


def imagefolder(folder):
  write_classes(folder / "train", TRAIN)
  write_classes(folder / "val", VALIDATION, 5)
  return f"folder:{folder}", Options()


def other_split_names(folder):
  write_classes(folder / "Train", TRAIN)
  write_classes(folder / "VALID", VALIDATION, 5)
  write_classes(folder / "test", VALIDATION, 7)
  return f"folder:{folder}", Options()


def class_folders(folder):
  write_classes(folder, TRAIN + VALIDATION)
  return f"folder:{folder}", Options(holdout=1 / 3)


def nested(folder):
  """ImageFolder takes the images in the folders of a class, too."""
  write_classes(folder / "train", TRAIN, below="2024/may")
  write_classes(folder / "validation", VALIDATION, 5)
  return f"folder:{folder}", Options()


def _flat_validation(folder):
  for i, number in enumerate(mixed(VALIDATION), 1):
    path = folder / f"ILSVRC2012_val_{i:08}.JPEG"
    write(path, painted(number, i % 7))


def kaggle(folder, given=""):
  data = folder / "ILSVRC" / "Data" / "CLS-LOC"
  write_classes(data / "train", TRAIN)
  _flat_validation(data / "val")
  for i in range(5):
    write(data / "test" / f"ILSVRC2012_test_{i:08}.JPEG", painted(0))
  boxes = folder / "ILSVRC" / "Annotations" / "CLS-LOC" / "train"
  write(boxes / CLASSES[0] / "0.xml", b"<annotation/>")
  rows = []
  for i, number in enumerate(mixed(VALIDATION), 1):
    boxes = f"{CLASSES[number]} 1 2 3 4 {CLASSES[number]} 5 6 7 8 "
    rows.append(f"ILSVRC2012_val_{i:08},{boxes}")
  rows = ["ImageId,PredictionString", *reversed(rows)]
  write(folder / "LOC_val_solution.csv", "\n".join(rows).encode())
  return f"folder:{folder / given}", Options()


def kaggle_inner(folder):
  return kaggle(folder, "ILSVRC/Data/CLS-LOC")


def official_list(folder):
  """The flat val/ of the official tar, whose labels tfds ships."""
  write_classes(folder / "train", TRAIN)
  wnids = label_lists.official("validation_labels.txt")
  for number, name in enumerate(CLASSES):
    places = [i for i, wnid in enumerate(wnids, 1) if wnid == name]
    for i in places[:VALIDATION]:
      path = folder / "val" / f"ILSVRC2012_val_{i:08}.JPEG"
      write(path, painted(number, i % 7))
  return f"folder:{folder}", Options()


def tiny_imagenet(folder):
  root = folder / "tiny-imagenet-200"
  write_classes(root / "train", TRAIN, below="images")
  for name in CLASSES:
    boxes = root / "train" / name / f"{name}_boxes.txt"
    write(boxes, f"{name}_0.JPEG\t0\t62\t0\t63\n".encode())
  lines = []
  for i, number in enumerate(mixed(VALIDATION)):
    write(root / "val" / "images" / f"val_{i}.JPEG", painted(number, i))
    lines.append(f"val_{i}.JPEG\t{CLASSES[number]}\t0\t32\t44\t62\n")
  write(root / "val" / "val_annotations.txt", "".join(lines).encode())
  write(root / "test" / "images" / "test_0.JPEG", painted(0))
  write(root / "wnids.txt", "\n".join(CLASSES).encode())
  return f"folder:{folder}", Options()


def _tar(path, members):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as tar:
    for name, content in members:
      add(tar, name, content)


def class_tars(folder):
  for split, count in (("train", TRAIN), ("val", VALIDATION)):
    for number, name in enumerate(CLASSES):
      members = [
        (f"{name}_{split}{i}.JPEG", painted(number, i)) for i in range(count)
      ]
      _tar(folder / split / f"{name}.tar", members)
  return f"folder:{folder}", Options()


def class_tars_alone(folder):
  for number, name in enumerate(CLASSES):
    count = TRAIN + VALIDATION
    members = [(f"{i}.JPEG", painted(number, i)) for i in range(count)]
    _tar(folder / f"{name}.tar", members)
  return f"tars:{folder}", Options(holdout=1 / 3)


def official_tars(folder):
  """The two tars of ILSVRC-2012."""
  folder.mkdir(parents=True, exist_ok=True)
  with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
    for number, name in enumerate(CLASSES):
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as tar:
        for i in range(TRAIN):
          add(tar, f"{name}_{i}.JPEG", painted(number, i))
      add(train, f"{name}.tar", inner.getvalue())
  official_list(folder / "unpacked")
  flat = sorted((folder / "unpacked" / "val").iterdir())
  members = [(path.name, path.read_bytes()) for path in flat]
  _tar(folder / "ILSVRC2012_img_val.tar", members)
  return f"tars:{folder}", Options()


def write_parquet(
  path, pairs, metadata_names=None, struct=True, group=5, labels=None
):
  """Writes (image, label) pairs as Hugging Face's datasets do."""
  path.parent.mkdir(parents=True, exist_ok=True)
  encoded, numbers = zip(*pairs, strict=True)
  kind = pa.binary()
  if struct:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    encoded = [{"bytes": image, "path": "x.jpg"} for image in encoded]
  table = pa.table(
    {"image": pa.array(encoded, kind), "label": pa.array(labels or numbers)}
  )
  if metadata_names:
    label = {"names": metadata_names, "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}
    text = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": text})
  parquet.write_table(table, path, row_group_size=group)


def pairs_of(count):
  return [(painted(n, i % 7), n) for i, n in enumerate(mixed(count))]


def hugging_face(folder):
  """As `imagenet-1k`: class names in the metadata, a test split of -1."""
  data, names = folder / "data", list(CLASSES)
  train = pairs_of(TRAIN)
  write_parquet(data / "train-00000-of-00002.parquet", train[:7], names)
  write_parquet(data / "train-00001-of-00002.parquet", train[7:], names)
  validation = pairs_of(VALIDATION)
  write_parquet(
    data / "validation-00000-of-00001.parquet", validation, names, group=4
  )
  test = [(painted(0), -1)] * 3
  write_parquet(data / "test-00000-of-00001.parquet", test, names)
  return f"parquet:{folder}", Options()


def plain_parquet(folder):
  """Bytes and labels that are texts; the folder tells the split."""
  for split, count in (("train", TRAIN), ("test", 1), ("valid", VALIDATION)):
    pairs = pairs_of(count)
    texts = [CLASSES[number] for _, number in pairs]
    path = folder / "default" / split / "0000.parquet"
    write_parquet(path, pairs, struct=False, labels=texts)
  return f"parquet:{folder}", Options()


def webdataset(folder):
  """As `timm/imagenet-1k-wds`: numbers in KEY.cls, JSON beside."""
  for split, count in (("train", TRAIN), ("validation", VALIDATION)):
    pairs = pairs_of(count)
    for shard in range(2):
      members = []
      for i, (encoded, number) in enumerate(pairs[shard::2]):
        key = f"{CLASSES[number]}_{i}"
        members += [
          (f"{key}.cls", str(number).encode()),
          (f"{key}.jpg", encoded),
          (f"{key}.json", b'{"label": 99}'),
        ]
      _tar(folder / f"imagenet1k-{split}-{shard:04}.tar", members)
  write(folder / "classnames.txt", "\n".join(CLASSES).encode())
  return f"webdataset:{folder}", Options()


def webdataset_in_folders(folder):
  """Folders tell the split, KEY.json the class by its name."""
  for split, count in (("train", TRAIN), ("val", VALIDATION)):
    members = []
    for i, (encoded, number) in enumerate(pairs_of(count)):
      text = json.dumps({"label": CLASSES[number], "width": 80})
      members += [
        (f"./{i}.x/s.JPEG", encoded),
        (f"./{i}.x/s.json", text.encode()),
      ]
    _tar(folder / split / "0.tar", members)
  return f"webdataset:{folder}", Options()


# Reads every training image of a source; prints the peak of memory in kB.
READ_ALL = """
import sys
from alexnet_jax.data import preparing
images = preparing.open_originals(sys.argv[1]).splits["train"]
for index in range(len(images)):
  images[index]
with open("/proc/self/status") as file:
  (line,) = (line for line in file if line.startswith("VmHWM"))
print(line.split()[1])
"""


def peak_of_reading(source):
  """The peak of memory, in MB, of a process that reads a source (Linux)."""
  command = [sys.executable, "-c", READ_ALL, source]
  result = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, check=True
  )
  return int(result.stdout) / 1000


ALL = {
  writer.__name__: writer
  for writer in (
    imagefolder, other_split_names, class_folders, nested, kaggle, kaggle_inner,
    official_list, tiny_imagenet, class_tars, class_tars_alone, official_tars,
    hugging_face, plain_parquet, webdataset, webdataset_in_folders,
  )
}  # fmt: skip
