"""The file with conv1's kernels through a training."""

import numpy as np
import pytest

from alexnet_jax.training import kernel_history
from alexnet_jax.training.kernel_history import KernelHistory


def kernels(epoch):
  """Two towers of three kernels, whose values tell epoch, tower and kernel."""
  towers, count = np.meshgrid([0, 1], [0, 1, 2], indexing="ij")
  values = epoch + towers / 4 + count / 16
  return np.broadcast_to(values[:, None, None, None], (2, 5, 5, 3, 3))


def epochs_kept(folder, last, step=0, first=0):
  """The epochs in the file after a training from `first` to `last`."""
  history = KernelHistory(str(folder), step)
  for epoch in range(first, last + 1):
    history.add(10 * epoch, epoch, kernels(epoch))
  return kernel_history.read(str(folder)).epoch.tolist()


@pytest.mark.parametrize(
  "last, spacing", [(31, 1), (32, 2), (90, 4), (300, 16)]
)
def test_long_runs_are_kept_at_wider_spaces(tmp_path, last, spacing):
  kept = epochs_kept(tmp_path, last)
  assert kept == list(range(0, last + 1, spacing)) and len(kept) <= 32
  found = kernel_history.read(str(tmp_path))
  assert found.step.tolist() == [10 * epoch for epoch in kept]
  assert found.kernels.shape == (len(kept), 2, 3, 5, 5, 3)
  exact = kept[-1] + np.array([[0, 1, 2], [4, 5, 6]]) / 16
  values = found.kernels[-1, :, :, 0, 0, 0]
  np.testing.assert_array_equal(values, exact.astype(np.float16))


@pytest.mark.parametrize("stop", [0, 3, 31, 33, 39])
def test_a_resumed_run_has_the_same_file(tmp_path, stop):
  """The run is killed at epoch 40; its checkpoint is that of epoch `stop`."""
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  epochs_kept(whole, 50)
  epochs_kept(parts, 40)
  epochs_kept(parts, 50, step=10 * stop, first=stop + 1)
  name = kernel_history.FILE_NAME
  assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_file_that_is_damaged_or_missing_does_not_end_a_training(tmp_path):
  assert kernel_history.read(str(tmp_path)) is None
  epochs_kept(tmp_path, 3)
  path = tmp_path / kernel_history.FILE_NAME
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(content)
  assert kernel_history.read(str(tmp_path)) is None
  assert epochs_kept(tmp_path, 5, step=30, first=4) == [4, 5]


def test_a_full_disk_does_not_end_a_training(tmp_path, capsys):
  (tmp_path / "no_folder").write_text("")
  history = KernelHistory(str(tmp_path / "no_folder"), 0)
  history.add(0, 0, kernels(0))
  assert "Training continues without it" in capsys.readouterr().err
