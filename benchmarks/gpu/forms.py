"""Forms: each layer by its definition and as training computes it; layouts.

The forms and the layouts of two towers are those of `benchmarks.kernels`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import kernels
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Sizes


def forms(record: Record, sizes: Sizes) -> None:
  """Times the value and every gradient of each form, in both dtypes."""
  network = sizes.recipe("float32", sizes.layers).network
  for dtype in (jnp.bfloat16, jnp.float32):
    cast = functools.partial(_cast, dtype=dtype)
    prefix = np.dtype(dtype).name
    for name, definition, fast, arguments in kernels.pairs(
      network, sizes.layers
    ):
      arguments = jax.device_put(cast(arguments))
      for form, function in (("definition", definition), ("fast", fast)):
        for what, program in kernels.programs(function, arguments).items():
          key = f"{prefix} {name}, {what}: {form}"
          with record.trying(key):
            record[key] = record.time(program, jax.block_until_ready, 5)
    for name, layouts in kernels.layouts(network, sizes.layers):
      for form, what in layouts.items():
        programs = kernels.layout_programs(what[0], *cast(what[1:]))
        for kind, program in programs.items():
          key = f"{prefix} {name}, both towers, {kind}: {form}"
          with record.trying(key):
            record[key] = record.time(program, jax.block_until_ready, 5)


def _cast(arrays, dtype):
  return jax.tree.map(lambda array: jnp.asarray(array, dtype), arrays)
