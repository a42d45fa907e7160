"""What a workdir says about the attempts to train its run."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from alexnet_jax.runtime import files, status
from alexnet_jax.runtime.command import UserError

ROOT = str(pathlib.Path(__file__).resolve().parents[2])


def test_each_end_is_written_and_told(tmp_path):
  with status.StatusWriter(tmp_path, step=3) as attempt:
    assert attempt.last == ""
    found = status.read(tmp_path)
    assert (found.state, found.step, found.pid) == ("running", 3, os.getpid())
    assert found.host == socket.gethostname()
    attempt.step = 812
  assert status.read(tmp_path).state == "finished"
  assert status.last_attempt(tmp_path) == ""

  for error, told in (
    (UserError("disk full"), "disk full"),
    (ZeroDivisionError("a\n b"), "ZeroDivisionError: a b"),
    (KeyboardInterrupt(), "interrupted"),
  ):
    with (
      pytest.raises(type(error)),
      status.StatusWriter(tmp_path, step=812),
    ):
      raise error
    expected = f"the last attempt ended at step 812: {told}"
    assert status.last_attempt(tmp_path) == expected
    assert status.StatusWriter(tmp_path).last == expected

  with status.StatusWriter(tmp_path, step=5) as attempt:
    attempt.end("stopped", "stopped by SIGTERM")
  assert status.last_attempt(tmp_path).endswith("5: stopped by SIGTERM")


RUN = """
import sys, time
from alexnet_jax.runtime import files, status
status.HEARTBEAT_SECONDS = 0.05
with files.WorkdirLock(sys.argv[1]), status.StatusWriter(sys.argv[1]) as run:
  run.step = 7
  if sys.argv[2]:
    run.stall(sys.argv[2])
  time.sleep(0.3)
  print(flush=True)
  time.sleep(60)
"""


@pytest.mark.parametrize("stall", ["", "no progress for 10.0 minutes"])
def test_a_killed_run_is_told_whatever_its_status_says(tmp_path, stall):
  """The lock decides, not the process number: this one's is alive."""
  command = [sys.executable, "-c", RUN, str(tmp_path), stall]
  process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
  process.stdout.readline()
  assert status.read(tmp_path).state == ("stalled" if stall else "running")
  assert files.is_locked(tmp_path)
  told = status.last_attempt(tmp_path)
  assert told.startswith("running at step 7")
  assert f"process {process.pid} on host" in told and stall in told

  process.send_signal(signal.SIGKILL)
  process.communicate()
  body = json.loads((tmp_path / "status.json").read_text())
  for values in ({}, {"pid": os.getpid()}, {"time": "2999-01-01 00:00:00"}):
    (tmp_path / "status.json").write_text(json.dumps(body | values))
    told = status.last_attempt(tmp_path)
    assert told.startswith("the last attempt ended at step 7 or later")
    assert "was killed" in told and stall in told


@pytest.mark.parametrize(
  "content",
  [
    *(b"", b"{", b"[]", b"\xff\0", b"null"),
    b'{"state": "asleep", "step": 1, "message": "", "host": "", "pid": 1,'
    b' "time": ""}',
    b'{"state": "failed", "step": "1", "message": "", "host": "", "pid": 1,'
    b' "time": ""}',
  ],
)
def test_an_unreadable_status_is_none(tmp_path, content):
  (tmp_path / "status.json").write_bytes(content)
  assert status.read(tmp_path) is None
  assert status.last_attempt(tmp_path) == ""


def test_a_full_disk_has_room_for_why_the_run_failed(tmp_path, monkeypatch):
  with pytest.raises(UserError), status.StatusWriter(tmp_path, 4) as attempt:
    attempt.stall("a longer text than that of the end " * 10)

    def no_new_file(*arguments):
      raise OSError(28, "No space left on device")

    monkeypatch.setattr(status.files, "write_atomic", no_new_file)
    raise UserError("disk full")
  assert status.last_attempt(tmp_path).endswith("ended at step 4: disk full")


def test_a_status_that_cannot_be_written_stops_nothing(tmp_path):
  with status.StatusWriter(tmp_path / "file" / "x") as attempt:
    (tmp_path / "file").touch()
    attempt.end("finished", "")


def test_a_late_heartbeat_does_not_change_the_end(tmp_path, monkeypatch):
  monkeypatch.setattr(status, "HEARTBEAT_SECONDS", 0.001)
  for _ in range(20):
    with status.StatusWriter(tmp_path) as attempt:
      time.sleep(0.003)
      attempt.end("stopped", "now")
    time.sleep(0.003)
    assert status.read(tmp_path).state == "stopped"
  assert threading.active_count() < 10


SECOND = """
import sys
from alexnet_jax.runtime import status
from alexnet_jax.runtime.command import UserError
status.HEARTBEAT_SECONDS = 0.1
try:
  with status.StatusWriter(sys.argv[1], is_locked=False):
    print("begun", flush=True)
    sys.stdin.readline()
except UserError as error:
  print(error)
"""


def test_without_locks_a_second_run_is_refused_and_a_dead_one_is_not(tmp_path):
  """As on a file server without locks, or with equal process numbers."""
  command = [sys.executable, "-c", SECOND, str(tmp_path)]
  first, second = (
    subprocess.Popen(
      command,
      cwd=ROOT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  )
  # They start at the same moment; one of them goes on.
  lines = {first: first.stdout.readline(), second: second.stdout.readline()}
  went_on = [process for process in lines if "begun" in lines[process]]
  while not went_on:
    for process in lines:
      lines[process] = process.stdout.readline()
      went_on += [process] if "begun" in lines[process] else []
  (other,) = lines.keys() - set(went_on)
  told = lines[other] + other.communicate()[0]
  assert "another run is using" in told
  assert f"process {went_on[0].pid} on host" in told

  went_on[0].kill()
  went_on[0].communicate()
  third = subprocess.run(
    command, cwd=ROOT, input="\n", capture_output=True, text=True, timeout=60
  )
  assert "Waiting" in third.stdout and "begun" in third.stdout
  assert "does not support file locks" in third.stderr
  assert status.read(tmp_path).state == "finished"


def test_a_lock_that_does_not_reach_another_host_is_noticed(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(status, "HEARTBEAT_SECONDS", 0.05)
  with status.StatusWriter(tmp_path):
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with pytest.raises(UserError, match="another run is using"):
      status.StatusWriter(tmp_path)
