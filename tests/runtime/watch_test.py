"""Signals in every phase, and the warning of a stalled run."""

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
  """A process with a Watch; `reach` waits for a line that it prints."""

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
    for printed in self.process.stdout:
      if printed.strip() == line:
        return
    raise AssertionError(self.process.stderr.read())

  def end(self, number):
    """Sends a signal; returns (seconds, status, output, errors)."""
    start = time.monotonic()
    self.process.send_signal(number)
    out, err = self.process.communicate(timeout=30)
    return time.monotonic() - start, self.process.returncode, out, err


# Blocks in C, where Python handles no signals, as a compilation does.
STUCK = """import ctypes
lock_twice = ctypes.CDLL(None).pthread_mutex_lock
mutex = ctypes.create_string_buffer(64)
def stuck(): lock_twice(mutex); lock_twice(mutex)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_a_signal_exits_at_once(number):
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
  assert "stopped while compiling" in out and "there is nothing to save" in out
  assert "run the same command again" in out and "ctypes" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("waiting", [True, False])
def test_after_the_first_step_stopped_is_raised_at_the_next_batch(
  number, waiting
):
  run = Run(
    f"""
    def batches():
      yield 1
      if {waiting}:
        say("ready")
        threading.Event().wait(60)  # the input hangs
      for n in range(2, 100):
        yield n
    with Watch(0) as watch:
      done = 0
      try:
        for batch in watch.guard(batches(), "waiting for images"):
          if not {waiting} and batch == 2:
            say("ready")
            time.sleep(1)  # a step is never interrupted
          done = batch
          watch.step_finished()
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
  assert f"stopping (was {phase})" in out


def test_a_second_signal_exits_at_once():
  run = Run(
    """
    with Watch(0) as watch:
      watch.step_finished()
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


def test_a_stall_is_reported_with_its_phase_and_all_threads():
  run = Run(
    """
    def reader_thread_function():
      time.sleep(60)
    with Watch(2 / 60) as watch:
      threading.Thread(target=reader_thread_function, daemon=True).start()
      for _ in range(12):
        watch.step_finished()
        time.sleep(0.2)  # progress: no stall
      say("ready")
      watch.phase("waiting for images")
      time.sleep(4.5)
    say("finished")
    """
  )
  out, err = run.process.communicate(timeout=30)
  assert run.process.returncode == 0
  assert out == "ready\nfinished\n"
  assert "minutes while waiting for images" in err
  assert "while training" not in err
  assert "reader_thread_function" in err  # another thread's stack


def test_handlers_and_descriptors_are_restored():
  before = signal.getsignal(signal.SIGTERM), os.listdir("/proc/self/fd")
  with Watch(1) as watch:
    assert list(watch.guard([1, 2], "waiting")) == [1, 2]
    assert signal.getsignal(signal.SIGTERM) != before[0]
  after = signal.getsignal(signal.SIGTERM), os.listdir("/proc/self/fd")
  assert after == before


def test_stopped_is_not_an_exception_that_a_library_would_catch():
  assert not issubclass(Stopped, Exception)
