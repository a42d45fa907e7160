"""Checksums of arrays, computed on their devices, the same on every mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(arrays: Any) -> dict[str, list]:
  """Dtype and shape of each array, by path."""
  return {
    jax.tree_util.keystr(path): [str(leaf.dtype), *leaf.shape]
    for path, leaf in jax.tree.leaves_with_path(arrays)
  }


def checksums(arrays: Any) -> dict[str, list[int]]:
  """Two sums modulo 2**32 of each array's bits, the same on every mesh.

  The plain sum changes if any one element changes; the sum weighted by position
  changes if elements are swapped.
  """
  return {
    jax.tree_util.keystr(path): np.asarray(sums).tolist()
    for path, sums in jax.tree.leaves_with_path(_sum_bits(arrays))
  }


@jax.jit
def _sum_bits(arrays: Any) -> Any:
  def sums(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    elif x.dtype == bool:
      x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    bits = bits.astype(jnp.uint32)
    sharding = jax.typeof(x).sharding
    position = jnp.zeros(x.shape, jnp.uint32, out_sharding=sharding)
    for axis in range(x.ndim):
      index = jax.lax.broadcasted_iota(
        jnp.uint32, x.shape, axis, out_sharding=sharding
      )
      position = position * np.uint32(x.shape[axis]) + index
    weighted = bits * (position + np.uint32(1))
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32) for x in (bits, weighted)])

  return jax.tree.map(sums, arrays)
