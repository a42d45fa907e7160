"""The gradients of the NumPy reference, compared with finite differences."""

import functools

import numpy as np
import pytest
from reference import alexnet, formulas

LAYERS = {
  "conv": functools.partial(formulas.conv, stride=2, padding=(0, 3), groups=2),
  "linear": formulas.linear,
  "relu": formulas.relu,
  "tanh": formulas.tanh,
  "sigmoid": formulas.sigmoid,
  "lrn": functools.partial(formulas.lrn, k=2, n=5, alpha=0.1, beta=0.75),
  "within_map_norm": functools.partial(
    formulas.within_map_norm, k=1, n=5, alpha=0.1, beta=0.75
  ),
  "max_pool": formulas.max_pool,
  "max_pool_whole_windows": functools.partial(
    formulas.max_pool, overhang=False
  ),
  "avg_pool": functools.partial(formulas.avg_pool, size=3),
  "dropout": functools.partial(formulas.dropout, keep=np.arange(6) % 2),
}


def directional_difference(function, arguments, direction, step=1e-6):
  def at(t):
    moved = [a + t * d for a, d in zip(arguments, direction, strict=True)]
    return function(*moved)

  return (at(step) - at(-step)) / (2 * step)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_is_the_slope(name):
  rng = np.random.default_rng(0)
  arguments = [rng.normal(size=(2, 8, 8, 6))]
  if name == "conv":
    arguments += [rng.normal(size=(5, 5, 3, 4)), rng.normal(size=4)]
  if name == "linear":
    arguments += [rng.normal(size=(384, 4)), rng.normal(size=4)]
  y, backward = LAYERS[name](*arguments)
  weights = rng.normal(size=y.shape)
  gradients = backward(weights)
  if len(arguments) == 1:
    gradients = [gradients]
  direction = [rng.normal(size=a.shape) for a in arguments]
  slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
  difference = directional_difference(
    lambda *a: (LAYERS[name](*a)[0] * weights).sum(), arguments, direction
  )
  np.testing.assert_allclose(slope, difference, rtol=1e-6)


@pytest.mark.parametrize(
  "stem", [alexnet.paper_stem, alexnet.original_stem], ids=["paper", "original"]
)
def test_the_networks_gradient_is_the_slope_of_its_loss(stem):
  rng = np.random.default_rng(1)
  shapes = {
    "conv1": (11, 11, 3, 3),
    "conv2": (5, 5, 3, 4),
    "conv3": (3, 3, 8, 4),
    "conv4": (3, 3, 4, 4),
    "conv5": (3, 3, 4, 2),
    "fc6": (6 * 6 * 4, 8),
    "fc7": (16, 8),
  }
  # This size keeps activations near 1, on average far from ReLU's kink.
  parameters = {
    name: [
      [
        rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])),
        rng.normal(size=shape[-1]),
      ]
      for _ in range(2)
    ]
    for name, shape in shapes.items()
  }
  parameters["fc8"] = [[rng.normal(size=(8, 5))] for _ in range(2)]
  parameters["fc8_bias"] = [[rng.normal(size=5)]]
  images = rng.normal(size=(1, 224, 224, 3))
  masks = {
    name: [rng.integers(0, 2, (1, 8)) for _ in range(2)]
    for name in ("fc6", "fc7")
  }
  labels = np.array([3])

  def loss(parameters):
    return alexnet.loss_and_gradients(
      parameters, images, labels, masks, stem=stem
    )

  _, gradients = loss(parameters)
  for name in parameters:
    direction = alexnet.zeros_like(parameters)
    direction[name] = [
      [rng.normal(size=leaf.shape) for leaf in leaves]
      for leaves in parameters[name]
    ]
    slope = sum(
      (g * d).sum()
      for t, leaves in enumerate(gradients[name])
      for g, d in zip(leaves, direction[name][t], strict=True)
    )
    step = 1e-7
    difference = sum(
      sign * loss(moved(parameters, direction, sign * step))[0]
      for sign in (1, -1)
    ) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-4, err_msg=name)


def moved(parameters, direction, step):
  return {
    name: [
      [w + step * d for w, d in zip(leaves, direction[name][t], strict=True)]
      for t, leaves in enumerate(towers)
    ]
    for name, towers in parameters.items()
  }


def test_response_norm_of_known_numbers():
  # By hand, the last of 4 maps with n=3: it and its one neighbour.
  a = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
  b, _ = formulas.lrn(a, k=2, n=3, alpha=0.5, beta=0.75)
  np.testing.assert_allclose(b[0, 0, 0, 3], 4 / (2 + 0.5 * (9 + 16)) ** 0.75)
  np.testing.assert_allclose(b[0, 0, 0, 1], 2 / (2 + 0.5 * (1 + 4 + 9)) ** 0.75)


def test_update_of_known_numbers():
  weight, velocity = formulas.update(2.0, -0.1, 3.0, rate=0.01)
  np.testing.assert_allclose(velocity, -0.09 - 0.0005 * 0.01 * 2 - 0.03)
  np.testing.assert_allclose(weight, 2 + velocity)
