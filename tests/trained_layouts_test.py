"""Every layout, from its files to a network that was trained and evaluated.

A picture tells its class, so the labels are checked by content.
"""

import numpy as np
import pytest
import sample_layouts
import tiny_runs
from sample_data import make

from alexnet_jax.data import pipeline
from alexnet_jax.data.shards import Encoding

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def compiling_once(tmp_path_factory):
  with tiny_runs.compiling_once(tmp_path_factory.mktemp("compiled")):
    yield


@pytest.mark.parametrize("name", sample_layouts.ALL)
def test_a_layout_is_prepared_trained_on_and_evaluated(
  name, tmp_path, monkeypatch
):
  source, options = sample_layouts.ALL[name](tmp_path / "in")
  make(source, tmp_path, "made", options.holdout, encoding=Encoding(size=72))
  counted = {"train_batches": [], "evaluation_batches": []}

  def watch(function):
    batches = getattr(pipeline, function)

    def watched(*arguments, **options):
      for batch in batches(*arguments, **options):
        shown = batch["image"].mean((1, 2)).argmax(1)
        np.testing.assert_array_equal(shown, batch["label"])
        counted[function] += batch["label"][batch["weight"] > 0].tolist()
        yield batch

    monkeypatch.setattr(pipeline, function, watched)

  watch("train_batches")
  watch("evaluation_batches")
  num_classes = 1000 if name == "official_tars" else 3
  changes = {"dataset": "made", "num_classes": num_classes, "total_steps": 2}
  tiny_runs.train(tmp_path, "run", **{"mesh.model": 1}, **changes)
  lines = tiny_runs.lines(tmp_path, "run")
  assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
  (evaluated,) = [line for line in lines if line["split"] == "validation"]
  assert evaluated["num_examples"] == 6
  assert sorted(counted["evaluation_batches"][-6:]) == [0, 0, 1, 1, 2, 2]
  assert set(counted["train_batches"][:16]) == {0, 1, 2}
