"""A few fault-injection tests; `python -m tests.faults --long` runs all.

The suite runs in a process of its own, because this one has threads, patched
settings and warnings that are errors. Its output is shown if it fails.
"""

import json
import pathlib
import re
import subprocess
import sys

import pytest
from faults.command_values import KEYS

from alexnet_jax.runtime.values import RULES

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The kinds of faults of which the short suite has some.
KINDS = {
  *("kills", "signals", "pipes", "processes", "full_disk", "unreadable"),
  *("network_files", "config_lost", "configurations", "images", "environment"),
}


@pytest.mark.slow
def test_faults(tmp_path):
  path = tmp_path / "faults.json"
  command = [sys.executable, "-m", "tests.faults", f"--json={path}"]
  status = subprocess.run(command, cwd=ROOT, timeout=3600).returncode
  rows = json.loads(path.read_text())["result"]["faults"]
  results = {row["result"] for row in rows}
  assert status == 0 and results == {"equal", "as expected"}, rows
  assert {row["kind"] for row in rows} == KINDS


def test_the_generated_command_lines_have_every_key():
  keys = {key for key in RULES if not re.match(r"network\.(conv|fc)\d\.", key)}
  layer = {key for key in RULES if key.startswith("network.conv4.")}
  assert set(KEYS) == keys | layer


@pytest.mark.slow
def test_generated_command_lines():
  command = [sys.executable, "-m", "tests.faults.command_lines", "--count=200"]
  assert subprocess.run(command, cwd=ROOT, timeout=3600).returncode == 0
