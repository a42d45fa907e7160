"""Output that cannot be written stops no command, in no thread."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = str(pathlib.Path(__file__).resolve().parents[2])

COMMAND = """
import contextlib, os, sys, threading
from rich.console import Console
from alexnet_jax.runtime import command

def say():
  for n in range(3000):
    print("a line of standard output", n)
    print("a line of standard error", n, file=sys.stderr)
  Console().print("a line of rich")

def main(path):
  file = os.open(path + ".first", os.O_CREAT | os.O_WRONLY)
  print("ready", flush=True)
  print("ready", file=sys.stderr, flush=True)
  if sys.stdin:
    sys.stdin.readline()
  thread = threading.Thread(target=say)
  thread.start()
  say()
  thread.join()
  with contextlib.suppress(OSError):
    os.write(1, b"a line of a C++ library")
  with open(path, "w") as done:
    print(file, os.fstat(file).st_size, file=done)

command.run(main, operands=True, prints_progress=PROGRESS)
"""


def start(path, progress=True, **streams):
  script = COMMAND.replace("PROGRESS", str(progress))
  return subprocess.Popen(
    [sys.executable, "-c", script, str(path)],
    **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} | streams,
    cwd=ROOT,
  )


@pytest.mark.parametrize(
  "closed", [["stdout"], ["stderr"], ["stdout", "stderr"]]
)
def test_a_reader_that_is_gone_stops_nothing(tmp_path, closed):
  path = tmp_path / "done"
  process = start(path, stderr=subprocess.PIPE)
  for name in closed:
    assert getattr(process, name).readline() == b"ready\n"
    getattr(process, name).close()
    setattr(process, name, None)  # for communicate
  output, errors = process.communicate(b"\n", timeout=60)
  assert process.returncode == 0 and path.exists()
  assert output is None or output.count(b"of rich") == 2
  assert b"Traceback" not in (errors or b"")


def test_files_never_get_the_descriptors_of_closed_streams(tmp_path):
  path = tmp_path / "done"
  script = COMMAND.replace("PROGRESS", "True")
  run = 'exec "$@" <&- >&- 2>&-'
  command = ["bash", "-c", run, "bash", sys.executable, "-c", script, str(path)]
  assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 0
  descriptor, size = map(int, path.read_text().split())
  assert descriptor > 2 and size == 0


@pytest.mark.parametrize("progress", [True, False])
def test_results_that_a_full_disk_lost_are_an_error(tmp_path, progress):
  with open("/dev/full", "w") as full:
    process = start(
      tmp_path / "done", progress, stdout=full, stderr=subprocess.PIPE
    )
    _, errors = process.communicate(b"\n", timeout=60)
  assert process.returncode == (0 if progress else 2)
  assert (
    b"error: part of the output could not be written" in errors
  ) != progress
  assert b"Traceback" not in errors and (tmp_path / "done").exists()


def test_a_pipe_that_does_not_block_loses_nothing(tmp_path):
  read, write = os.pipe()
  os.set_blocking(write, False)
  process = start(tmp_path / "done", stdout=write, stderr=subprocess.DEVNULL)
  os.close(write)
  process.stdin.write(b"\n")
  process.stdin.close()
  with open(read, "rb") as file:
    assert file.read().count(b"a line of standard output") == 6000
  assert process.wait(60) == 0
