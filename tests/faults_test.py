"""The bounded form of the fault suite; `python -m tests.faults --long` is all.

One command apart from this process, which has threads, patched settings and
warnings that are errors; what it prints is shown when it fails.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_faults(tmp_path):
  path = tmp_path / "faults.json"
  command = [sys.executable, "-m", "tests.faults", f"--json={path}"]
  status = subprocess.run(command, cwd=ROOT, timeout=900).returncode
  rows = json.loads(path.read_text())["result"]["faults"]
  results = {row["result"] for row in rows}
  assert status == 0 and results == {"equal", "as expected"}, rows
  tried = {row["kind"] for row in rows}
  assert tried == {"kills", "signals", "full_disk", "configurations", "images"}
