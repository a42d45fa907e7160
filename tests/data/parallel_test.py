"""Work on many images at once: cores, order, memory, interrupts, progress."""

import os
import signal
import subprocess
import sys

import pytest
from sample_data import ROOT

from alexnet_jax.data import parallel

VERSION_2 = {
  "proc/self/cgroup": "0::/pods/one/box\n",
  "sys/fs/cgroup/pods/cpu.max": "max 100000\n",
  "sys/fs/cgroup/pods/one/cpu.max": "150000 100000\n",
  "sys/fs/cgroup/pods/one/box/cpu.max": "300000 100000\n",
}
VERSION_1 = {
  "proc/self/cgroup": "9:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n",
  "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
  "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
  "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us": "250000\n",
  "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us": "50000\n",
}
# A container sees its own group as the highest, but may know its path outside.
CONTAINER = {
  "proc/self/cgroup": "0::/\n4:cpu,cpuacct:/docker/a\n",
  "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
  "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}
UNLIMITED = {
  "proc/self/cgroup": "0::/\n",
  "sys/fs/cgroup/cpu.max": "max 100000\n",
}


@pytest.mark.parametrize(
  ("contents", "quota"),
  [
    (VERSION_2, 1.5),  # the smallest of the groups that contain it
    (VERSION_1, 5),
    (CONTAINER, 2),
    (UNLIMITED, float("inf")),
    ({}, float("inf")),  # no Linux
  ],
)
def test_the_quota_is_that_of_the_control_groups(tmp_path, contents, quota):
  for name, content in contents.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
  assert parallel._cpu_quota(str(tmp_path)) == quota


@pytest.mark.parametrize(
  ("affinity", "quota", "cores"),
  [(8, 1.5, 2), (8, float("inf"), 8), (2, 5.0, 2), (4, 0.2, 1)],
)
def test_cores_are_bounded_by_affinity_and_quota(
  monkeypatch, affinity, quota, cores
):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(affinity))
  monkeypatch.setattr(parallel, "_cpu_quota", lambda: quota)
  assert parallel.num_cores() == cores


def test_results_come_in_order_and_few_wait(capfd):
  started, most = [], 0

  def function(task):
    started.append(task)
    return -task

  results = parallel.map_images(
    function, range(500), "", size=lambda t: 1, ahead=5, threads=3
  )
  for number, result in enumerate(results):
    assert result == -number
    most = max(most, len(started) - number)
  assert sorted(started) == list(range(500))
  # This one, those that wait and those that the threads compute.
  assert most <= 1 + 5 + 3


def test_an_error_is_raised_and_nothing_more_begins():
  started = []

  def function(task):
    started.append(task)
    if task == 3:
      raise ValueError("three")

  with pytest.raises(ValueError, match="three"):
    list(
      parallel.map_images(
        function, range(500), "", size=lambda t: 1, ahead=5, threads=3
      )
    )
  assert len(started) < 20


def test_ctrl_c_does_not_wait_for_what_has_begun():
  """Each task takes a minute; the command ends long before."""
  script = (
    "import signal, time\n"
    # A shell lets its background jobs ignore it, and so all that they start.
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from alexnet_jax.data import parallel\n"
    "from alexnet_jax.runtime import command\n"
    # One string, or the lines of two threads may become one.
    "def work(task): print('begun\\n', end='', flush=True); time.sleep(60)\n"
    "def main(): list(parallel.map_images(work, [[1]] * 9, 'Working'))\n"
    "command.run(main)"
  )
  with subprocess.Popen(
    [sys.executable, "-c", script],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    try:
      _, error = process.communicate(timeout=30)
    finally:
      process.kill()
  assert process.returncode == 130
  assert error == "interrupted\n"
