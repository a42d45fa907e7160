"""Optional files of a run: arrays that it can do without."""

import io
import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_jax.runtime.files import write_atomic

# What NumPy raises for a file that is missing or damaged, or has other arrays.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError)
_UNREADABLE += (zipfile.BadZipFile, zlib.error, NotImplementedError)


def write(path: str | os.PathLike, **arrays: Any) -> None:
  """Replaces an NPZ file in one step; warns if it cannot be written."""
  content = io.BytesIO()
  np.savez_compressed(content, **arrays)
  try:
    write_atomic(path, content.getvalue())
  except OSError as error:
    print(
      f"warning: cannot write {path} ({error.strerror}). Training continues"
      " without it.",
      file=sys.stderr,
    )


def read(
  path: str | os.PathLike, names: Sequence[str]
) -> dict[str, np.ndarray] | None:
  """The named arrays of an NPZ file; None if it is missing or damaged."""
  try:
    with np.load(path, allow_pickle=False) as stored:
      return {name: stored[name] for name in names}
  except _UNREADABLE:
    return None
