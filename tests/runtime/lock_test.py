"""Two runs in one workdir, and what a killed run leaves behind."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.lock import WorkdirLock

ROOT = str(pathlib.Path(__file__).resolve().parents[2])

HOLDER = """
import subprocess, sys, time
from alexnet_jax.runtime.lock import WorkdirLock
lock = WorkdirLock(sys.argv[1])
child = subprocess.Popen(["sleep", "60"])  # outlives a killed parent
import os
if os.fork() == 0:
  time.sleep(60)
  os._exit(0)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
    cwd=ROOT,
    start_new_session=True,
  )
  process.stdout.readline()
  yield process
  os.killpg(process.pid, signal.SIGKILL)  # its children too
  process.wait()
  process.stdout.close()


def test_the_second_run_is_told_who_holds_it(holder, tmp_path):
  with pytest.raises(UserError) as error:
    WorkdirLock(str(tmp_path))
  assert f"process {holder.pid} on host {socket.gethostname()}" in str(
    error.value
  )


def test_a_killed_run_leaves_a_stale_lock_though_its_children_live(
  holder, tmp_path
):
  holder.kill()
  holder.wait()
  assert str(holder.pid) in (tmp_path / "lock").read_text()
  with WorkdirLock(str(tmp_path)):
    assert str(os.getpid()) in (tmp_path / "lock").read_text()
  assert (tmp_path / "lock").read_text() == ""


def test_it_can_be_taken_again(tmp_path):
  for _ in range(2):
    with WorkdirLock(str(tmp_path / "a" / "b")):
      pass


def test_a_workdir_that_cannot_be(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="cannot be written"):
    WorkdirLock(str(tmp_path / "file"))
