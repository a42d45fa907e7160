"""docs/reliability.md says what the committed results say."""

import json
import pathlib

from tests.faults.__main__ import table

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_table_of_faults_is_the_measured_one():
  result = json.loads((ROOT / "experiments/results/faults.json").read_text())
  text = (ROOT / "docs/reliability.md").read_text()
  assert table(result["result"]["faults"]) in text
