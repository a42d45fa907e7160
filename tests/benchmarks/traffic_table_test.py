"""The comparison of two audits' traffic, on figures that tell what they are."""

import json

import pytest

from alexnet_jax.runtime.command import UserError
from benchmarks import traffic


def _traffic(*rows):
  keys = ("pass", "layer", "kernels", "bytes")
  return {
    "bytes": sum(row[-1] for row in rows),
    "kernels": sum(row[-2] for row in rows),
    "layers": [dict(zip(keys, row, strict=True)) for row in rows],
  }


def test_a_place_that_one_program_lacks_counts_as_nothing():
  before = _traffic(
    ("forward", "conv1", 3, 2_500_000_000), ("backward", "fc6", 1, 10_000_000)
  )
  after = _traffic(("forward", "conv1", 2, 1_250_000_000))
  lines = traffic.table({"before": before, "after": after}).splitlines()
  assert lines[2:] == [
    "| forward | conv1 | 2.50 | 1.25 | 3 | 2 |",
    "| backward | fc6 | 0.01 | 0.00 | 1 | 0 |",
    "| all |  | 2.51 | 1.25 | 4 | 2 |",
  ]


@pytest.mark.parametrize(
  "text, message",
  [
    (json.dumps({"traffic": None}), "has no traffic"),
    ("[]", "is not a JSON file of the audit"),
    ("{", "is not a JSON file of the audit"),
  ],
)
def test_a_file_without_traffic_is_rejected(tmp_path, text, message):
  file = tmp_path / "audit.json"
  file.write_text(text)
  with pytest.raises(UserError, match=message):
    traffic.read(str(file))
