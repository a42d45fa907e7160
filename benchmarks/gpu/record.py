"""The record of a session: a JSON file that is whole after every figure."""

import contextlib
import json
import pathlib
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from alexnet_jax.runtime import files

FILE = "record.json"
SECONDS = 1.2  # for which something is timed


class Record:
  """The figures of one stage; `record["name"] = value` writes the file."""

  def __init__(self, folder: str, stage: str, tiny: bool = False):
    self.folder = pathlib.Path(folder)
    self._stage = stage
    self.seconds = 0.1 if tiny else SECONDS

  def __setitem__(self, name: str, value: Any) -> None:
    found = read(self.folder)
    found["result"].setdefault(self._stage, {})[name] = value
    self._write(found)
    text = json.dumps(value, default=str)
    print(f"[{self._stage}] {name}: {text[:300]}", flush=True)

  def describe(self, origin: dict[str, Any]) -> None:
    """Adds what `provenance.record` says of the machine and the command."""
    self._write(origin | {"result": read(self.folder)["result"]})

  def _write(self, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, default=str) + "\n"
    files.write_atomic(self.folder / FILE, text)

  @contextlib.contextmanager
  def trying(self, name: str) -> Iterator[None]:
    """Records an error, and the stage goes on with its next figure."""
    try:
      yield
    except Exception as error:
      traceback.print_exc()
      text = " ".join(f"{type(error).__name__}: {error}".split())
      self[name] = {"failed": text[:500]}

  def time(
    self, call: Callable[[], Any], wait: Callable[[Any], Any], calls: int = 1
  ) -> dict[str, float]:
    """Milliseconds of a call, after two that warm up.

    Args:
      call: sends work to the device.
      wait: waits for what `call` returns.
      calls: that are sent before the last one is waited for.
    """
    for _ in range(2):
      wait(call())
    times, end = [], time.perf_counter() + self.seconds
    while len(times) < 3 or time.perf_counter() < end:
      start = time.perf_counter()
      for _ in range(calls - 1):
        call()
      wait(call())
      times.append(1e3 * (time.perf_counter() - start) / calls)
    return {
      "min": min(times),
      "median": statistics.median(times),
      "max": max(times),
    }


def read(folder: str | pathlib.Path) -> dict[str, Any]:
  """The record of a session so far."""
  path = pathlib.Path(folder, FILE)
  return json.loads(path.read_text()) if path.exists() else {"result": {}}
