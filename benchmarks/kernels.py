"""Times the fast layers and their definitions, at the sizes of one tower.

  python -m benchmarks.kernels --output=experiments/results/kernels.json

Times the value and every gradient, in alternating rounds; the gradients of the
definitions are JAX's own. If a device holds both towers, a layer that reads
only its own tower can be computed in three layouts, which are timed too.
`cpu_ms` is the processor time of all threads, which depends less on other load.
"""

import functools
import itertools
import json
import sys
import time

import jax
import numpy as np
from absl import flags
from jax import lax

from alexnet_jax.model import kernels, layers
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import shapes
from alexnet_jax.runtime import command, files, paths, processes, provenance
from experiments.common import markdown


def pairs(network, batch_size):
  """Yields (name, definition, fast, arguments) for the layers of kernels.py."""
  rng = np.random.default_rng(0)

  def array(*shape):
    return rng.standard_normal(shape, np.float32)

  for name, layer, inputs, convolved, _ in shapes(network):
    if not layer.size:
      continue
    kernel = array(layer.size, layer.size, inputs[-1], layer.features)
    options = {"stride": layer.stride, "padding": layer.padding}
    arguments = (array(batch_size, *inputs), kernel)
    fast = functools.partial(kernels.convolve, **options)
    yield name, functools.partial(_convolve, **options), fast, arguments
    maps = np.maximum(array(batch_size, *convolved), 0)
    if "lrn" in layer.then:
      constants = {
        "k": network.lrn_k,
        "n": network.lrn_n,
        "alpha": network.lrn_alpha,
        "beta": network.lrn_beta,
      }
      both = [
        functools.partial(module.local_response_norm, **constants)
        for module in (layers, kernels)
      ]
      yield f"{name}.lrn", *both, (50 * maps,)
    if "pool" in layer.then:
      constants = {
        "size": network.pool_size,
        "stride": network.pool_stride,
        "overhang": network.pool_overhang,
      }
      both = [
        functools.partial(module.max_pool, **constants)
        for module in (layers, kernels)
      ]
      yield f"{name}.pool", *both, (maps,)


def _convolve(x, kernel, *, stride, padding):
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    (padding, padding),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def layouts(network, batch_size):
  """Yields (name, {layout: (function, x, kernel, g)}) for conv2, conv4, conv5.

  All layouts have the same numbers, arranged as each needs them, for maps `x`,
  kernels and gradients of the output `g`: two plain convolutions; one with two
  groups, f32[B,H,W,2C]; one over a tower axis, f32[2,B,H,W,C].
  """
  rng = np.random.default_rng(0)

  def array(*shape):
    return rng.standard_normal((2, *shape), np.float32)

  for name, layer, inputs, convolved, _ in shapes(network):
    if not layer.size or name == "conv1" or name in network.exchanges:
      continue
    arrays = (
      array(batch_size, *inputs),
      array(layer.size, layer.size, inputs[-1], layer.features),
      array(batch_size, *convolved),
    )
    one = functools.partial(
      kernels.convolve, stride=layer.stride, padding=layer.padding
    )
    forms = {
      "two plain": (functools.partial(_each, one), tuple),
      "grouped": (functools.partial(one, groups=2), _side_by_side),
      "batched": (jax.vmap(one), np.asarray),
    }
    yield (
      name,
      {
        form: (function, *map(arrange, arrays))
        for form, (function, arrange) in forms.items()
      },
    )


def _each(function, x, kernel):
  """Applies a function to each tower's maps and kernel."""
  return tuple(function(*tower) for tower in zip(x, kernel, strict=True))


def _side_by_side(towers):
  return np.concatenate([*towers], axis=-1)


def layout_programs(function, x, kernel, g):
  """The value, and the gradient in both arguments, as compiled functions."""

  def gradient(x, kernel, g):
    return jax.vjp(function, x, kernel)[1](g)

  x, kernel, g = jax.device_put((x, kernel, g))
  return {
    "forward": functools.partial(jax.jit(function), x, kernel),
    "gradient": functools.partial(jax.jit(gradient), x, kernel, g),
  }


def programs(function, arguments):
  """The value, and the gradient in each argument, as compiled functions."""
  y = jax.eval_shape(function, *arguments)
  random = np.random.default_rng(1)
  g = random.standard_normal(y.shape, np.float32).astype(y.dtype)
  compiled = {"forward": functools.partial(jax.jit(function), *arguments)}
  names = ("input", "kernel")
  for i, argument in enumerate(arguments):
    if i == 0 and argument.shape[-1] == 3:
      continue  # the gradient of the images is never computed

    def gradient(*arguments, i=i):
      *arguments, g = arguments
      before, after = arguments[:i], arguments[i + 1 :]
      return jax.vjp(lambda a: function(*before, a, *after), arguments[i])[1](g)

    compiled[f"gradient of {names[i]}"] = functools.partial(
      jax.jit(gradient), *arguments, g
    )
  return compiled


def measure(contenders, rounds):
  """{name: smallest wall and CPU milliseconds} over alternating rounds."""
  times = {name: [] for name in contenders}
  for round_ in range(rounds + 2):
    for name, program in contenders.items():
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


def rows(network, batch_size, rounds):
  """Yields a row for each layer and each of its programs."""
  for name, definition, fast, arguments in pairs(network, batch_size):
    arguments = jax.device_put(arguments)
    ours = programs(fast, arguments)
    for what, program in programs(definition, arguments).items():
      contenders = {"definition": program, "fast": ours[what]}
      yield {"layer": name, "what": what} | measure(contenders, rounds)
  for name, forms in layouts(network, batch_size):
    compiled = {form: layout_programs(*what) for form, what in forms.items()}
    for what in ("forward", "gradient"):
      contenders = {form: found[what] for form, found in compiled.items()}
      row = {"layer": name, "what": f"{what}, both towers"}
      yield row | measure(contenders, rounds)


def table(rows):
  """The rows as Markdown: CPU milliseconds, and first over second contender."""
  tables = []
  for names, group in itertools.groupby(rows, lambda row: tuple(row)[2:]):
    first, second = names[:2]
    cells = []
    for row in group:
      ms = [row[name]["cpu_ms"] for name in names]
      times = [f"{value:.1f}" for value in ms]
      ratio = f"{ms[0] / ms[1]:.2f}"
      cells.append([row["layer"], row["what"], *times, ratio])
    headings = ["layer", "what", *names, f"{first} / {second}"]
    align = "ll" + "r" * (len(names) + 1)
    tables.append(markdown.table(headings, cells, align))
  return "\n\n".join(tables)


def main() -> None:
  processes.keep_freed_memory()
  found = []
  for row in rows(Network(), _BATCH_SIZE.value, _ROUNDS.value):
    found.append(row)
    print(table([row]).splitlines()[-1], flush=True)
  print("", table(found), sep="\n")
  if _OUTPUT.value:
    record = provenance.record(
      "layers, definition and fast, and layouts of both towers, least of the"
      " rounds",
      " ".join(["python -m benchmarks.kernels", *sys.argv[1:]]),
      found,
    )
    files.write_atomic(_OUTPUT.value, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  _OUTPUT = paths.DEFINE_output("output", "", "JSON file for the results")
  _BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images per step", 1)
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "number of timed rounds", 1)
  command.run(main)
