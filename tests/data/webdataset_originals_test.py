"""The layout webdataset:DIR: samples, labels, class names, shards."""

import sys
import tarfile

import numpy as np
import pytest
from sample_data import add
from sample_layouts import peak_of_reading

from alexnet_jax.data import preparing
from alexnet_jax.data.originals import Options
from alexnet_jax.runtime.command import UserError


def write_shard(path, *members):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as tar:
    for name, content in members:
      add(tar, name, content)


def samples(labels, start=0):
  members = []
  for i, label in enumerate(labels, start):
    members += [(f"{i}.png", b"image %d" % i), (f"{i}.cls", b"%d\n" % label)]
  return members


def opened(place, **options):
  return preparing.open_originals(f"webdataset:{place}", Options(**options))


def test_numbers_have_their_number_as_a_name(tmp_path):
  write_shard(tmp_path / "a-train-0.tar", *samples([2, 0]))
  write_shard(tmp_path / "a-train-1.tar", *samples([1], start=2))
  write_shard(tmp_path / "a-test-0.tar", *samples([0, 3]))
  found = opened(tmp_path)
  assert found.class_names == ["0", "1", "2", "3"]
  train = found.splits["train"]
  assert [train[i] for i in range(3)] == [
    (b"image 0", 2), (b"image 1", 0), (b"image 2", 1),
  ]  # fmt: skip
  assert train.example_name(2) == "a-train-1.tar/2.png"
  assert list(found.splits) == ["train", "test"]


def test_class_names_are_those_of_a_file(tmp_path):
  (tmp_path / "classes.txt").write_text("oak\nash\n\nelm\n")
  members = [
    ("a.jpg", b"x"),
    ("a.cls", b"elm"),
    ("b.jpg", b"y"),
    ("b.cls", b"oak"),
  ]
  write_shard(tmp_path / "train.tar", *members)
  found = opened(tmp_path)
  assert found.class_names == ["oak", "ash", "elm"]
  assert found.splits["train"].labels().tolist() == [2, 0]
  write_shard(tmp_path / "train.tar", *samples([0, 3]))
  with pytest.raises(UserError, match=r"1\.png .* label 3, but .* 0 to 2"):
    opened(tmp_path)


def test_samples_without_image_or_label(tmp_path):
  members = [
    ("a.jpg", b"x"), ("a.cls", b"1"), ("b.cls", b"0"), ("b.txt", b"text"),
    ("c.seg.png", b"mask"), ("c.JPG", b"y"), ("c.json", b'{"cls": 0}'),
  ]  # fmt: skip
  write_shard(tmp_path / "train-0.tar", *members)
  write_shard(tmp_path / "test-0.tar", ("a.jpg", b"x"), ("b.jpg", b"y"))
  found = opened(tmp_path)
  assert [found.splits["train"][i] for i in range(2)] == [(b"x", 1), (b"y", 0)]
  assert found.left_out == [
    "train-0.tar: 1 samples without an image, e.g. b (cls, txt)",
    "test: 2 images without labels",
  ]
  members = [("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"0")]
  write_shard(tmp_path / "train-0.tar", *members)
  with pytest.raises(UserError, match=r"train-0\.tar/a has several images"):
    opened(tmp_path)


def test_hidden_files_do_not_divide_a_sample(tmp_path):
  """macOS writes ._NAME before each file NAME."""
  members = [
    ("./._a.jpg", b"-"), ("./a.jpg", b"x"), ("./._a.cls", b"-"),
    ("./a.cls", b"1"), ("./b.jpg", b"y"), ("./b.cls", b"0"),
  ]  # fmt: skip
  write_shard(tmp_path / "train-0.tar", *members)
  (tmp_path / "classes.txt").write_text("oak\nash", encoding="utf-8-sig")
  found = opened(tmp_path)
  assert found.class_names == ["oak", "ash"]
  assert [found.splits["train"][i] for i in range(2)] == [(b"x", 1), (b"y", 0)]
  assert found.left_out == ["train-0.tar: 2 hidden files"]


def test_a_key_that_occurs_twice_is_refused(tmp_path):
  members = [("a.jpg", b"x"), ("a.cls", b"1"), ("a.JPG", b"y"), ("a.cls", b"0")]
  write_shard(tmp_path / "train-0.tar", *members)
  with pytest.raises(UserError, match=r"train-0\.tar has a\.JPG twice"):
    opened(tmp_path)


@pytest.mark.parametrize(
  ("first", "second", "message"),
  [
    (b"0", b"oak", "two kinds"),
    (b"0", b" ", "empty label"),
    (b"0", b"9999999999999", "label 2147483647, but"),
  ],
)
def test_labels_that_cannot_be_used_name_their_sample(
  tmp_path, first, second, message
):
  members = [
    ("a.jpg", b"x"), ("a.cls", first), ("b.jpg", b"x"), ("b.cls", second),
  ]  # fmt: skip
  write_shard(tmp_path / "train-0.tar", *members)
  (tmp_path / "classes.txt").write_text("oak")
  with pytest.raises(UserError, match=message) as caught:
    opened(tmp_path)
  assert "train-0.tar/b" in str(caught.value)


def test_other_tars_and_damaged_ones_are_refused(tmp_path):
  write_shard(tmp_path / "n01440764.tar", ("a.txt", b"x"))
  with pytest.raises(UserError, match=r"no samples .*a \(txt\).*folder:DIR"):
    opened(tmp_path)
  path = tmp_path / "n01440764.tar"
  path.write_bytes(path.read_bytes()[:600])
  with pytest.raises(UserError, match="damaged or cut short"):
    opened(tmp_path)
  path.write_bytes(b"")
  with pytest.raises(UserError, match="damaged or cut short"):
    opened(tmp_path)


def test_shards_may_be_named_with_braces(tmp_path):
  for split, count in (("train", 11), ("val", 1)):
    for number in range(count):
      name = f"in-{split}-{number:03}.tar"
      write_shard(tmp_path / name, *samples([0, 1], number))
  found = opened(f"{tmp_path}/in-{{train-{{000..010}},val-000}}.tar")
  assert found.description().startswith(
    "WebDataset shards (class names are numbers): 22 training images, 2"
    " validation images; 2 classes"
  )
  with pytest.raises(UserError, match=r"1 of the 12 .* example .*train-011"):
    opened(f"{tmp_path}/in-train-{{000..011}}.tar")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_dataset(tmp_path):
  """A set of 400 MB against one of 40 MB."""
  random, peaks = np.random.default_rng(0), {}
  for count in (1, 10):
    for number in range(count):
      members = []
      for i in range(400):
        members += [(f"{i}.jpg", random.bytes(100_000)), (f"{i}.cls", b"0")]
      write_shard(tmp_path / f"{count}" / f"train-{number}.tar", *members)
    peaks[count] = peak_of_reading(f"webdataset:{tmp_path / str(count)}")
  assert peaks[10] < peaks[1] + 30  # MB
