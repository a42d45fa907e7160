"""conv1's kernels through a training, in a small file of the workdir.

`kernels.npz` has them at the start and at the ends of evenly spaced epochs, at
most 32 times: at the paper's size two megabytes for a run of any length.
A run that began before there was such a file has them from its next epoch on.
"""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.training import optional_files

FILE_NAME = "kernels.npz"
MAX_SNAPSHOTS = 32


class Snapshots(NamedTuple):
  """conv1's kernels at T times of a run, in their order."""

  step: np.ndarray  # i64[T]
  epoch: np.ndarray  # whole epochs, i64[T]
  kernels: np.ndarray  # by tower, f16[T,towers,48,11,11,3]


class KernelHistory:
  """The file of a run in training."""

  def __init__(self, workdir: str, step: int):
    """Reads what the run kept up to `step`, that of the restored checkpoint."""
    self._path = pathlib.Path(workdir, FILE_NAME)
    self._kept: dict[int, tuple[int, np.ndarray]] = {}
    if found := read(workdir):
      for number, epoch, kernels in zip(*found, strict=True):
        if number <= step:
          self._kept[int(epoch)] = int(number), kernels

  def add(self, step: int, epoch: int, kernels: jax.Array) -> None:
    """Keeps the kernels at the end of an epoch, if they are among the spaced.

    What is kept depends on `epoch` alone, so a resumed run has the same file.

    Args:
      step: steps done.
      epoch: whole epochs done; 0: the start of the training.
      kernels: f32[towers,11,11,3,48] on the devices; a collective call.
    """
    spacing = 1
    while epoch // spacing >= MAX_SNAPSHOTS:
      spacing *= 2
    if epoch % spacing:
      return
    # In all processes, before what only the one with the run's file knows.
    values = multihost_utils.process_allgather(kernels, tiled=True)
    if epoch in self._kept:
      return
    with np.errstate(over="ignore"):  # of a diverging run
      by_tower = np.moveaxis(values, -1, 1).astype(np.float16)
    self._kept[epoch] = step, by_tower
    self._kept = {
      epoch: self._kept[epoch]
      for epoch in sorted(self._kept)
      if epoch % spacing == 0
    }
    steps, snapshots = zip(*self._kept.values(), strict=True)
    optional_files.write(
      self._path,
      step=steps,
      epoch=list(self._kept),
      kernels=np.stack(snapshots),
    )


def read(workdir: str) -> Snapshots | None:
  """The kernels that a run kept; None if there are none that can be read."""
  path = pathlib.Path(workdir, FILE_NAME)
  found = optional_files.read(path, Snapshots._fields)
  return found and Snapshots(**found)
