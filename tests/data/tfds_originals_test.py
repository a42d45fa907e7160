"""The layout tfds:NAME, and how it reads TFRecord without TensorFlow."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sample_data import ENCODING, jpeg, picture

from alexnet_jax.data import images, inspection, preparing, sources
from alexnet_jax.data.originals import Options
from alexnet_jax.runtime.command import UserError


def write_tfrecord(folder):
  """Writes a dataset in the default format of tfds, without TensorFlow."""
  from tensorflow_datasets.proto import tf_example_pb2

  place = folder / "trees" / "2.0.0"
  place.mkdir(parents=True)
  shard_lengths = [3, 2]
  for number, length in enumerate(shard_lengths):
    path = place / f"trees-train.tfrecord-{number:05}-of-00002"
    with open(path, "wb") as file:
      for i in range(length):
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(jpeg(10 * number + i))
        feature["label"].int64_list.value.append(i)
        record = example.SerializeToString()
        file.write(
          len(record).to_bytes(8, "little") + b"crc!" + record + b"crc!"
        )
  template = tfds.core.ShardedFileTemplate(
    data_dir=place,
    dataset_name="trees",
    split="train",
    filetype_suffix="tfrecord",
  )
  tfds.folder_dataset.write_metadata(
    data_dir=place,
    features=tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["ash", "elm", "oak"]),
      }
    ),
    split_infos=[
      tfds.core.SplitInfo(
        name="train",
        shard_lengths=shard_lengths,
        num_bytes=1,
        filename_template=template,
      )
    ],
    check_data=False,
    supervised_keys=("image", "label"),
  )
  return place


def test_tfrecord_is_converted_as_the_error_message_says(tmp_path):
  write_tfrecord(tmp_path)
  with pytest.raises(UserError) as caught:
    sources.open_split("trees", "train", str(tmp_path))
  message = str(caught.value)
  arguments = message[
    message.index("--source=") : message.index(", then read")
  ].split()
  arguments = [a.replace("=NEW", f"={tmp_path / 'new'}") for a in arguments]
  assert arguments == [
    "--source=tfds:trees",
    f"--source_dir={tmp_path}",
    f"--data_dir={tmp_path / 'new'}",
  ]
  originals = preparing.open_originals("tfds:trees", Options(str(tmp_path)))
  name = sources.prepared_name(originals.name)
  preparing.prepare(originals, str(tmp_path / "new"), name, encoding=ENCODING)
  source = sources.open_split("trees_256", "train", str(tmp_path / "new"))
  assert sorted(source[i][1] for i in range(5)) == [0, 0, 1, 1, 2]
  assert source.class_names == ("ash", "elm", "oak")
  image = images.decode(source[0][0])
  expected = [images.rescale(picture(s)) for s in (0, 1, 2, 10, 11)]
  errors = [np.abs(image.astype(float) - w).mean() for w in expected]
  assert min(errors) < 3


def test_a_tfrecord_set_is_checked(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(inspection, "THROUGHPUT_SECONDS", 0.1)
  write_tfrecord(tmp_path)
  inspection.inspect(str(tmp_path), "trees", need=0.0)
  lines = capsys.readouterr().out.splitlines()
  assert "ok    train images: 5, all 90 x 120" in lines
  assert "3 classes of 1 to 2 images" in lines[2]


def test_tfrecord_cut_short_is_refused(tmp_path):
  place = write_tfrecord(tmp_path)
  path = next(place.glob("*00001-of-00002"))
  path.write_bytes(path.read_bytes()[:-50])
  with pytest.raises(UserError, match="cut short: it has 1 of 2 records"):
    preparing.open_originals("tfds:trees", Options(str(tmp_path)))
