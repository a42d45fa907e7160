"""Sources: opening, splitting, and errors that show what to do."""

import os
import pathlib
import threading

import numpy as np
import pytest
from sample_data import Tiny, jpeg, write_dataset

from alexnet_jax.data import images, sources
from alexnet_jax.runtime.command import UserError


def numbers(source):
  """Which of Tiny's pictures a source holds, in its order."""
  all_bytes = [picture.tobytes() for picture in Tiny.pictures]
  decoded = (images.decode(source[i][0]) for i in range(len(source)))
  return [all_bytes.index(image.tobytes()) for image in decoded]


def test_open_split_reads_every_example_with_its_label(tiny_dir):
  train = sources.open_split("tiny", "train", tiny_dir)
  assert len(train) == 40
  assert train.num_classes == 3
  assert train.class_names == ("ash", "elm", "oak")
  found = numbers(train)
  assert sorted(found) == list(range(40))
  assert [train[i][1] for i in range(40)] == [n % 3 for n in found]
  validation = sources.open_split("tiny:1.2.0", "validation", tiny_dir)
  assert sorted(numbers(validation)) == list(range(40, 50))


def test_slices_and_unions_are_splits(tiny_dir):
  whole = numbers(sources.open_split("tiny", "train", tiny_dir))
  last = sources.open_split("tiny", "train[75%:]", tiny_dir)
  assert numbers(last) == whole[30:]
  both = sources.open_split("tiny", "train+validation", tiny_dir)
  assert sorted(numbers(both)) == list(range(50))


def test_fingerprints_differ_with_what_is_read(tiny_dir):
  names = ["train", "validation", "train[:10]", "train[10:20]"]
  opened = [sources.open_split("tiny", name, tiny_dir) for name in names]
  opened += sources.hold_out(opened[0], 5, 0)
  opened += sources.hold_out(opened[0], 5, 1)
  prints = [source.fingerprint for source in opened]
  assert len(set(prints)) == len(prints)
  again = sources.open_split("tiny", "train", tiny_dir)
  assert again.fingerprint == prints[0]
  assert "tiny/1.2.0" in prints[0]


def test_newest_version_wins(tiny_dir, tmp_path):
  for version in ("1.2.0", "1.10.0", "1.9.0"):
    target = tmp_path / "tiny" / version
    target.mkdir(parents=True)
    for file in pathlib.Path(tiny_dir, "tiny", "1.2.0").iterdir():
      text = file.read_bytes()
      if file.name == "dataset_info.json":
        text = text.replace(b'"1.2.0"', f'"{version}"'.encode())
      (target / file.name).write_bytes(text)
  opened = sources.open_split("tiny", "train", str(tmp_path))
  assert opened.directory == str(tmp_path / "tiny" / "1.10.0")


