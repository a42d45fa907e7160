"""A few fault-injection tests; `python -m tests.faults --long` runs all.

The suite runs in a process of its own, because this one has threads, patched
settings and warnings that are errors. Its output is shown if it fails.
"""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_faults(tmp_path):
  path = tmp_path / "faults.json"
  command = [sys.executable, "-m", "tests.faults", f"--json={path}"]
  status = subprocess.run(command, cwd=ROOT, timeout=900).returncode
  rows = json.loads(path.read_text())["result"]["faults"]
  results = {row["result"] for row in rows}
  assert status == 0 and results == {"equal", "as expected"}, rows
  tried = {row["kind"] for row in rows}
  assert tried >= {"kills", "signals", "processes", "full_disk", "images"}


@pytest.mark.slow
def test_generated_command_lines():
  command = [sys.executable, "-m", "tests.faults.command_lines", "--count=200"]
  assert subprocess.run(command, cwd=ROOT, timeout=1200).returncode == 0
