"""Processes that wait for each other, here as threads, and who is missing."""

import concurrent.futures
import json
import socket
import threading
import time

import pytest

from alexnet_jax.runtime import rendezvous
from alexnet_jax.runtime.command import UserError


@pytest.fixture
def address():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def outcomes(address, calls, timeout=30):
  """What each (num_processes, process_id) gets: "" or the error's message."""

  def wait(count, index):
    try:
      rendezvous.wait_for_all(address, count, index, timeout)
    except UserError as error:
      return str(error)
    return ""

  with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
    return [f.result() for f in [pool.submit(wait, *call) for call in calls]]


def test_all_go_on_when_all_are_there(address):
  calls = [(4, index) for index in (3, 1, 0, 2)]
  for _ in range(2):  # the port is free again at once
    assert outcomes(address, calls) == ["", "", "", ""]


def test_every_process_learns_which_ones_are_missing(address):
  first, second = outcomes(address, [(4, 0), (4, 2)], timeout=1)
  assert first == second
  assert "processes 1, 3 of 4 did not reach process 0" in first
  assert "within 1 seconds (--join_timeout)" in first


def test_without_process_0_the_others_name_it(address):
  (message,) = outcomes(address, [(2, 1)], timeout=0.5)
  assert f"process 0 did not answer at {address} within 0.5 seconds" in message


def test_the_end_of_a_waiting_process_is_noticed_at_once(address):
  host, port = address.split(":")

  def report_and_end():
    for _ in range(100):
      try:
        with socket.create_connection((host, int(port))) as connection:
          hello = {"process_id": 2, "num_processes": 3}
          connection.sendall(json.dumps(hello).encode() + b"\n")
          time.sleep(0.2)
        return
      except OSError:
        time.sleep(0.05)

  thread = threading.Thread(target=report_and_end)
  thread.start()
  (message,) = outcomes(address, [(3, 0)])  # not after 30 seconds
  thread.join()
  assert message.startswith("process 2 of 3 ended while the run waited for")
  assert "process 1." in message


@pytest.mark.parametrize(
  ("calls", "expected"),
  [
    ([(3, 0), (2, 1)], "started as one of 2 processes, process 0 as one of 3"),
    ([(3, 0), (3, 1), (3, 1)], "two processes were started as process 1 of 3"),
  ],
)
def test_processes_that_contradict_each_other(address, calls, expected):
  assert all(expected in message for message in outcomes(address, calls))


def test_strangers_are_ignored_or_named(address):
  host, port = address.split(":")
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    waiting = pool.submit(outcomes, address, [(2, 0)])
    for line in (b"", b"GET / HTTP/1.1\r\n", b"[]\n", b'{"process_id": []}\n'):
      for _ in range(100):
        try:
          with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(line)
          break
        except OSError:
          time.sleep(0.05)
    assert outcomes(address, [(2, 1)]) == [""]
    assert waiting.result() == [""]
  with socket.create_server((host, int(port))) as other:

    def close():
      other.accept()[0].close()

    thread = threading.Thread(target=close)
    thread.start()
    (message,) = outcomes(address, [(2, 1)])
    thread.join()
  assert "another program listens at that address" in message


@pytest.mark.parametrize("wrong", ["", "host", "host:", ":1", "h:x", "h:70000"])
def test_a_wrong_address_is_a_sentence(wrong, monkeypatch):
  with pytest.raises(UserError, match="the form HOST:PORT"):
    rendezvous.wait_for_all(wrong, 2, 1, 1)
  monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", wrong or "x")
  with pytest.raises(UserError, match="the form HOST:PORT"):
    rendezvous.wait_for_all("localhost:1", 2, 0, 1)
