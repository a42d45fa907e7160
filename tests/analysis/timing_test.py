"""The step's benchmark counts, times and compares what it says."""

import time

import jax
import numpy as np
import pytest

from alexnet_jax.analysis import timing
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import shapes
from alexnet_jax.training.job import Recipe

SMALL = Network(num_classes=7, width=1 / 16)


def test_operations_are_the_papers():
  """Section 3.5's sizes, multiplied out by hand."""
  expected = {
    "conv1": 55 * 55 * 96 * 11 * 11 * 3,
    "conv2": 27 * 27 * 256 * 5 * 5 * 48,
    "conv3": 13 * 13 * 384 * 3 * 3 * 256,
    "conv4": 13 * 13 * 384 * 3 * 3 * 192,
    "conv5": 13 * 13 * 256 * 3 * 3 * 192,
    "fc6": 9216 * 4096,
    "fc7": 4096 * 4096,
    "fc8": 4096 * 1000,
  }
  flops = timing.forward_flops(Network())
  assert flops == {name: 2 * count for name, count in expected.items()}
  # The figures of docs: 0.724 G products forward, 4.14 GFLOP in training.
  assert sum(flops.values()) == 2 * 724_406_816
  assert timing.training_flops(Network()) == pytest.approx(4.14e9, rel=2e-3)


def test_rounds_alternate_and_the_first_does_not_count():
  calls = []

  def work(name, seconds):
    calls.append(name)
    time.sleep(seconds if len(calls) > 2 else 0.5)  # the first round is slow

  seconds = timing.alternate(
    {"a": lambda: work("a", 0.01), "b": lambda: work("b", 0.05)}, 3
  )
  assert calls == ["a", "b"] * 4
  assert all(len(times) == 3 for times in seconds.values())
  assert 0.01 <= seconds["a"].min() < 0.05 <= seconds["b"].min()
  assert seconds["a"].max() < 0.5


def test_a_row_is_the_median():
  row = timing.row("x", np.array([0.5, 0.1, 0.2]), 10)
  assert row["images_per_second"] == pytest.approx(50)
  assert row["ms"] == pytest.approx({"min": 100, "median": 200, "max": 500})


def test_the_step_is_timed():
  mesh = sharding.make_mesh(1, 2)
  rows, summary = timing.benchmark_step(
    Recipe(SMALL, batch_size=2, image_size=226), mesh, rounds=9, matrix=64
  )
  by_name = {row["name"]: row for row in rows}
  assert list(by_name) == [
    *("train", "inference", "matmul_peak", "memory_copy")
  ]
  # The least of the rounds: one alone may have been disturbed.
  assert by_name["train"]["ms"]["min"] > by_name["inference"]["ms"]["min"]
  for name, flops in [
    ("train", 2 * timing.training_flops(SMALL)),
    ("matmul_peak", 2 * 64**3),  # one product for all cores of a CPU
  ]:
    row = by_name[name]
    assert row["flops_per_second"] == pytest.approx(
      flops / row["ms"]["median"] * 1e3
    )
  copy = by_name["memory_copy"]
  assert copy["bytes_per_second"] == pytest.approx(
    2 * 2**28 / copy["ms"]["median"] * 1e3
  )
  # Weights and velocity of a device's tower: float32, twice, and fc8's bias.
  held = 2 * 4 * (parameters_of_a_tower(SMALL) + SMALL.num_classes)
  batch = 2 * (226 * 226 * 3 + 4 * 4)
  mean = 4 * 226 * 226 * 3
  assert summary.memory_bytes["arguments"] == pytest.approx(
    held + batch + mean, rel=1e-3
  )
  # It reads them all, and writes them.
  assert summary.bytes_accessed > 2 * held
  assert summary.share_of_roofline > 0
  share = summary.share_of_peak["train"]
  assert share == pytest.approx(
    by_name["train"]["flops_per_second"]
    / by_name["matmul_peak"]["flops_per_second"]
  )


def parameters_of_a_tower(network):
  """By the layers' sizes."""
  count = 0
  for name, layer, inputs, _, _ in shapes(network):
    each = layer.size**2 * inputs[-1] if layer.size else inputs[0]
    count += layer.features * (each + (name != "fc8"))
  return count


def test_a_slow_input_is_named_as_the_limit():
  mesh = sharding.make_mesh(1, 2)
  batch = {
    "image": np.zeros((2, 226, 226, 3), np.uint8),
    "label": np.zeros(2, np.int32),
    "index": np.arange(2, dtype=np.int32),
    "epoch": np.zeros(2, np.int32),
    "weight": np.ones(2, np.float32),
  }

  def batches():
    while True:
      time.sleep(1)
      yield jax.device_put(batch, sharding.batch_sharding(mesh))

  rows, summary = timing.benchmark_end_to_end(
    Recipe(SMALL, batch_size=2, image_size=226),
    mesh,
    batches,
    steps=1,
    rounds=1,
  )
  by_name = {row["name"]: row for row in rows}
  assert summary.limited_by == "input"
  assert by_name["input"]["ms"]["median"] >= 1000
  assert by_name["end_to_end"]["ms"]["median"] > 1000
  assert 0.5 < summary.waited < 1
