"""Starts are timed until the given moment, and no process is left behind."""

import os
import sys
import time

import pytest

from alexnet_jax.runtime import config
from alexnet_jax.runtime.command import UserError
from benchmarks import starting

WRITER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
end = time.process_time() + 0.2
while time.process_time() < end:
  pass
with open(sys.argv[1], "w") as file:
  file.write(f"{os.getpid()} {child.pid}")
time.sleep(60)
"""


def _lives(pid):
  """Whether a process runs; a killed child is a zombie until it is reaped."""
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except OSError:
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_a_process_is_timed_until_done_and_killed_with_its_children(
  tmp_path,
):
  file = tmp_path / "done"
  wall, cpu = starting.watch(
    [sys.executable, "-c", WRITER, str(file)],
    lambda: file.exists() and file.stat().st_size,
  )
  assert cpu >= 0.2 and 0.2 <= wall < 50
  pids = file.read_text().split()
  for _ in range(100):  # the kernel takes a moment
    if not any(map(_lives, pids)):
      break
    time.sleep(0.05)
  assert len(pids) == 2 and not any(map(_lives, pids))


def test_a_failing_process_is_an_error():
  with pytest.raises(UserError, match=r"failed: (?s:.*)no_such_module"):
    starting.importing("no_such_module")


def test_importing_is_timed():
  wall, cpu = starting.importing("json")
  assert 0 < cpu < 30 and wall > 0


@pytest.mark.parametrize("name", starting.NETWORKS)
def test_the_networks_use_known_configuration_keys(name):
  path = starting.NETWORKS[name][0].partition("=")[2]
  values = config.load(os.path.join(starting.ROOT, path))
  known = dict(config.flatten(values.to_dict()))
  for word in starting.NETWORKS[name][1:]:
    key = word.partition("=")[0].removeprefix("--config.")
    assert key in known
  assert {"total_steps", "diagnose_every_lines"} <= known.keys()


def test_the_table_shows_minimum_median_and_maximum():
  rows = [
    {"name": "import jax"}
    | starting.summary([(1.0, 0.5), (2.0, 0.75), (6.0, 4.0)])
  ]
  assert starting.table(rows).endswith("| import jax | 1.0, 2.0, 6.0 | 0.8 |")