def test_reading_from_many_threads(tiny_dir):
  train = sources.open_split("tiny", "train", tiny_dir)
  expected = [train[i] for i in range(40)]
  wrong = []

  def read():
    for i in np.random.default_rng().permutation(40).tolist():
      if train[i] != expected[i]:
        wrong.append(i)

  threads = [threading.Thread(target=read) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_hold_out_is_a_partition_fixed_by_the_seed(tiny_dir):
  train = sources.open_split("tiny", "train", tiny_dir)
  rest, held = sources.hold_out(train, 12, 7)
  assert (len(rest), len(held)) == (28, 12)
  assert sorted(numbers(rest) + numbers(held)) == list(range(40))
  assert numbers(sources.hold_out(train, 12, 7)[1]) == numbers(held)
  assert numbers(sources.hold_out(train, 12, 8)[1]) != numbers(held)
  # Not the first or the last ones: files are often sorted by class.
  assert numbers(held) not in (numbers(train)[:12], numbers(train)[-12:])
  whole, nothing = sources.hold_out(train, 0, 7)
  assert whole is train
  assert len(nothing) == 0
  assert nothing.num_classes == 3
  with pytest.raises(UserError, match="Cannot hold out 40"):
    sources.hold_out(train, 40, 7)


def test_permutations_are_uniform():
  """Each of 4 items is about equally often at each of 4 places."""
  count = np.zeros((4, 4))
  for seed in range(4000):
    count[range(4), sources.permutation(4, 1, seed)] += 1
  # Standard deviation of each is sqrt(4000 * 1/4 * 3/4) = 27.
  assert np.abs(count - 1000).max() < 120
  # Seed 0 of epoch 1 is not seed 1 of epoch 0.
  assert (sources.permutation(99, 0, 1) != sources.permutation(99, 1, 0)).any()


def test_a_missing_dataset_shows_the_command_that_prepares_it(tmp_path):
  with pytest.raises(UserError) as caught:
    sources.open_split("cifar10", "train", str(tmp_path))
  text = str(caught.value)
  assert str(tmp_path / "cifar10") in text
  command = "python -m alexnet_jax.prepare --source=tfds:cifar10 --data_dir="
  assert command + str(tmp_path) in text
  assert "\n" not in text


def test_the_prepared_name_of_a_configuration_is_shown(tmp_path):
  with pytest.raises(UserError) as caught:
    sources.open_split("imagenette/320px-v2", "train", str(tmp_path))
  text = str(caught.value)
  assert "--source=tfds:imagenette/320px-v2 " in text
  assert "--name=imagenette_320px_v2_256 " in text


@pytest.mark.parametrize("name", ["imagenet2012", "imagenet2012_256"])
def test_missing_imagenet_lists_the_tars(name, tmp_path):
  with pytest.raises(UserError) as caught:
    sources.open_split(name, "train", str(tmp_path))
  text = str(caught.value)
  for part in (
    "image-net.org",
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "python -m alexnet_jax.prepare --source=tars:DIR",
    f"--data_dir={tmp_path}",
    f"--name={name}",
  ):
    assert part in text


def test_missing_imagenet_2010_lists_its_own_tars(tmp_path):
  with pytest.raises(UserError) as caught:
    sources.open_split("imagenet2010", "train", str(tmp_path))
  text = str(caught.value)
  for part in ("ILSVRC2010_images_train.tar", "ILSVRC2010_devkit-1.0.tar.gz"):
    assert part in text
  assert "img_train" not in text


def test_the_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
  with pytest.raises(UserError, match="elsewhere/cifar10"):
    sources.open_split("cifar10", "train")


def test_a_missing_configuration_lists_the_existing_ones(tiny_dir, tmp_path):
  (tmp_path / "many").mkdir()
  os.symlink(f"{tiny_dir}/tiny", tmp_path / "many" / "small")
  with pytest.raises(UserError, match="configurations are small"):
    sources.open_split("many", "train", str(tmp_path))
  assert len(sources.open_split("many/small", "train", str(tmp_path))) == 40


@pytest.mark.parametrize("split", ["test", "train[", "train[:5]+foo", ""])
def test_a_missing_split_lists_the_existing_ones(split, tiny_dir):
  with pytest.raises(UserError, match=r"train \(40\), validation \(10\)"):
    sources.open_split("tiny", split, tiny_dir)


def test_tfrecord_shows_the_command_that_converts_it(tiny_dir, tmp_path):
  folder = tmp_path / "tiny" / "1.2.0"
  folder.mkdir(parents=True)
  for name in ("dataset_info.json", "features.json"):
    text = pathlib.Path(tiny_dir, "tiny", "1.2.0", name).read_text()
    (folder / name).write_text(text.replace("array_record", "tfrecord"))
  with pytest.raises(UserError) as caught:
    sources.open_split("tiny", "train", str(tmp_path))
  text = str(caught.value)
  assert "tfrecord" in text
  command = (
    "python -m alexnet_jax.prepare --source=tfds:tiny"
    f" --source_dir={tmp_path} --data_dir=NEW"
  )
  assert command in text
  assert "tiny_256" in text


def test_an_incomplete_dataset_is_an_error(tiny_dir, tmp_path):
  folder = tmp_path / "tiny" / "1.2.0"
  folder.mkdir(parents=True)
  for file in pathlib.Path(tiny_dir, "tiny", "1.2.0").iterdir():
    if "validation" not in file.name:
      (folder / file.name).write_bytes(file.read_bytes())
  assert len(sources.open_split("tiny", "train", str(tmp_path))) == 40
  with pytest.raises(UserError, match=r"validation.*missing"):
    sources.open_split("tiny", "validation", str(tmp_path))


def test_real_datasets_can_be_opened(shared_data):
  for name, split, count, classes in (
    ("cifar10", "test", 10_000, 10),
    ("imagenet2012", "train", 240, 1000),
    ("imagenette224", "validation", 600, 10),
  ):
    source = sources.open_split(name, split, shared_data)
    assert (len(source), source.num_classes) == (count, classes)
    encoded, label = source[count - 1]
    assert images.rescale(images.decode(encoded)).shape == (256, 256, 3)
    assert 0 <= label < classes


def test_damage_in_a_file_makes_images_undecodable(tiny_dir, tmp_path):
  folder = tmp_path / "tiny" / "1.2.0"
  folder.mkdir(parents=True)
  for file in pathlib.Path(tiny_dir, "tiny", "1.2.0").iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  whole = sources.open_split("tiny", "train", str(tmp_path))
  pixels = whole[7][0][60:90]
  assert whole[39]
  (path,) = folder.glob("*train*")
  content = path.read_bytes()
  assert content.count(pixels) == 1
  path.write_bytes(content.replace(pixels, bytes(30)))
  damaged = sources.open_split("tiny", "train", str(tmp_path))
  wrong = []
  for i in range(40):
    try:
      assert images.decode(damaged[i][0]).shape == (12, 14, 3)
    except images.UndecodableImage as error:
      assert str(error)
      wrong.append(i)
  assert wrong == [7]
  with pytest.raises(IndexError):
    whole[40]
  with pytest.raises(images.UndecodableImage, match="record is damaged"):
    sources.Examples([b"\xff\xff junk"], "image", "label")[0]
  with pytest.raises(images.UndecodableImage, match="record is damaged"):
    sources.Examples([b""], "image", "label")[0]


def labelled(labels):
  return [(jpeg(number), label) for number, label in enumerate(labels)]


def test_labels_outside_the_classes_are_refused_when_a_split_is_opened(
  tmp_path,
):
  names = ["ash", "elm", "oak"]
  splits = {
    "train": labelled([1, 2, 3, 1]),  # counted from one
    "validation": labelled([2, 0, 1]),
    "test": labelled([-1, -1]),
  }
  write_dataset(tmp_path, "trees", splits, names)
  with pytest.raises(
    UserError, match=r"train\[2\] has the label 3, but .* 0 to 2"
  ):
    sources.open_split("trees", "train", str(tmp_path))
  with pytest.raises(UserError, match=r"test\[0\] has no label \(-1\)"):
    sources.open_split("trees", "test", str(tmp_path))
  validation = sources.open_split("trees", "validation", str(tmp_path))
  assert [validation[i][1] for i in range(3)] == [2, 0, 1]


def test_a_wrong_label_that_opening_missed_is_refused_when_it_is_read():
  records = [(b"", 0)] * 9 + [(b"", -1), (b"", 3)]
  source = sources.Source(records, ("a", "b", "c"), "x", "trees train")
  assert source[8] == (b"", 0)
  for index in (9, 10):
    with pytest.raises(UserError, match=rf"trees train\[{index}\]"):
      source[index]


@pytest.mark.parametrize(
  ("name", "damage", "message"),
  [
    ("dataset_info.json", lambda text: text[:-40], "is not valid JSON"),
    ("features.json", lambda text: text[:40], "is not valid JSON"),
    ("features.json", None, "features.json: No such file"),
    ("features.json", lambda text: "{}", "metadata"),
  ],
)
def test_damaged_metadata_are_explained(tmp_path, name, damage, message):
  folder = write_dataset(tmp_path, "trees", {"train": labelled([0])}, ["ash"])
  if damage:
    text = (folder / name).read_text()
    (folder / name).write_text(damage(text))
  else:
    (folder / name).unlink()
  with pytest.raises(UserError, match=message):
    sources.open_split("trees", "train", str(tmp_path))
