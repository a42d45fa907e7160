"""Signals in every phase, and what a stalled run says."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from alexnet_jax.runtime.watch import Stopped, Watch

ROOT = str(pathlib.Path(__file__).resolve().parents[2])


class Run:
  """A process under watch; `reach` waits for a line that it prints."""

  def __init__(self, body):
    script = STUCK + "import sys, time, threading\n"
    script += "from alexnet_jax.runtime.watch import *\n"
    script += "def say(x): print(x, flush=True)\n" + textwrap.dedent(body)
    self.process = subprocess.Popen(
      [sys.executable, "-c", script],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=ROOT,
    )

  def reach(self, line):
    for said in self.process.stdout:
      if said.strip() == line:
        return
    raise AssertionError(self.process.stderr.read())

  def end(self, number):
    """Sends a signal; returns (seconds, status, output, errors)."""
    start = time.monotonic()
    self.process.send_signal(number)
    out, err = self.process.communicate(timeout=30)
    return time.monotonic() - start, self.process.returncode, out, err


# In C, without the interpreter and deaf to signals: as a compilation is.
STUCK = """import ctypes
lock_twice = ctypes.CDLL(None).pthread_mutex_lock
mutex = ctypes.create_string_buffer(64)
def stuck(): lock_twice(mutex); lock_twice(mutex)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_it_leaves_at_once(number):
  run = Run(
    """
    with Watch(0) as watch:
      watch.phase("compiling")
      say("ready")
      stuck()
    """
  )
  run.reach("ready")
  seconds, status, out, err = run.end(number)
  assert (status, err) == (0, "")
  assert seconds < 5
  assert "stopped while compiling" in out and "nothing is to be saved" in out
  assert "run the same command again" in out and "ctypes" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("waiting", [True, False])
def test_after_it_stopped_comes_with_the_next_batch(number, waiting):
  run = Run(
    f"""
    def batches():
      yield 1
      if {waiting}:
        say("ready")
        threading.Event().wait(60)  # the input does not come
      for n in range(2, 100):
        yield n
    with Watch(0) as watch:
      done = 0
      try:
        for batch in watch.guard(batches(), "waiting for images"):
          if not {waiting} and batch == 2:
            say("ready")
            time.sleep(1)  # a step is never broken off
          done = batch
          watch.stepped()
      except Stopped:
        say(f"saved {{done}}")
    """
  )
  run.reach("ready")
  seconds, status, out, err = run.end(number)
  assert (status, err) == (0, "")
  assert seconds < 5
  assert ("saved 1" if waiting else "saved 2") in out
  phase = "waiting for images" if waiting else "training"
  assert f"stopping (it was {phase})" in out


def test_a_second_signal_leaves_at_once():
  run = Run(
    """
    with Watch(0) as watch:
      watch.stepped()
      say("ready")
      stuck()
    """
  )
  run.reach("ready")
  run.process.send_signal(signal.SIGTERM)
  assert "stopping" in run.process.stdout.readline()
  seconds, status, out, _ = run.end(signal.SIGTERM)
  assert status == 128 + signal.SIGTERM
  assert seconds < 5
  assert "second signal" in out


def test_a_stall_says_what_it_waits_for_and_shows_every_thread():
  run = Run(
    """
    def reader_thread_function():
      time.sleep(60)
    with Watch(2 / 60) as watch:
      threading.Thread(target=reader_thread_function, daemon=True).start()
      for _ in range(12):
        watch.stepped()
        time.sleep(0.2)  # signs of life: no stall
      say("ready")
      watch.phase("waiting for images")
      time.sleep(4.5)
    say("went on")
    """
  )
  out, err = run.process.communicate(timeout=30)
  assert run.process.returncode == 0
  assert out == "ready\nwent on\n"
  assert "the run is still waiting for images" in err
  assert "still training" not in err
  assert "reader_thread_function" in err  # another thread's stack


def test_handlers_and_descriptors_are_put_back():
  before = signal.getsignal(signal.SIGTERM), os.listdir("/proc/self/fd")
  with Watch(1) as watch:
    assert list(watch.guard([1, 2], "waiting")) == [1, 2]
    assert signal.getsignal(signal.SIGTERM) != before[0]
  after = signal.getsignal(signal.SIGTERM), os.listdir("/proc/self/fd")
  assert after == before


def test_stopped_is_no_exception_that_a_library_could_take_for_its_own():
  assert not issubclass(Stopped, Exception)
