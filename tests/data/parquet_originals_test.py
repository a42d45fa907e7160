"""The layout parquet:DIR: labels, class names, splits, memory, damage."""

import concurrent.futures
import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sample_data import make, manifest
from sample_layouts import painted, peak_of_reading, write_parquet

from alexnet_jax.data import parquet_originals, preparing, sources
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.data.originals import Options
from alexnet_jax.data.shards import Encoding
from alexnet_jax.runtime.command import UserError

SMALL = Encoding(size=32)


def texts(count):
  """Pairs whose bytes are numbered texts instead of images."""
  return [(b"image %d" % i, i % 3) for i in range(count)]


def opened(folder, **options):
  return preparing.open_originals(f"parquet:{folder}", Options(**options))


def test_rows_may_be_read_in_any_order_and_more_than_once(tmp_path):
  write_parquet(tmp_path / "train-0.parquet", texts(40), group=7)
  write_parquet(tmp_path / "train-1.parquet", texts(23), group=100)
  images = opened(tmp_path).splits["train"]
  expected = texts(40) + texts(23)
  order = [*range(63), *reversed(range(63)), 5, 5, 50, 5]
  assert [images[i] for i in order] == [expected[i] for i in order]
  assert images.example_name(39) == "train-0.parquet[39]"
  assert images.example_name(50) == "train-1.parquet[10]"
  chosen = images.select(np.array([1, 6, 7, 38, 41]))
  assert [chosen[i] for i in range(5)] == [
    expected[i] for i in (1, 6, 7, 38, 41)
  ]
  chunks = chosen.chunks(np.array([0, 1, 2, 4]))
  assert [chunk.tolist() for chunk in chunks] == [[0, 1], [2], [4]]
  assert chosen.fingerprint != images.fingerprint


def test_threads_that_read_side_by_side_get_their_rows(tmp_path, monkeypatch):
  write_parquet(tmp_path / "train-0.parquet", texts(300), group=90)
  images = opened(tmp_path).splits["train"]
  expected = texts(300)
  # Little may wait, so that rows are dropped and read again.
  monkeypatch.setattr(parquet_originals, "WAITING_BYTES", 100)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(images.__getitem__, range(300)))
  assert found == expected


def test_labels_without_names_are_numbers_or_texts(tmp_path):
  write_parquet(tmp_path / "a" / "train.parquet", texts(7))
  write_parquet(tmp_path / "a" / "val.parquet", texts(2))
  found = opened(tmp_path / "a")
  assert found.class_names == ["0", "1", "2"]
  assert list(found.splits) == ["train", "validation"]
  names = ["oak", "ash", None, "oak", "elm"]
  path = tmp_path / "b" / "train.parquet"
  write_parquet(path, texts(5), labels=names)
  with pytest.raises(UserError, match=r"train.parquet\[2\] .*has no label"):
    opened(tmp_path / "b")
  write_parquet(path, texts(5), labels=[name or "fir" for name in names])
  found = opened(tmp_path / "b")
  assert found.class_names == ["ash", "elm", "fir", "oak"]
  assert found.splits["train"].labels().tolist() == [3, 0, 2, 3, 1]


def test_shards_without_a_split_in_their_name_are_training_images(tmp_path):
  write_parquet(tmp_path / "0000.parquet", texts(12))
  found = opened(tmp_path, holdout=0.25)
  held_out = found.splits["validation"]
  assert sorted(held_out.labels()) == [0, 1, 2]
  rows = [int(held_out.example_name(i)[13:-1]) for i in range(3)]
  assert [held_out[i] for i in range(3)] == [texts(12)[row] for row in rows]


def test_a_single_file_may_be_given(tmp_path):
  path = tmp_path / "my" / "validation-00000-of-00002.parquet"
  write_parquet(path, texts(4))
  write_parquet(tmp_path / "my" / "other.parquet", texts(9))
  with pytest.raises(UserError, match="no training images"):
    opened(path)
  train = path.rename(path.with_name("train-00000-of-00002.parquet"))
  found = opened(train)
  assert found.name == "my"
  assert found.splits["train"].labels().tolist() == [0, 1, 2, 0]
  assert "only 1 of 2 files are here" in found.left_out[0]


def test_missing_shards_and_other_files_are_named(tmp_path):
  for number in (0, 2):
    path = tmp_path / f"train-{number:05}-of-00003.parquet"
    write_parquet(path, texts(3))
  write_parquet(tmp_path / "extra.parquet", texts(3))
  (tmp_path / "README.md").write_text("")
  (tmp_path / ".cache").mkdir()
  assert opened(tmp_path).left_out == [
    "2 other files, e.g. .cache",
    "extra.parquet has no split in its name",
    "train: only 2 of 3 files are here; number 00001 is missing",
  ]


def test_files_that_do_not_belong_together_are_refused(tmp_path):
  write_parquet(tmp_path / "train-0.parquet", texts(3), ["a", "b", "c"])
  write_parquet(tmp_path / "train-1.parquet", texts(3), ["b", "a", "c"])
  with pytest.raises(UserError, match="do not belong to one dataset"):
    opened(tmp_path)
  for size in ("160px", "320px"):
    write_parquet(tmp_path / "x" / size / "train-0.parquet", texts(3))
  with pytest.raises(UserError, match=r"several datasets.* 160px, 320px"):
    opened(tmp_path / "x")


