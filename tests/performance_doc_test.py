"""docs/performance.md says what the committed results say."""

import json
import pathlib

import pytest

from benchmarks import compare, kernels

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["kernels", "compare", "step", "end_to_end"])
def test_the_page_says_what_was_measured(name):
  written = json.loads((ROOT / f"experiments/results/{name}.json").read_text())
  text = (ROOT / "docs/performance.md").read_text()
  assert written["commit"] in text and written["command"] in text
  match name:
    case "kernels":
      assert kernels.table(written) in text
    case "compare":
      assert compare.table(written) in text
    case "step":
      for share in written["result"]["share_of_peak"].values():
        assert f"{share:.0%}" in text
    case "end_to_end":
      assert f"{written['result']['share_of_step']:.1%} of the step" in text
