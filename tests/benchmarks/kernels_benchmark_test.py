"""The functions that benchmarks/kernels.py compares compute the same."""

import numpy as np
import pytest

from alexnet_jax.model.network import Layer, Network
from benchmarks import kernels

# The paper's layers with few maps of few places.
SMALL = Network(
  width=1 / 8,
  crop_size=63,
  conv1=Layer(48, size=11, stride=4, padding=(0, 3), then=("relu", "pool")),
)


def _by_tower(form, array):
  """f32[2,...] of both towers' maps or kernels, from any layout."""
  if form == "grouped":
    return np.stack(np.split(np.asarray(array), 2, axis=-1))
  return np.stack([np.asarray(tower) for tower in array])


@pytest.mark.parametrize("what", ["forward", "gradient"])
def test_layouts_of_both_towers_compute_the_same(what):
  found = dict(kernels.layouts(SMALL, batch_size=2))
  assert list(found) == ["conv2", "conv4", "conv5"]
  for forms in found.values():
    results = {}
    for form, arguments in forms.items():
      result = kernels.layout_programs(*arguments)[what]()
      arrays = result if what == "gradient" else (result,)
      results[form] = [_by_tower(form, array) for array in arrays]
    assert list(results) == ["two plain", "grouped", "batched"]
    for arrays in results.values():
      for array, wanted in zip(arrays, results["two plain"], strict=True):
        assert np.abs(array - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1 * np.abs(wanted).max()


def test_the_table_changes_its_columns_with_the_contenders():
  def row(layer, what, **ms):
    times = {name: {"ms": 0.0, "cpu_ms": value} for name, value in ms.items()}
    return {"layer": layer, "what": what} | times

  rows = [
    row("conv1", "forward", definition=3.0, fast=2.0),
    row("conv2", "forward", two=1.0, grouped=4.0, batched=5.0),
    row("conv4", "forward", two=1.5, grouped=3.0, batched=6.0),
  ]
  assert kernels.table(rows).splitlines() == [
    "| layer | what | definition | fast | definition / fast |",
    "|---|---|--:|--:|--:|",
    "| conv1 | forward | 3.0 | 2.0 | 1.50 |",
    "",
    "| layer | what | two | grouped | batched | two / grouped |",
    "|---|---|--:|--:|--:|--:|",
    "| conv2 | forward | 1.0 | 4.0 | 5.0 | 0.25 |",
    "| conv4 | forward | 1.5 | 3.0 | 6.0 | 0.50 |",
  ]


@pytest.mark.slow
def test_a_row_for_each_layer_and_program():
  found = list(kernels.rows(SMALL, batch_size=1, rounds=1))
  assert [row["layer"] for row in found[-6:]] == 2 * ["conv2"] + 2 * [
    "conv4"
  ] + 2 * ["conv5"]
  assert all(
    row[name]["cpu_ms"] >= 0 for row in found for name in tuple(row)[2:]
  )