def test_wrong_columns_and_files_are_refused(tmp_path):
  path = tmp_path / "train.parquet"
  table = pa.table({"image": pa.array([b"x"]), "score": pa.array([0.5])})
  parquet.write_table(table, path)
  with pytest.raises(UserError, match=r"label of an image: .*score \(double\)"):
    opened(tmp_path)
  table = pa.table({"url": pa.array(["x"]), "label": pa.array([0])})
  parquet.write_table(table, path)
  with pytest.raises(UserError, match=r"which column .* the image of"):
    opened(tmp_path)
  path.write_bytes(b"PAR1 and no footer")
  with pytest.raises(UserError, match="cannot be read as Parquet"):
    opened(tmp_path)
  path.unlink()
  with pytest.raises(UserError, match=r"no files \*\.parquet; it has x/"):
    (tmp_path / "x").mkdir()
    opened(tmp_path)


def test_the_finest_of_several_kinds_of_labels_is_taken(tmp_path):
  """CIFAR-100 has a hundred fine labels and twenty coarse ones."""
  features = {
    "img": {"_type": "Image"},
    "coarse_label": {"_type": "ClassLabel", "names": ["tree"]},
    "fine_label": {"_type": "ClassLabel", "names": ["ash", "elm"]},
  }
  table = pa.table(
    {
      "img": pa.array([{"bytes": b"x"}]),
      "coarse_label": pa.array([0]),
      "fine_label": pa.array([1]),
    }
  )
  text = json.dumps({"info": {"features": features}})
  table = table.replace_schema_metadata({"huggingface": text})
  parquet.write_table(table, tmp_path / "train.parquet")
  found = opened(tmp_path)
  assert found.class_names == ["ash", "elm"]
  assert found.splits["train"][0] == (b"x", 1)
  # A column that is called label is the label, whatever else there is.
  features["label"] = {"_type": "ClassLabel", "names": ["oak"]}
  text = json.dumps({"info": {"features": features}})
  table = table.append_column("label", pa.array([0]))
  table = table.replace_schema_metadata({"huggingface": text})
  parquet.write_table(table, tmp_path / "train.parquet")
  found = opened(tmp_path)
  assert found.class_names == ["oak"]
  assert found.splits["train"][0] == (b"x", 0)


def test_damage_and_rows_without_bytes(tmp_path):
  pairs = [(b"x" * 1000, 0), (None, 1), (b"y" * 1000, 2)]
  path = tmp_path / "train.parquet"
  write_parquet(path, pairs, struct=False)
  with pytest.raises(UndecodableImage, match="no bytes"):
    opened(tmp_path).splits["train"][1]
  images = opened(tmp_path).splits["train"]
  content = path.read_bytes()
  path.write_bytes(content + b" ")
  with pytest.raises(UserError, match="was modified after"):
    images[0]
  stored = bytearray(content)
  stored[4:60] = bytes(56)  # the first page
  path.write_bytes(stored)
  images = opened(tmp_path).splits["train"]
  with pytest.raises(UserError, match=r"cannot be read as Parquet.* again"):
    images[0]


def test_files_without_the_images_are_refused(tmp_path):
  images = [{"bytes": None, "path": f"{i}.jpg"} for i in range(3)]
  kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
  table = pa.table(
    {"image": pa.array(images, kind), "label": pa.array([0, 1, 2])}
  )
  parquet.write_table(table, tmp_path / "train.parquet")
  with pytest.raises(UserError, match=r"column image\.bytes is empty"):
    opened(tmp_path)


def test_prepared_row_groups_are_mixed(tmp_path):
  pairs = [(painted(i // 20, i % 7), i // 20) for i in range(60)]
  write_parquet(tmp_path / "in" / "train-0.parquet", pairs, group=4)
  made = make(f"parquet:{tmp_path / 'in'}", tmp_path, encoding=SMALL)
  source = sources.open_directory(made, "train")
  labels = [source[i][1] for i in range(60)]
  assert sorted(labels) == [0] * 20 + [1] * 20 + [2] * 20
  assert np.count_nonzero(np.diff(labels)) > 15
  assert manifest(made)["plan"]["source_files"] == {
    "train-0.parquet": (tmp_path / "in" / "train-0.parquet").stat().st_size
  }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_dataset(tmp_path):
  """A set of 400 MB against one of 40 MB, in row groups of 100 rows."""
  random, peaks = np.random.default_rng(0), {}
  for count in (1, 10):
    for number in range(count):
      pairs = [(random.bytes(100_000), i % 3) for i in range(400)]
      path = tmp_path / f"{count}" / f"train-{number}.parquet"
      write_parquet(path, pairs, group=100)
    peaks[count] = peak_of_reading(f"parquet:{tmp_path / str(count)}")
  assert peaks[10] < peaks[1] + 30  # MB
