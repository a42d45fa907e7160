"""What a program does first, so that nobody needs to know a flag for speed."""

import ctypes
import os
import platform

import jax

from alexnet_jax.data.datasets import cache_directory

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def start() -> None:
  """To be called once, before the first computation.

  Of several processes (which call this once they have met) each compiles for
  itself: with them the cache has not been tried.
  """
  keep_memory()
  if not jax.distributed.is_initialized():
    keep_compilations()


def keep_memory() -> bool:
  """Tells the C library to keep what is freed; says whether it was told.

  A step on a CPU frees and allocates gigabytes. By default each large block
  goes back to the operating system at once, and its pages are mapped and
  cleared again a moment later, which takes as long as much of the arithmetic.
  """
  if platform.libc_ver()[0] != "glibc":
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all(
    [
      mallopt(_M_MMAP_MAX, 0),  # large blocks come from the heap
      mallopt(_M_TRIM_THRESHOLD, 2**31 - 1),  # and the heap does not shrink,
      mallopt(_M_TOP_PAD, 64 * 2**20),  # grows in large pieces,
      mallopt(_M_ARENA_MAX, 1),  # and is one: the others hold only small ones
    ]
  )


def keep_compilations() -> None:
  """Keeps compiled programs in the user's cache directory.

  A directory that the user chose (JAX_COMPILATION_CACHE_DIR) stays as it is.
  """
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update(
      "jax_compilation_cache_dir", os.path.join(cache_directory(), "compiled")
    )
