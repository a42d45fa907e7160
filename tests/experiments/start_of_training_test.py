"""What the experiment counts, and the figures of docs/fidelity.md from it."""

import json
import math
import pathlib

import numpy as np
import pytest

from configs import paper
from experiments import start_of_training

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_images_are_counted_when_a_hundred_steps_are_below_chance():
  chance = math.log(10)
  # 150 steps at chance, then .1 below: half of a window of 100 must be so.
  losses = [chance] * 150 + [chance - 0.1] * 100
  count = start_of_training.images_until_learning(losses, 64, 10)
  assert count in (200 * 64, 201 * 64)  # exactly at, or the first past, .05
  assert start_of_training.images_until_learning([chance] * 300, 64, 10) is None
  assert start_of_training.images_until_learning([0.0] * 99, 64, 10) is None


def test_a_narrow_unit_receives_as_varied_an_input_as_a_wide_one():
  """Variance of a sum: inputs times the square of the deviation."""
  wide = paper.get_config().network
  narrow = start_of_training.narrowed(paper.get_config(), 1 / 16).network
  assert narrow.conv1.std == wide.conv1.std  # three channels either way
  for name in ("conv2", "conv5", "fc6"):
    np.testing.assert_allclose(
      narrow[name].std ** 2 / 16, wide[name].std ** 2, rtol=1e-12
    )


@pytest.mark.parametrize("width", ["1", "0.0625"])
def test_the_ledger_quotes_the_committed_figures(width):
  file = ROOT / f"experiments/results/start_of_training_{width}.json"
  result = json.loads(file.read_text())["result"]
  text = (ROOT / "docs" / "fidelity.md").read_text()
  for runs in result["recipes"].values():
    for run in runs:
      spread = run["spread_of_scores_at_step"]["0"]
      assert f"{spread:.4f}" in text
      if run["images_until_learning"]:
        assert f"{run['images_until_learning']:,}" in text
