"""The fast layers beside their definitions, one tower's sizes, in turns.

  python -m benchmarks.kernels --output=experiments/results/kernels.json

Times each value and each gradient; the definitions' gradients are JAX's own.
`cpu_ms` is the processor time of all threads: on a busy machine it tells more.
"""

import functools
import json
import sys
import time

import jax
import numpy as np
from absl import flags
from jax import lax

from alexnet_jax import command, files, kernels, layers, provenance, startup
from alexnet_jax import network as networks
from alexnet_jax.network import Network


def pairs(network, batch_size):
  """Yields (name, definition, fast, arguments) of what kernels.py replaces."""
  rng = np.random.default_rng(0)

  def array(*shape):
    return rng.standard_normal(shape, np.float32)

  for name, layer, inputs, convolved, _ in networks.shapes(network):
    if not layer.size:
      continue
    kernel = array(layer.size, layer.size, inputs[-1], layer.features)
    options = {"stride": layer.stride, "padding": layer.padding}
    arguments = (array(batch_size, *inputs), kernel)
    fast = functools.partial(kernels.convolve, **options)
    yield name, functools.partial(_convolve, **options), fast, arguments
    maps = np.maximum(array(batch_size, *convolved), 0)
    if "lrn" in layer.then:
      both = layers.local_response_norm, kernels.local_response_norm
      yield f"{name}.lrn", *both, (50 * maps,)
    if "pool" in layer.then:
      yield f"{name}.pool", layers.max_pool, kernels.max_pool, (maps,)


def _convolve(x, kernel, *, stride, padding):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    (padding, padding),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def programs(function, arguments):
  """The value, and the gradient in each argument, as compiled functions."""
  y = jax.eval_shape(function, *arguments)
  g = np.random.default_rng(1).standard_normal(y.shape, np.float32)
  compiled = {"forward": functools.partial(jax.jit(function), *arguments)}
  names = ("input", "kernel")
  for i, argument in enumerate(arguments):
    if i == 0 and argument.shape[-1] == 3:
      continue  # nobody asks for the image's own gradient

    def gradient(*arguments, i=i):
      *arguments, g = arguments
      before, after = arguments[:i], arguments[i + 1 :]
      return jax.vjp(lambda a: function(*before, a, *after), arguments[i])[1](g)

    compiled[f"gradient of {names[i]}"] = functools.partial(
      jax.jit(gradient), *arguments, g
    )
  return compiled


def measure(definition, fast, rounds):
  """{"definition": ..., "fast": ...}: least wall and CPU milliseconds."""
  times = {"definition": [], "fast": []}
  for round_ in range(rounds + 2):
    for name, program in (("definition", definition), ("fast", fast)):
      start, cpu = time.perf_counter(), time.process_time()
      jax.block_until_ready(program())
      if round_ >= 2:
        wall = time.perf_counter() - start
        times[name].append((wall, time.process_time() - cpu))
  return {
    name: {
      "ms": 1e3 * min(wall for wall, _ in values),
      "cpu_ms": 1e3 * min(cpu for _, cpu in values),
    }
    for name, values in times.items()
  }


def table(result):
  """The result as Markdown: milliseconds of processor time."""
  lines = [
    "| layer | what | definition | fast | ratio |",
    "|---|---|--:|--:|--:|",
  ]
  for row in result["result"]:
    before, after = (row[name]["cpu_ms"] for name in ("definition", "fast"))
    lines.append(
      f"| {row['layer']} | {row['what']} | {before:.1f} | {after:.1f}"
      f" | {before / after:.2f} |"
    )
  return "\n".join(lines)


def main() -> None:
  startup.keep_memory()
  rows = []
  for name, definition, fast, arguments in pairs(Network(), _BATCH_SIZE.value):
    arguments = jax.device_put(arguments)
    ours = programs(fast, arguments)
    for what, program in programs(definition, arguments).items():
      times = measure(program, ours[what], _ROUNDS.value)
      rows.append({"layer": name, "what": what} | times)
      before, after = times["definition"], times["fast"]
      print(
        f"{name:12} {what:18} {before['cpu_ms']:8.1f} -> {after['cpu_ms']:8.1f}"
        f" ms of processor time, {before['ms']:8.1f} -> {after['ms']:8.1f} ms",
        flush=True,
      )
  if _OUTPUT.value:
    record = provenance.record(
      "one tower's layers, definition and fast, least of the rounds",
      " ".join(["python -m benchmarks.kernels", *sys.argv[1:]]),
      rows,
    )
    files.write_whole(_OUTPUT.value, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  _OUTPUT = flags.DEFINE_string("output", "", "JSON file")
  _BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images", 1)
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "of timing", 1)
  command.run(main)
