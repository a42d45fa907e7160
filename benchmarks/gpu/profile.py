"""Profile: milliseconds of a step by layer and pass; the slowest kernels."""

import collections
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax

from alexnet_jax.analysis import traffic

STEPS = 3
SLOWEST = 40


def by_layer(train: Callable[[], Any], text: str) -> dict[str, Any]:
  """Profiles some steps of a compiled program.

  Args:
    train: sends a step to the device; returns its metrics.
    text: of the program, `compiled.as_text()`.

  Returns:
    "ms" by "LAYER PASS", their sum, and the slowest kernels, each with the name
    of its instruction. On a CPU all are empty: JAX does not profile kernels.
  """
  places = traffic.places(text)
  jax.block_until_ready(train())
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(STEPS):
        metrics = train()
      jax.block_until_ready(metrics)
    kernels = _kernels(folder)
  layers = collections.Counter()
  for (_, instruction), ms in kernels.items():
    phase, layer = places.get(instruction, ("", traffic.OTHER))
    layers[f"{layer} {phase}".strip()] += ms
  return {
    "ms": dict(layers.most_common()),
    "ms in all kernels": sum(kernels.values()),
    "slowest": [[*name, ms] for name, ms in kernels.most_common(SLOWEST)],
  }


def _kernels(folder: str) -> collections.Counter:
  """Milliseconds a step of each (kernel, instruction) on the first GPU."""
  (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
  found = collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
    if "/device:GPU:0" not in plane.name:
      continue
    for line in plane.lines:
      if not line.name.startswith("Stream"):
        continue
      for event in line.events:
        instruction = str(dict(event.stats).get("hlo_op", ""))
        found[event.name[:90], instruction] += event.duration_ns / 1e6 / STEPS
  return found
