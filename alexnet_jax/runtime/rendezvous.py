"""Rendezvous: the processes of a run wait for each other before they start.

JAX waits too, but a process that never comes makes it abort all others after
five minutes without a word about which one it was. Here each process reports to
process 0 at the address where JAX's own service will listen afterwards, and
all learn at the same time that all are there, or which are missing.

Both sides send one line of JSON: {"process_id": 1, "num_processes": 2}, and the
answer {"error": ""}.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import time

from alexnet_jax.runtime.command import UserError

# After so long without all processes, a line says who is awaited.
_SILENT_SECONDS = 10
_RESTART = "then start all processes again."


def wait_for_all(
  address: str, num_processes: int, process_id: int, timeout: float
) -> None:
  """Returns when every process of the run has called this.

  Args:
    address: HOST:PORT of process 0.
    num_processes: number of processes, at least 2.
    process_id: index of this process, from 0.
    timeout: seconds that each process waits for the others.

  Raises:
    UserError: some do not come, or end while they wait; two have the same
      index, or they disagree about their number; the address cannot be used.
      The message names the processes.
  """
  place = _parse(address)
  if process_id == 0:
    bound = _parse(os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or address)
    _Host(address, bound[1], num_processes, timeout).wait()
  else:
    _report(address, place, num_processes, process_id, timeout)


def _parse(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise UserError(
      f"the coordinator's address {address!r} does not have the form HOST:PORT"
      " with a port from 1 to 65535."
    )
  return host.removeprefix("[").removesuffix("]"), int(port)


class _Host:
  """Process 0, to which all others report."""

  def __init__(
    self, address: str, port: int, num_processes: int, timeout: float
  ):
    self._address, self._port = address, port
    self._num_processes = num_processes
    self._timeout, self._start = timeout, time.monotonic()
    self._present: dict[int, socket.socket] = {}
    self._reported: list[socket.socket] = []

  def wait(self) -> None:
    with (
      contextlib.ExitStack() as self._open,
      selectors.DefaultSelector() as self._selector,
    ):
      self._server = self._open.enter_context(self._listen())
      self._selector.register(self._server, selectors.EVENT_READ)
      error = self._collect()
      for connection in self._reported:
        _send(connection, {"error": error})
        # The other side closes first, so that the port is free for JAX.
        with contextlib.suppress(OSError):
          connection.settimeout(1)
          connection.recv(1)
    if error:
      raise UserError(error)

  def _listen(self) -> socket.socket:
    """The listening socket; waits for one of an earlier run to be closed."""
    dual = socket.has_dualstack_ipv6()
    while True:
      try:
        return socket.create_server(
          ("", self._port),
          family=socket.AF_INET6 if dual else socket.AF_INET,
          backlog=self._num_processes,
          dualstack_ipv6=dual,
        )
      except OSError as error:
        if self._elapsed() > min(self._timeout, 20):
          raise UserError(
            f"process 0 cannot listen on port {self._port}: {error.strerror}."
            " Choose another port, with --coordinator or, on a cluster, with"
            " the environment variable JAX_COORDINATOR_PORT."
          ) from None
        time.sleep(0.5)

  def _collect(self) -> str:
    """Waits until all are present; returns what is wrong, "" if nothing."""
    announced = False
    while missing := self._missing():
      names = f"{_named(missing)} of {self._num_processes}"
      if self._elapsed() > self._timeout:
        return (
          f"{names} did not reach process 0 at {self._address} within"
          f" {self._timeout:g} seconds (--join_timeout). Look at the output of"
          f" {_named(missing)} for the cause, {_RESTART}"
        )
      if not announced and self._elapsed() > _SILENT_SECONDS:
        announced = True
        _say(f"waiting for {names} at {self._address}")
      for key, _ in self._selector.select(timeout=0.5):
        if error := self._receive(key.fileobj):
          return error
    return ""

  def _receive(self, connection: socket.socket) -> str:
    if connection is self._server:
      accepted, _ = self._server.accept()
      accepted.settimeout(1)  # a line comes in one piece
      self._open.enter_context(accepted)
      self._selector.register(accepted, selectors.EVENT_READ)
      return ""
    for index, present in self._present.items():
      if present is connection:  # it has nothing to say any more
        return (
          f"process {index} of {self._num_processes} ended while the run waited"
          f" for {_named(self._missing())}. Look at its output for the cause,"
          f" {_RESTART}"
        )
    index, count = _read(connection, "process_id", "num_processes")
    # A stranger, such as a scan of ports.
    if not (isinstance(index, int) and isinstance(count, int)):
      self._selector.unregister(connection)
      return ""
    self._reported.append(connection)
    if count != self._num_processes:
      return (
        f"process {index} was started as one of {count} processes, process 0 as"
        f" one of {self._num_processes}. Give all the same --num_processes."
      )
    if index in self._present or not 0 < index < count:
      return (
        f"two processes were started as process {index} of {count}. Give each"
        f" its own --process_id from 0 to {count - 1}."
      )
    self._present[index] = connection
    return ""

  def _missing(self) -> list[int]:
    everyone = range(1, self._num_processes)
    return [index for index in everyone if index not in self._present]

  def _elapsed(self) -> float:
    return time.monotonic() - self._start


def _report(
  address: str,
  place: tuple[str, int],
  num_processes: int,
  process_id: int,
  timeout: float,
) -> None:
  """Reports to process 0 and waits for its answer."""
  start, announced = time.monotonic(), False
  while True:
    try:
      connection = socket.create_connection(place, timeout=5)
      break
    except OSError as error:
      elapsed = time.monotonic() - start
      if elapsed > timeout:
        raise UserError(
          f"process 0 did not answer at {address} within {timeout:g} seconds"
          f" (--join_timeout; {error.strerror or error}). Look at the output of"
          f" process 0 for the cause, check the address, {_RESTART}"
        ) from None
      if not announced and elapsed > _SILENT_SECONDS:
        announced = True
        _say(f"process {process_id} is waiting for process 0 at {address}")
      time.sleep(0.2)
  with connection:
    _send(
      connection, {"process_id": process_id, "num_processes": num_processes}
    )
    # Process 0 may have started now, and then waits as long as this one did.
    connection.settimeout(timeout + 5)
    (error,) = _read(connection, "error")
  if error is None:
    raise UserError(
      f"process 0 at {address} ended before all {num_processes} processes were"
      f" there, or another program listens at that address. Look at the output"
      f" of process 0 for the cause, {_RESTART}"
    )
  if error:
    raise UserError(error)


def _send(connection: socket.socket, message: dict[str, object]) -> None:
  with contextlib.suppress(OSError):  # the other side is gone: it is noticed
    connection.sendall(json.dumps(message).encode() + b"\n")


def _read(connection: socket.socket, *keys: str) -> list:
  """The values of a line of JSON; None for each if there is no such line."""
  try:
    with connection.makefile("rb") as file:
      line = json.loads(file.readline(4096))
    return [line[key] for key in keys]
  except (OSError, ValueError, LookupError, TypeError):
    return [None] * len(keys)


def _named(indices: list[int]) -> str:
  """Such as "process 1" and "processes 1, 2"."""
  shown = ", ".join(map(str, indices[:8])) + (", ..." if indices[8:] else "")
  return f"process{'es' if indices[1:] else ''} {shown}"


def _say(message: str) -> None:
  print(message, file=sys.stderr, flush=True)
