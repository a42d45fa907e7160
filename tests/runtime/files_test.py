"""Atomic writes and the workdir lock."""

import errno
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_or_told(
  tmp_path, monkeypatch, number
):
  def no_locks(*arguments):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(files.fcntl, "lockf", no_locks)
  with pytest.raises(UserError, match="does not support file locks"):
    WorkdirLock(str(tmp_path))
  with WorkdirLock(str(tmp_path), required=False) as lock:
    assert not lock.held
    assert files.is_locked(tmp_path) is None


def test_a_second_run_of_one_process_is_refused_and_takes_no_lock_away(
  tmp_path,
):
  """Locks of one process do not exclude each other, and end with any close."""
  with WorkdirLock(str(tmp_path)):
    with pytest.raises(UserError, match="another run of this process"):
      WorkdirLock(str(tmp_path))
    assert files.is_locked(tmp_path)
    probe = "import sys; from alexnet_jax.runtime.files import *; "
    probe += "print(is_locked(sys.argv[1]))"
    command = [sys.executable, "-c", probe, str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "True\n", found
  assert files.is_locked(tmp_path) is False
  assert files.is_locked(tmp_path / "none") is False


def test_a_lock_that_is_held_may_be_reported_as_a_lack_of_permission(
  tmp_path, monkeypatch
):
  def denied(*arguments):
    raise PermissionError(errno.EACCES, "Permission denied")

  monkeypatch.setattr(files.fcntl, "lockf", denied)
  with pytest.raises(UserError, match="another run is using"):
    WorkdirLock(str(tmp_path))


def test_a_device_is_written_to_and_not_replaced(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
  files.write_atomic(tmp_path / "pipe", "text")
  assert os.read(reader, 100) == b"text"
  os.close(reader)
  assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
