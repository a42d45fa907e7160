"""The fast layers, compared with their definitions and with plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from alexnet_jax.model import kernels, layers, sharding


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def _random(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


# Both modes of differentiation; the second order is what Hessian-vector
# products need.
ORDERS = [1, pytest.param(2, marks=pytest.mark.slow)]

CONVOLUTIONS = {
  # x, kernel, stride, padding
  "conv1": ((2, 32, 32, 3), (11, 11, 3, 4), 4, (0, 3)),
  "conv1_227": ((2, 35, 35, 3), (11, 11, 3, 4), 4, (0, 0)),
  "conv1_padded": ((2, 30, 30, 3), (11, 11, 3, 4), 4, (2, 2)),
  "conv2": ((2, 9, 9, 3), (5, 5, 3, 4), 1, (2, 2)),
  "conv3": ((3, 7, 7, 6), (3, 3, 6, 5), 1, (1, 1)),
  "valid": ((2, 9, 8, 3), (3, 3, 3, 2), 1, (0, 0)),
  "even": ((2, 8, 8, 3), (4, 4, 3, 2), 1, (1, 2)),
  "strided": ((2, 9, 9, 6), (3, 3, 6, 2), 2, (1, 1)),
}


def _convolution_by_loops(x, kernel, stride, padding):
  x = np.pad(x, ((0, 0), padding, padding, (0, 0)))
  size = kernel.shape[0]
  out = [(n - size) // stride + 1 for n in x.shape[1:3]]
  y = np.zeros((x.shape[0], *out, kernel.shape[-1]))
  for i in range(out[0]):
    for j in range(out[1]):
      patch = x[:, stride * i :, stride * j :][:, :size, :size]
      y[:, i, j] = np.tensordot(patch, kernel, 3)
  return y


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_is_the_formula(name):
  shape, kernel_shape, stride, padding = CONVOLUTIONS[name]
  x, kernel = _random(*shape), _random(*kernel_shape, seed=1)
  y = kernels.convolve(x, kernel, stride=stride, padding=padding)
  expected = _convolution_by_loops(
    np.asarray(x), np.asarray(kernel), stride, padding
  )
  np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_derivatives_of_a_convolution(name, order):
  shape, kernel_shape, stride, padding = CONVOLUTIONS[name]
  x, kernel = _random(*shape), _random(*kernel_shape, seed=1)
  check_grads(
    jax.jit(
      lambda x, kernel: kernels.convolve(
        x, kernel, stride=stride, padding=padding
      )
    ),
    (x, kernel),
    order=order,
  )


def test_grouped_convolution_reads_its_own_half():
  x, kernel = _random(2, 6, 6, 4), _random(3, 3, 2, 6, seed=1)
  y = kernels.convolve(x, kernel, padding=(1, 1), groups=2)
  for half in range(2):
    expected = _convolution_by_loops(
      np.asarray(x)[..., 2 * half : 2 * half + 2],
      np.asarray(kernel)[..., 3 * half : 3 * half + 3],
      1,
      (1, 1),
    )
    np.testing.assert_allclose(
      y[..., 3 * half : 3 * half + 3], expected, atol=1e-12
    )


@pytest.mark.parametrize("mesh_shape", [(1, 2), (2, 2)])
def test_kernel_gradient_sums_over_devices(mesh_shape):
  """Under shard_map: images split over "data", kernels over "model"."""
  mesh = jax.make_mesh(
    mesh_shape,
    (sharding.DATA, sharding.MODEL),
    devices=jax.devices()[: mesh_shape[0] * mesh_shape[1]],
  )
  x, stacked = _random(4, 9, 9, 3), _random(2, 3, 3, 3, 4, seed=1)

  def loss(x, stacked):
    y = kernels.convolve(x, stacked[0], padding=(1, 1))
    return lax.psum(jnp.sum(jnp.sin(y)), (sharding.DATA, sharding.MODEL))

  sharded = sharding.on_each_device(
    loss, mesh, (P(sharding.DATA), P(sharding.MODEL)), P()
  )
  actual = jax.jit(jax.grad(sharded, argnums=(0, 1)))(
    sharding.place(x, P(sharding.DATA), mesh),
    sharding.place(stacked, P(sharding.MODEL), mesh),
  )

  def definition(x, stacked):
    each = [
      lax.conv_general_dilated(
        x,
        stacked[i],
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )
      for i in range(2)
    ]
    return sum(jnp.sum(jnp.sin(y)) for y in each)

  expected = jax.grad(definition, argnums=(0, 1))(x, stacked)
  for a, e in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, e, atol=1e-10)


NORMS = {
  "paper": {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75},
  "strong": {"k": 1.0, "n": 5, "alpha": 0.3, "beta": 0.75},
  "even": {"k": 1.0, "n": 4, "alpha": 0.3, "beta": 0.75},
  "power": {"k": 1.5, "n": 3, "alpha": 0.2, "beta": 0.5},
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NORMS)
def test_norm_and_its_derivatives(name, order):
  options = NORMS[name]
  x = _random(2, 3, 3, 9)
  fast = jax.jit(lambda x: kernels.local_response_norm(x, **options))
  definition = layers.local_response_norm(x, **options)
  np.testing.assert_allclose(fast(x), definition, rtol=1e-13)
  check_grads(fast, (x,), order=order)


def _pool_by_loops(x, size, stride, overhang):
  """The largest units, and the (row, column) of the first of each window."""

  def fits(start, n):
    """Whether a window is inside, or overhangs after one that does not."""
    return start + size <= n or (overhang and start < n > start - stride + size)

  count = [
    sum(fits(start, n) for start in range(0, n, stride)) for n in x.shape[1:3]
  ]
  y = np.empty((x.shape[0], *count, x.shape[3]))
  first = np.empty((*y.shape, 2), int)
  for index in np.ndindex(*y.shape):
    b, i, j, c = index
    window = x[b, stride * i :, stride * j :, c][:size, :size]
    place = np.unravel_index(np.argmax(window), window.shape)  # the first
    y[index] = window[place]
    first[index] = place[0] + stride * i, place[1] + stride * j
  return y, first


@pytest.mark.parametrize(
  "size,stride", [(3, 2), (2, 2), (3, 1), (3, 3), (2, 3), (2, 5)]
)
@pytest.mark.parametrize("side", [7, 10])
@pytest.mark.parametrize("overhang", [True, False])
def test_pooling_and_its_gradient_where_units_tie(size, stride, side, overhang):
  options = {"size": size, "stride": stride, "overhang": overhang}
  # Few different values: nearly every window has several largest units.
  rng = np.random.default_rng(0)
  x = rng.integers(0, 3, (2, side, side + 1, 3)).astype(np.float64)
  y, first = _pool_by_loops(x, **options)
  actual, pull_back = jax.vjp(
    jax.jit(lambda x: kernels.max_pool(x, **options)), jnp.asarray(x)
  )
  np.testing.assert_array_equal(actual, y)
  g = rng.standard_normal(y.shape)
  expected = np.zeros_like(x)
  for index in np.ndindex(*y.shape):
    row, column = first[index]
    expected[index[0], row, column, index[3]] += g[index]
  np.testing.assert_allclose(pull_back(jnp.asarray(g))[0], expected, atol=1e-12)
  by_definition = jax.vjp(
    lambda x: layers.max_pool(x, **options), jnp.asarray(x)
  )[1](jnp.asarray(g))[0]
  np.testing.assert_allclose(by_definition, expected, atol=1e-12)


POOL = {"size": 3, "stride": 2, "overhang": True}


@pytest.mark.parametrize("order", ORDERS)
def test_derivatives_of_pooling_without_ties(order):
  pool = functools.partial(kernels.max_pool, **POOL)
  x = jnp.asarray(np.random.default_rng(0).permutation(2 * 7 * 7 * 2))
  x = 0.1 * x.reshape(2, 7, 7, 2).astype(jnp.float64)
  check_grads(jax.jit(pool), (x,), order=order, eps=1e-4)


@pytest.mark.parametrize(
  "function, options",
  [(kernels.max_pool, POOL), (kernels.local_response_norm, NORMS["paper"])],
)
def test_float32_stays_float32(function, options):
  x = _random(2, 7, 7, 6).astype(jnp.float32)
  y, pull_back = jax.vjp(functools.partial(function, **options), x)
  assert y.dtype == pull_back(y)[0].dtype == jnp.float32
