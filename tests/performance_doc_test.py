"""docs/performance.md says what the committed results say."""

import json
import pathlib

from benchmarks import kernels

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_the_table_of_layers_is_the_measured_one():
  result = json.loads((ROOT / "experiments/results/kernels.json").read_text())
  text = (ROOT / "docs/performance.md").read_text()
  assert kernels.table(result) in text
  assert result["commit"] in text and result["command"] in text
