"""Signals in every phase, and the warning of a stalled run."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from alexnet_jax.runtime.watch import (
  INSISTENT,
  SAME_SIGNAL_SECONDS,
  WARNINGS,
  Stopped,
  Watch,
)

ROOT = str(pathlib.Path(__file__).resolve().parents[2])


class Run:
  """A process with a Watch; `reach` waits for a line that it prints."""

  def __init__(self, body, command=True):
    script = STUCK + "import signal, sys, time, threading\n"
    # Tests started by nohup ignore it, and so would their processes.
    script += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    script += "from alexnet_jax.runtime.watch import *\n"
    script += f"Watch.owns_process = {command}\n"
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


@pytest.mark.parametrize("number", [*INSISTENT, *WARNINGS])
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


@pytest.mark.parametrize(
  ("number", "waiting"),
  [
    *((number, True) for number in (*INSISTENT, *WARNINGS)),
    (signal.SIGTERM, False),
    (signal.SIGUSR1, False),
  ],
)
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
  time.sleep(2 * SAME_SIGNAL_SECONDS)
  seconds, status, out, _ = run.end(signal.SIGTERM)
  assert status == 128 + signal.SIGTERM
  assert seconds < 5
  assert "second signal" in out


SAVING = """
with Watch(0) as watch:
  try:
    for batch in watch.guard(range(100), "waiting for images"):
      watch.step_finished()
      if batch == 1:
        say("ready")
        time.sleep(0.5)
  except Stopped:
    say("saving")
    stuck() if STUCK_FOREVER else time.sleep(1)
    say("saved")
"""


@pytest.mark.parametrize(
  "numbers",
  [
    (signal.SIGTERM, signal.SIGTERM),  # `timeout` sends it twice
    (signal.SIGHUP, signal.SIGHUP),  # of the shell and of the terminal
    (signal.SIGUSR2, signal.SIGTERM),  # a warning, and then the time limit
  ],
)
def test_signals_that_are_no_second_one_lose_no_save(numbers):
  run = Run(SAVING.replace("STUCK_FOREVER", "False"))
  run.reach("ready")
  for number in numbers[:-1]:
    run.process.send_signal(number)
    if numbers != (signal.SIGTERM, signal.SIGTERM):
      run.reach("saving")
  _, status, out, err = run.end(numbers[-1])
  assert (status, err) == (0, "")
  assert out.endswith("saved\n")


def test_what_nohup_ignores_stays_ignored():
  body = f"signal.signal({int(signal.SIGHUP)}, signal.SIG_IGN)\n" + SAVING
  run = Run("import signal\n" + body.replace("STUCK_FOREVER", "False"))
  run.reach("ready")
  _, status, out, err = run.end(signal.SIGHUP)
  assert (status, out, err) == (0, "", "")


def test_a_second_signal_ends_a_run_whose_output_nobody_reads():
  """The reader of the pipe has stopped, so every print hangs."""
  run = Run(
    """
    import os
    with Watch(0) as watch:
      watch.step_finished()
      say("ready")
      print("x" * 1_000_000, flush=True)
    """
  )
  run.reach("ready")
  time.sleep(0.5)
  run.process.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  run.process.send_signal(signal.SIGTERM)
  assert run.process.wait(30) == 128 + signal.SIGTERM
  run.process.communicate()


def test_a_signal_before_the_first_batch_says_why_the_run_ended():
  """Not as an error in the thread that waits for the batch."""
  run = Run(
    """
    class Attempt:
      def stall(self, message): pass
      def end(self, state, message): say(f"{state}: {message}")
    def batches():
      say("ready")
      threading.Event().wait(60)
      yield 1
    with Watch(0) as watch:
      watch.attempt = Attempt()
      try:
        list(watch.guard(batches(), "waiting for images"))
      except BaseException as error:
        say(f"an error: {type(error)}")
    """
  )
  run.reach("ready")
  _, status, out, err = run.end(signal.SIGHUP)
  assert (status, err) == (0, "")
  told = "stopped: stopped by SIGHUP: stopped while waiting for images"
  assert out.startswith(told) and "\nan error" not in out


NOTEBOOK = """
handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
def batches():
  for n in range(1000):
    yield n
def train(steps):
  with Watch(0) as watch:
    for batch in watch.guard(batches(), "waiting for images"):
      if batch == steps:
        say("ready")
        for _ in range(500):
          time.sleep(0.01)
      if batch >= steps + 2:
        raise AssertionError("no signal came")
      watch.step_finished()
for steps in (0, 1, 1):
  try:
    train(steps)
  except BaseException as error:
    say(f"{type(error).__name__} {steps}")
  assert handlers == (
    signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  )
  assert signal.set_wakeup_fd(-1) == -1
def in_a_thread():
  with Watch(0) as watch:
    say(list(watch.guard([5], "waiting")))
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
say("next cell")
"""


def test_in_a_notebook_signals_never_end_the_process():
  """Before a step; after one, saved; and twice: control always returns."""
  run = Run("import signal\n" + NOTEBOOK, command=False)
  run.reach("ready")
  run.process.send_signal(signal.SIGINT)
  run.reach("KeyboardInterrupt 0")
  run.reach("ready")
  run.process.send_signal(signal.SIGINT)
  run.reach("Stopped 1")
  run.reach("ready")
  run.process.send_signal(signal.SIGINT)
  time.sleep(0.5)
  run.process.send_signal(signal.SIGINT)
  run.reach("KeyboardInterrupt 1")
  run.reach("[5]")
  run.reach("next cell")
  _, err = run.process.communicate(timeout=30)
  assert (run.process.returncode, err) == (0, "")


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


def test_work_that_advances_is_no_stall():
  """Such as the statistics of raw ImageNet: longer than the limit."""
  run = Run(
    """
    from alexnet_jax.data import parallel
    with Watch(1.5 / 60) as watch:
      watch.phase("computing the statistics of the training images")
      for _ in parallel.map_images(
        lambda n: time.sleep(0.5), range(8), "images", size=lambda n: 1,
        threads=1,
      ):
        pass
      say("finished")
      stuck = parallel.map_images(
        lambda n: time.sleep(4), range(1), "images", size=lambda n: 1
      )
      list(stuck)
    """
  )
  out, err = run.process.communicate(timeout=60)
  _, _, after = err.partition("warning: no progress")
  assert run.process.returncode == 0 and "finished" in out
  assert err.count("warning: no progress") <= 2  # of the work that hangs
  assert "minutes while computing the statistics" in after


def test_handlers_and_descriptors_are_restored():
  before = signal.getsignal(signal.SIGINT), os.listdir("/proc/self/fd")
  with Watch(1) as watch:
    assert list(watch.guard([1, 2], "waiting")) == [1, 2]
    assert signal.getsignal(signal.SIGINT) != before[0]
  after = signal.getsignal(signal.SIGINT), os.listdir("/proc/self/fd")
  assert after == before


def test_stopped_is_not_an_exception_that_a_library_would_catch():
  assert not issubclass(Stopped, Exception)
