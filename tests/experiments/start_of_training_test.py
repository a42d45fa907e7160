"""docs/fidelity.md quotes the committed figures of the start of training."""

import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


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
