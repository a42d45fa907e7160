"""Starts trainings quickly, as forks of a process that has done the imports.

The soak starts dozens of them, and most of a start is the import of libraries.
What follows is the real command: its flags, its signals, its end.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time


class ForkServer:
  """The process that forks; `start` is like `subprocess.Popen`."""

  def __init__(self, environment: dict[str, str], folder: str):
    self._socket, theirs = socket.socketpair()
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.faults.fork_server", str(theirs.fileno())],
      env=environment,
      cwd=folder,
      pass_fds=[theirs.fileno()],
    )
    theirs.close()
    self.ask({})  # until its imports are done

  def start(self, arguments: list[str], stdout: int, stderr: int) -> "Forked":
    """Starts `alexnet_jax.main`; it writes to the two descriptors."""
    return Forked(self, self.ask({"start": arguments}, stdout, stderr))

  def ask(self, question: dict, *descriptors: int) -> int | None:
    message = json.dumps(question).encode()
    socket.send_fds(self._socket, [message], list(descriptors))
    return json.loads(self._socket.recv(1000))

  def close(self) -> None:
    self._socket.close()
    self._process.wait()


class Forked:
  """A process of a ForkServer, with what `sandbox.Process` uses of Popen."""

  def __init__(self, server: ForkServer, pid: int):
    self._server, self.pid, self.returncode = server, pid, None

  def poll(self) -> int | None:
    if self.returncode is None:
      self.returncode = self._server.ask({"poll": self.pid})
    return self.returncode

  def wait(self, timeout: float = float("inf")) -> int:
    deadline = time.monotonic() + timeout
    while self.poll() is None:
      if time.monotonic() > deadline:
        raise subprocess.TimeoutExpired("a forked training", timeout)
      time.sleep(0.05)
    return self.returncode

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)


def serve(descriptor: int) -> None:
  """Answers questions until the other end is closed."""
  from alexnet_jax.training import loop  # noqa: F401

  connection = socket.socket(fileno=descriptor)
  while True:
    message, descriptors, _, _ = socket.recv_fds(connection, 65536, 2)
    if not message:
      return
    question, answer = json.loads(message), None
    if "start" in question:
      answer = os.fork()
      if answer == 0:
        connection.close()
        for number, opened in enumerate(descriptors, 1):
          os.dup2(opened, number)
          os.close(opened)
        sys.argv = ["alexnet_jax.main", *question["start"]]
        runpy.run_module("alexnet_jax.main", run_name="__main__")
        sys.exit()
      for opened in descriptors:
        os.close(opened)
    elif "poll" in question:
      pid, status = os.waitpid(question["poll"], os.WNOHANG)
      answer = os.waitstatus_to_exitcode(status) if pid else None
    connection.send(json.dumps(answer).encode())


if __name__ == "__main__":
  for ignored in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(ignored, signal.SIG_DFL)
  serve(int(sys.argv[1]))
