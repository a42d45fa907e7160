"""The random streams of a run: keys that share no bits with each other.

A key may have one use. `split(key, 8)[3]` and `fold_in(key, 3)` are the same
key, so what draws from one key in two ways may draw the same numbers twice. A
run therefore has a stream for each purpose, all of them made from its seed:

  initial weights   the seed's own key, then tower, then layer
  augmentation      a key folded from it, then epoch and example
  dropout           another one, then epoch, example, tower and layer
  order of images   NumPy: (seed, epoch)
  hold-out          NumPy: (seed, a number that no epoch has)

None of them depends on the mesh, the batch size or the step.
"""

import zlib
from typing import NamedTuple

import jax

from alexnet_jax.data import augment

SEPARATE = "separate"

# Fixed by name, whatever the process has configured (`jax_default_prng_impl`).
PRNG = "threefry2x32"


class Streams(NamedTuple):
  """The keys of the random streams in a training step, key<fry>[] each."""

  augmentation: jax.Array
  dropout: jax.Array

  def example_keys(
    self, epoch: jax.Array, index: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Keys of augmentation and of dropout: (i32[B], i32[B]) -> 2 x key[B]."""
    return (
      augment.example_keys(self.augmentation, epoch, index),
      augment.example_keys(self.dropout, epoch, index),
    )


class SharedStream(NamedTuple):
  """The one key of runs that began before there were streams.

  It made the initial weights as well, so that some arrays of weights and some
  examples draw from the same bits.
  """

  key: jax.Array

  def example_keys(
    self, epoch: jax.Array, index: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """As `Streams.example_keys`."""
    keys = augment.example_keys(self.key, epoch, index)
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def root_key(seed: int) -> jax.Array:
  """The key of the seed, key<fry>[]; initial weights are drawn from it.

  In 32 bits JAX takes the lower ones of the seed, and so it does here in 64.
  """
  return jax.random.key(seed & 0xFFFFFFFF, impl=PRNG)


def make_streams(kind: str, seed: int) -> Streams | SharedStream:
  """The streams of a training step.

  Args:
    kind: `random_streams` of the configuration, "separate" or "shared".
    seed: of the run.
  """
  key = root_key(seed)
  if kind == SEPARATE:
    # Towers, which the weights fold into this key, are numbered from 0.
    return Streams(
      *(jax.random.fold_in(key, _number(name)) for name in Streams._fields)
    )
  return SharedStream(key)


def hold_out_seeds(kind: str, seed: int) -> tuple[int, ...]:
  """The seeds of the images that are held out, for `sources.hold_out`."""
  # NumPy pads with zeros: (seed,) alone has the bits of (seed, epoch 0).
  return (seed, _number("hold_out")) if kind == SEPARATE else (seed,)


def _number(name: str) -> int:
  """A number for a name, u32."""
  return zlib.crc32(name.encode())
