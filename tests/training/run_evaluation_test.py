"""Evaluation on the run's dataset and on others; errors by class.

The networks have random weights. Expected numbers come from NumPy, over the
probabilities that `alexnet_jax.load` gives for the same pictures.
"""

import csv
import functools
import io
import json
import shutil

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_runs
from PIL import Image
from sample_data import ROOT, Tiny

import alexnet_jax
from alexnet_jax.data import sources
from alexnet_jax.model import sharding
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import class_errors, step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.class_errors import ClassErrors, Confusion
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.known_classes import KnownClasses
from alexnet_jax.training.predictions import Recorder
from alexnet_jax.training.run_data import RunData
from alexnet_jax.training.run_evaluation import evaluate_runs


class Others(Tiny, skip_registration=True):
  """The same pictures under other class names: one unknown, one missing."""

  def _info(self):
    info = super()._info()
    features = tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["oak", "yew", "ash"]),
      }
    )
    return tfds.core.DatasetInfo(
      builder=self,
      features=features,
      supervised_keys=info.supervised_keys,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with two datasets and the runs `a` and `b`, of random weights."""
  with tiny_runs.place(tmp_path_factory.mktemp("runs")) as folder:
    data_dir = str(folder)
    others = Others(data_dir=data_dir, file_format="array_record")
    others.download_and_prepare()
    for seed, name in enumerate("ab"):
      _write_run(folder / name, data_dir, seed)
    yield folder


def _write_run(workdir, data_dir, seed):
  config = configs.load(str(ROOT / "configs/paper.py"))
  config.dataset, config.data_dir, config.num_classes = "tiny", data_dir, 3
  config.image_size, config.network.crop_size = 72, 64
  config.network.width, config.batch_size = 0.02, 8
  values = configs.to_json(config)
  train = sources.open_split("tiny", "train", data_dir)
  RunData.compute(values, train).save(workdir)
  (workdir / "config.json").write_text(json.dumps(values))
  recipe, mesh = Recipe.from_config(values), sharding.make_mesh(1, 1)
  state = step.init_state(recipe.network, recipe.optimizer, seed, mesh)
  metadata = {"data": {"train": train.fingerprint}}
  checkpoints = Checkpoints(str(workdir / "checkpoints"))
  # The evaluation at step 1 had been interrupted: its error came later.
  line = {"step": 1, "split": "validation", "top1_error": 0.25}
  (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  for number, error in ((1, None), (2, 0.5)):
    # Larger weights than the initial ones: the probabilities differ.
    state.net.towers.fc8.kernel[...] *= 30
    state = state._replace(step=state.step + np.int32(1))
    checkpoints.save(number, step.to_dict(state), metadata, error)
  checkpoints.wait()
  checkpoints.close()


@functools.cache
def expected_probabilities(workdir, checkpoint="newest"):
  """Of the ten validation pictures, by the library: f64[10,3]."""
  net = alexnet_jax.load(str(workdir), checkpoint)
  pictures = [Image.fromarray(x) for x in Tiny.pictures[40:]]
  return net.predict(pictures).astype(np.float64)


LABELS = np.arange(40, 50) % 3  # of the validation pictures


def check(found, probabilities, labels):
  """Compares an evaluation with NumPy's errors of f64[N,classes]."""
  own = probabilities[np.arange(len(labels)), labels]
  assert found["num_examples"] == len(labels)
  assert found["loss"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
  wrong = probabilities.argmax(axis=1) != labels
  assert found["top1_error"] == pytest.approx(wrong.mean(), abs=1e-6)
  assert found["top5_error"] == 0


def evaluate(place, *names, **options):
  workdirs = [str(place / name) for name in names]
  options = {"views": 1, "split": "validation"} | options
  return evaluate_runs(workdirs, **options)


@pytest.mark.parametrize("checkpoint, step", [("best", 1), ("2", 2)])
def test_a_checkpoint_is_chosen(place, checkpoint, step):
  found = evaluate(place, "a", checkpoint=checkpoint).result
  assert (found["checkpoint"], found["step"]) == (checkpoint, step)
  expected = expected_probabilities(place / "a", checkpoint)
  check(found, expected, LABELS)


def test_classes_of_another_dataset_are_matched_by_name(place):
  """Labels 0, 1, 2 are oak, yew and ash; the network has ash, elm, oak."""
  with pytest.raises(UserError, match=r"not know 1 of the 3 classes .*: yew\."):
    evaluate(place, "a", dataset="others")
  found = evaluate(place, "a", dataset="others", skip_unknown_classes=True)
  probabilities = expected_probabilities(place / "a")[:, [2, 0]]
  probabilities /= probabilities.sum(axis=1, keepdims=True)
  known = LABELS != 1
  labels = np.array([0, -1, 1])[LABELS[known]]
  check(found.result, probabilities[known], labels)
  assert found.result["num_left_out"] == (~known).sum() == 4
  assert found.result["num_classes"] == 2
  assert found.unknown == ("yew",)
  assert found.classes.names == ("oak", "ash")


def test_an_ensemble_averages_restricted_probabilities(place):
  options = {"dataset": "others", "skip_unknown_classes": True}
  found = evaluate(place, "a", "b", **options).result
  assert found["step"] == [2, 2]
  mean = 0
  for name in "ab":
    probabilities = expected_probabilities(place / name)[:, [2, 0]]
    mean += probabilities / probabilities.sum(axis=1, keepdims=True) / 2
  known = LABELS != 1
  check(found, mean[known], np.array([0, -1, 1])[LABELS[known]])


def test_other_images_of_the_same_name_are_refused(place, tmp_path):
  shutil.copytree(place / "tiny", tmp_path / "tiny")
  info = next(tmp_path.glob("tiny/*/dataset_info.json"))
  values = json.loads(info.read_text())
  info.write_text(json.dumps(values | {"description": "made again"}))
  with pytest.raises(UserError, match=r"not of the dataset .* --dataset=tiny"):
    evaluate(place, "a", data_dir=str(tmp_path))
  options = {"data_dir": str(tmp_path), "dataset": "tiny"}
  found = evaluate(place, "a", **options).result
  check(found, expected_probabilities(place / "a"), LABELS)


def test_images_that_were_rescaled_otherwise_are_named(place, tmp_path, capsys):
  """The run was trained with the rescaling of the paper."""
  shutil.copytree(place / "tiny", tmp_path / "tiny")
  (folder,) = (tmp_path / "tiny").glob("*")
  options = {"data_dir": str(tmp_path), "dataset": "tiny"}
  for rescale in ("crop", "warp"):
    manifest = {"plan": {"rescale": rescale}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    evaluate(place, "a", **options)
    told = "were prepared with --rescale=warp" in capsys.readouterr().err
    assert told == (rescale == "warp")


def test_errors_by_class(place, monkeypatch):
  monkeypatch.setattr(
    class_errors,
    "in_words",
    lambda names, dataset: [dataset + n for n in names],
  )
  found = evaluate(place, "a")
  predicted = expected_probabilities(place / "a").argmax(axis=1)
  rows = list(csv.DictReader(io.StringIO(found.classes.to_csv())))
  assert [row["name"] for row in rows] == ["ash", "elm", "oak"]
  assert [row["words"] for row in rows] == ["tinyash", "tinyelm", "tinyoak"]
  for label, row in enumerate(rows):
    own = predicted[label == LABELS]
    assert int(row["class"]) == label
    assert int(row["num_examples"]) == len(own)
    error = (own != label).mean()
    assert float(row["top1_error"]) == pytest.approx(error, abs=1e-5)
    wrong = np.bincount(own[own != label], minlength=3)
    assert int(row["times"]) == wrong.max()
    if wrong.max():
      assert row["most_confused_with"] == rows[wrong.argmax()]["name"]


def test_confusion_of_invented_predictions():
  mesh = sharding.make_mesh(2, 1)
  recorder = Recorder(mesh)
  # Labels and most probable classes; the last example only fills up.
  labels, predicted = [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 0, 1, 0, 0]
  scores = np.full((8, 4), -9.0, np.float32)
  scores[np.arange(8), predicted] = -0.1
  scores[6] = -1.5  # a tie of all four
  weight = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)
  batch = {"label": np.array(labels, np.int32), "weight": weight}
  batch["index"] = np.arange(8, dtype=np.int32)[::-1].copy()
  batch = jax.device_put(batch, sharding.batch_sharding(mesh))
  recorder.add(jax.device_put(scores, sharding.batch_sharding(mesh)), batch)
  found = recorder.predictions()
  assert found.index.tolist() == [1, 2, 3, 4, 5, 6, 7]  # 0 only fills up
  assert found.label.tolist() == [2, 2, 1, 1, 0, 0, 0]
  np.testing.assert_allclose(
    found.probability, np.exp([-1.5, *6 * [-0.1]]), rtol=1e-6
  )
  names = ("a", "b", "n01440764", "d")
  errors = ClassErrors(names, found)
  expected = [[1, 2, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(errors.confusion, expected)
  np.testing.assert_allclose(errors.top1_error, [2, 1, 1.75, 0])
  assert errors.most_confused(2) == [Confusion(0, 1, 2), Confusion(1, 0, 1)]
  assert len(errors.most_confused(99)) == 4
  assert errors.to_csv().splitlines() == [
    "class,name,words,num_examples,top1_error,top5_error"
    ",most_confused_with,most_confused_words,times",
    "0,a,a,3,0.666667,0,b,b,2",
    "1,b,b,2,0.5,0,a,a,1",
    "2,n01440764,tench,2,0.875,0,a,a,1",
    "3,d,d,0,,,,,0",
  ]
  drawn = ClassErrors("0123", found, "patterns/4").to_csv().splitlines()
  words = [
    f'"{bars} bars, warm above cool"' for bars in ("vertical", "horizontal")
  ]
  assert drawn[2] == f"1,1,{words[0]},2,0.5,0,0,{words[1]},1"


def test_names_that_are_ambiguous_or_all_unknown_are_refused(place):
  source = sources.open_split("tiny", "validation", str(place))
  source.class_names = ("ash", "elm", "ash")  # of a network trained on it
  assert KnownClasses(source, [source.class_names]).names == source.class_names
  with pytest.raises(UserError, match="for several classes: ash"):
    KnownClasses(source, [("ash", "elm", "oak")])
  source.class_names = ("ash", "elm", "oak")
  with pytest.raises(UserError, match="for several classes: ash"):
    KnownClasses(source, [("ash", "elm", "oak", "ash")])
  with pytest.raises(UserError, match=r"know 1 of the 3 .*: oak\."):
    KnownClasses(source, [("ash", "elm", "oak"), ("elm", "ash")])
  with pytest.raises(UserError, match=r"3 of the 3 .* 2 classes are x, y\.$"):
    KnownClasses(source, [("x", "y")], skip_unknown=True)
