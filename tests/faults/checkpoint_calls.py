"""Fails each call for a file while a checkpoint is written and read.

  LD_PRELOAD=LIBRARY python -m tests.faults.checkpoint_calls FOLDER COUNT EVERY

Prints a line of JSON for each error: where it was, how many calls were made to
fail, and what went wrong. COUNT is the most calls of a kind that fail, each in
an attempt of its own; 0: every one. EVERY is 1 for all pairs of call and error,
7 for every seventh.
"""

import contextlib
import errno
import io
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np

from alexnet_jax.runtime import libraries
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.checkpoint import Checkpoints

from .failing_files import READING, WRITING, fail, num_calls

FOREVER = 1 << 30


def _values(seed: int) -> dict[str, np.ndarray]:
  random = np.random.default_rng(seed)
  return {name: random.random((20, 30), np.float32) for name in "abc"}


def _abstract() -> dict[str, jax.ShapeDtypeStruct]:
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)
    for name, x in _values(0).items()
  }


def _save(checkpoints: Checkpoints, step: int) -> None:
  arrays = jax.tree.map(jax.numpy.array, _values(step))
  checkpoints.save(step, arrays, {"of": step})


def _restored(folder: pathlib.Path, read_only: bool = True) -> int:
  """The step that is restored, after its bits are compared."""
  checkpoints = Checkpoints(str(folder), read_only=read_only)
  try:
    arrays, metadata = checkpoints.restore(_abstract())
  finally:
    checkpoints.close()
  for name, x in _values(metadata["of"]).items():
    np.testing.assert_array_equal(np.asarray(arrays[name]), x)
  return metadata["of"]


def _names(folder: pathlib.Path) -> list[str]:
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def write(folder: pathlib.Path, call: str, error: int, first: int) -> int:
  """A save fails at a call; the one before it and the next one are whole."""
  shutil.rmtree(folder, ignore_errors=True)
  checkpoints = Checkpoints(str(folder))
  _save(checkpoints, 1)
  checkpoints.wait()
  printed = io.StringIO()
  with contextlib.redirect_stderr(printed):
    fail(str(folder), call, error, first)
    _save(checkpoints, 2)
    with contextlib.suppress(UserError):
      checkpoints.wait()
    calls = num_calls()
    fail("")
  failed = "could not be written" in printed.getvalue()
  assert failed == (checkpoints.latest_step() == 1), printed.getvalue()
  assert _restored(folder) == checkpoints.latest_step()
  _save(checkpoints, 3)
  checkpoints.wait()
  checkpoints.close()
  assert _restored(folder, read_only=False) == 3
  kept = {name for name in _names(folder) if "/" not in name}
  assert "3" in kept and kept & {"1", "2"}, kept
  assert not any("tmp" in name for name in kept), kept
  return calls


def read(
  folder: pathlib.Path, call: str, error: int, first: int, count: int
) -> int:
  """The newest one is restored whole, or it is refused and nothing changes."""
  before = _names(folder)
  fail(str(folder), call, error, first, count)
  try:
    assert _restored(folder, read_only=False) == 2
  except (UserError, OSError):  # either is a sentence and status 2
    pass
  finally:
    calls = num_calls()
    fail("")
  assert _names(folder) == before, sorted(set(before) ^ set(_names(folder)))
  assert _restored(folder) == 2
  return calls


def _attempts(run: Callable[[int], int], most: int) -> Iterator[str]:
  """Fails call 1, 2, ...; yields "" or what went wrong, for each."""
  first, step = 1, 1
  while True:
    try:
      calls = run(first)
    except Exception as problem:
      calls = num_calls()
      fail("")
      yield f"call {first}: {type(problem).__name__}: {problem}"
    else:
      if calls < first:
        return
      yield ""
    if most and first == 1:
      step = max(calls // most, 1)
    first += step


def main(folder: pathlib.Path, most: int, every: int) -> None:
  libraries.configure()
  saved = folder / "read"
  checkpoints = Checkpoints(str(saved))
  for step in (1, 2):
    _save(checkpoints, step)
  checkpoints.wait()
  checkpoints.close()
  cases = [
    (
      "writing a checkpoint",
      call,
      error,
      lambda n, c=call, e=error: write(folder / "write", c, e, n),
    )
    for call, error in WRITING
  ] + [
    (
      f"reading a checkpoint, {when}",
      call,
      error,
      lambda n, c=call, e=error, k=count: read(saved, c, e, n, k),
    )
    for when, count in (("once", 1), ("from then on", FOREVER))
    for call, error in READING
  ]
  for where, call, error, run in cases[::every]:
    found = list(_attempts(run, most))
    row = {
      "fault": f"{call}: {errno.errorcode[error]}",
      "at": where,
      "tried": len(found),
      "wrong": [text for text in found if text],
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
