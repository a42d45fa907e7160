"""The step's benchmark counts, times and compares what it says."""

import time

import jax.numpy as jnp
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
    time.sleep(seconds if len(calls) > 2 else 0.3)  # the first round is slow

  seconds = timing.alternate(
    {"a": lambda: work("a", 0.01), "b": lambda: work("b", 0.05)}, 3
  )
  assert calls == ["a", "b"] * 4
  assert all(len(times) == 3 for times in seconds.values())
  assert 0.01 <= seconds["a"].min() < 0.05 <= seconds["b"].min()
  assert seconds["a"].max() < 0.3


def test_a_row_is_the_median():
  row = timing.row("x", np.array([0.5, 0.1, 0.2]), 10)
  assert row["images_per_second"] == pytest.approx(50)
  assert row["ms"] == pytest.approx({"min": 100, "median": 200, "max": 500})


class Compiled:
  """What the compiler reports about a program."""

  argument_size_in_bytes, temp_size_in_bytes = 300, 200

  def cost_analysis(self):
    return {"bytes accessed": 1000.0}

  def memory_analysis(self):
    return self


def test_rates_and_shares_of_the_step_are_arithmetic(monkeypatch):
  seconds = {
    "train": np.array([0.2, 0.1, 0.3]),
    "inference": np.full(3, 0.05),
    "matmul_peak": np.full(3, 0.001),
    "memory_copy": np.full(3, 0.25),
  }
  nothing = (lambda: None, lambda: None, Compiled())
  monkeypatch.setattr(timing, "make_programs", lambda *_: nothing)
  monkeypatch.setattr(timing, "COPIED", 1024)
  monkeypatch.setattr(timing, "alternate", lambda functions, rounds: seconds)
  rows, summary = timing.benchmark_step(
    Recipe(SMALL, batch_size=2), sharding.make_mesh(1, 2), matrix=64
  )
  by_name = {row["name"]: row for row in rows}
  assert list(by_name) == list(seconds)
  rates = [row["images_per_second"] for row in rows]
  assert rates == pytest.approx([2 / 0.2, 2 / 0.05, 0, 0])
  peak = 2 * 64**3 / 0.001  # one product for all cores of a CPU
  train = 2 * timing.training_flops(SMALL) / 0.2
  assert by_name["matmul_peak"]["flops_per_second"] == pytest.approx(peak)
  assert by_name["train"]["flops_per_second"] == pytest.approx(train)
  bandwidth = 2 * 1024 / 0.25
  assert by_name["memory_copy"]["bytes_per_second"] == bandwidth
  assert summary.share_of_peak["train"] == pytest.approx(train / peak)
  assert summary.memory_bytes == {"arguments": 300, "temporaries": 200}
  # Two devices move 1,000 bytes each; the products need less time.
  assert summary.share_of_roofline == pytest.approx(2000 / bandwidth / 0.2)


def test_the_yardsticks_run(monkeypatch):
  monkeypatch.setattr(timing, "COPIED", 1024)
  mesh = timing._yardstick_mesh(sharding.make_mesh(1, 2))
  assert mesh.size == 1
  np.testing.assert_allclose(timing._matmul(mesh, 8)(), 1 / 8)
  assert timing._copy(mesh)().nbytes == 1024


@pytest.mark.slow
def test_the_compiled_step_holds_weights_velocity_and_batch():
  recipe = Recipe(SMALL, batch_size=2, image_size=226)
  train, inference, compiled = timing.make_programs(
    recipe, sharding.make_mesh(1, 2)
  )
  seconds = timing.alternate({"train": train, "inference": inference}, 9)
  # The least of the rounds: one alone may have been disturbed.
  assert seconds["train"].min() > seconds["inference"].min()
  # Weights and velocity of a device's tower: float32, twice, and fc8's bias.
  held = 2 * 4 * (parameters_of_a_tower(SMALL) + SMALL.num_classes)
  batch = 2 * (226 * 226 * 3 + 4 * 4)
  mean = 4 * 226 * 226 * 3
  arguments = compiled.memory_analysis().argument_size_in_bytes
  assert arguments == pytest.approx(held + batch + mean, rel=1e-3)
  # It reads them all, and writes them.
  assert compiled.cost_analysis()["bytes accessed"] > 2 * held


def parameters_of_a_tower(network):
  """By the layers' sizes."""
  count = 0
  for name, layer, inputs, _, _ in shapes(network):
    each = layer.size**2 * inputs[-1] if layer.size else inputs[0]
    count += layer.features * (each + (name != "fc8"))
  return count


class InstantStep:
  """A recipe whose training step takes no time."""

  batch_size = 2

  def random_arguments(self, mesh):
    return "state", "batch"

  def train_step(self, mesh):
    loss = jnp.float32(0)
    return lambda state, batch: (state, loss)


def test_a_slow_input_is_named_as_the_limit():
  def batches():
    while True:
      time.sleep(0.05)
      yield "batch"

  rows, summary = timing.benchmark_end_to_end(
    InstantStep(), sharding.make_mesh(1, 2), batches, steps=2, rounds=2
  )
  by_name = {row["name"]: row for row in rows}
  assert list(by_name) == ["step", "end_to_end", "input"]
  assert summary.limited_by == "input"
  assert by_name["input"]["ms"]["median"] >= 50
  assert by_name["end_to_end"]["ms"]["median"] > 50
  assert 0.5 < summary.waited < 1
  assert summary.share_of_step < 0.5
