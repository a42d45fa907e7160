"""Predictions for many files: order, errors, and the files written."""

import json
import tracemalloc

import numpy as np
import pytest

from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.training import prediction
from alexnet_jax.training.prediction import Prediction


class Net:
  """Stands for a network: a file's number is what there is to know of it."""

  classes = ("n01440764", "oak", "elm")
  words = ("tench", "oak", "elm")
  batches: list[int]

  def __init__(self):
    self.batches = []

  def square(self, path):
    number = int(path)
    if number % 7 == 3:
      raise UndecodableImage(f"{number} is bad")
    return np.full((2, 2, 3), number % 256, np.uint8)

  def predict(self, squares, views):
    assert views == 10
    self.batches.append(len(squares))
    first = np.array([square[0, 0, 0] for square in squares]) / 256
    return np.stack([first, 1 - first, 0 * first], 1).astype(np.float32)

  def activations(self, squares, layer):
    assert layer == "fc7"
    return np.stack(squares).astype(np.float32)


def test_every_file_has_its_own_prediction_in_order():
  net, paths = Net(), [str(number) for number in range(100)]
  found = list(prediction.predict_files(net, paths, views=10, layer="fc7"))
  assert [one.path for one in found] == paths
  for number, one in enumerate(found):
    if number % 7 == 3:
      assert one == Prediction(str(number), f"{number} is bad")
    else:
      assert not one.error
      assert one.probabilities[0] == number / 256
      assert (one.activations == number).all()
  assert sum(net.batches) == 100 - 14
  only_bad = list(prediction.predict_files(net, ["3", "10"], views=10))
  assert [one.error for one in only_bad] == ["3 is bad", "10 is bad"]
  without = next(iter(prediction.predict_files(net, ["5"], views=10)))
  assert without.activations is None
  features = prediction.predict_files(net, ["5"], views=0, layer="fc7")
  assert next(features).probabilities is None


def test_the_most_probable_classes():
  probabilities = np.array([0.25, 0.125, 0.625], np.float32)
  found = prediction.most_probable(Net(), Prediction("x", "", probabilities), 2)
  assert found == [
    {"name": "elm", "index": 2, "probability": 0.625},
    {"name": "n01440764", "words": "tench", "index": 0, "probability": 0.25},
  ]
  everything = Prediction("x", "", probabilities)
  assert len(prediction.most_probable(Net(), everything, 9)) == 3


@pytest.mark.parametrize("values", [[], [{"a": "\udcff\n"}], [1, [2], "x"]])
def test_a_json_list_is_written_piece_by_piece(tmp_path, values):
  path = tmp_path / "new" / "x.json"
  with prediction.write_json_list(str(path)) as append:
    for value in values:
      append(value)
    assert not path.exists()
  assert json.loads(path.read_text()) == values


def test_activations_are_written_in_bounded_memory(tmp_path):
  path = tmp_path / "x.npz"
  rows = np.random.default_rng(0).normal(size=(50, 100, 1000))
  tracemalloc.start()
  with prediction.write_activations(str(path)) as append:
    before = tracemalloc.get_traced_memory()[0]
    for number, row in enumerate(rows):
      append(f"Ä{number}", row)
    peak = tracemalloc.get_traced_memory()[1] - before
  assert tracemalloc.get_traced_memory()[1] - before < 4e6
  tracemalloc.stop()
  assert peak < 2e6  # a row has 400 kB, all have 20 MB
  with np.load(path, allow_pickle=False) as stored:
    assert stored["names"].tolist() == [f"Ä{number}" for number in range(50)]
    np.testing.assert_array_equal(
      stored["activations"], rows.astype(np.float32)
    )
  assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def test_after_an_error_the_old_files_are_as_they_were(tmp_path):
  for write in (prediction.write_json_list, prediction.write_activations):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write(str(path)):
      raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
