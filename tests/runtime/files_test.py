"""Atomic writes and the workdir lock."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from alexnet_jax.runtime import files
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import WorkdirLock

ROOT = str(pathlib.Path(__file__).resolve().parents[2])


def test_write_atomic_writes_text_and_bytes_and_replaces(tmp_path):
  path = tmp_path / "a" / "b.json"
  files.write_atomic(path, "öne")
  assert path.read_text() == "öne"
  files.write_atomic(path, b"\0two")
  assert path.read_bytes() == b"\0two"
  assert os.listdir(path.parent) == ["b.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
  path = tmp_path / "b.json"
  files.write_atomic(path, "old")

  def fail(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(OSError, match="No space"):
    files.write_atomic(path, "new")
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["b.json"]


HOLDER = """
import subprocess, sys, time
from alexnet_jax.runtime.files import WorkdirLock
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


def test_a_second_run_is_refused_with_the_name_of_the_holder(holder, tmp_path):
  with pytest.raises(UserError) as error:
    WorkdirLock(str(tmp_path))
  assert f"process {holder.pid} on host {socket.gethostname()}" in str(
    error.value
  )


def test_a_killed_run_holds_no_lock_even_if_its_children_live(holder, tmp_path):
  holder.kill()
  holder.wait()
  assert str(holder.pid) in (tmp_path / "lock").read_text()
  with WorkdirLock(str(tmp_path)):
    assert str(os.getpid()) in (tmp_path / "lock").read_text()
  assert (tmp_path / "lock").read_text() == ""


def test_a_released_lock_can_be_taken_again(tmp_path):
  for _ in range(2):
    with WorkdirLock(str(tmp_path / "a" / "b")):
      pass


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="cannot be written"):
    WorkdirLock(str(tmp_path / "file"))
