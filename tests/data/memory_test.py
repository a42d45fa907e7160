"""Memory is used again, and never while anybody looks at it."""

import gc

import jax
import numpy as np

from alexnet_jax.data import memory


def address(array):
  return array.__array_interface__["data"][0]


def test_memory_comes_back():
  pool = memory.Pool((4, 5))
  first = pool.take()
  assert (first.shape, first.dtype) == ((4, 5), np.uint8)
  assert first.flags.writeable
  assert first.flags.c_contiguous
  second = pool.take()
  assert address(first) != address(second)
  where = address(first)
  del first
  assert address(pool.take()) == where


def test_a_view_keeps_it():
  pool = memory.Pool((4, 5))
  whole = pool.take()
  whole[:] = 7
  where = address(whole)
  view = whole[1:3].reshape(-1)[2:]
  del whole
  gc.collect()
  other = pool.take()
  assert address(other) != where
  other[:] = 9
  assert (view == 7).all()
  del view
  assert address(pool.take()) == where


def test_a_jax_array_keeps_what_it_shares():
  pool = memory.Pool((512, 512))
  for level in range(20):
    array = pool.take()
    array[:] = level
    on_device = jax.device_put(array)
    view = jax.numpy.asarray(array)
    del array
    for _ in range(3):
      pool.take()[:] = 255
    assert (np.asarray(on_device) == level).all()
    assert (np.asarray(view) == level).all()


def test_the_pool_may_go_first():
  array = memory.Pool((3,)).take()
  array[:] = 1
  gc.collect()
  assert array.tolist() == [1, 1, 1]
