"""The precision of float32 products, read in the program for each platform."""

import re

import numpy as np
import pytest
from jax import lax

from alexnet_jax.data.augment import Augmentation
from alexnet_jax.model import kernels, sharding
from alexnet_jax.model.network import Network
from alexnet_jax.training.job import Recipe

# What the lowered program says of each product, by `network.precision`. JAX's
# documentation of `lax.Precision` says what the three mean on each platform.
WORDS = {"float32": "HIGHEST", "tf32": "HIGH", "default": "DEFAULT"}


def products(platform: str, lighting: float, **network) -> list[str]:
  """The convolutions and matrix products of a training step, as lowered."""
  mesh = sharding.make_mesh(1, 2)
  net = Network(num_classes=5, width=0.02, crop_size=64, **network)
  recipe = Recipe(net, 4, augmentation=Augmentation(lighting=lighting))
  step = recipe.train_step(mesh)
  arguments = recipe.abstract_arguments(mesh)
  lowered = step.trace(*arguments).lower(lowering_platforms=(platform,))
  return re.findall(
    r"stablehlo\.(?:convolution|dot_general).*", lowered.as_text()
  )


def precisions(product: str) -> set[str]:
  """Such as {"HIGHEST"}; a product without any word has the default."""
  return set(re.findall(r"\b(HIGHEST|HIGH|DEFAULT)\b", product)) or {"DEFAULT"}


@pytest.mark.parametrize(
  "platform,precision",
  [
    ("cuda", "float32"),
    ("tpu", "float32"),
    ("cuda", "tf32"),
    ("tpu", "default"),
  ],
)
def test_every_product_has_the_configured_precision(platform, precision):
  found = products(platform, 0.0, precision=precision)
  # Forward, by the input (not conv1) and by the kernel: 3 x 5 - 1 convolutions
  # and 3 x 3 products.
  assert sum("convolution" in product for product in found) >= 14
  assert sum("dot_general" in product for product in found) >= 9
  for product in found:
    assert precisions(product) == {WORDS[precision]}, product


def test_lighting_is_exact_whatever_the_network_is():
  found = [
    product
    for product in products("cuda", 0.1, precision="default")
    if "dot_general" in product and "tensor<3x3xf32>" in product
  ]
  assert found
  for product in found:
    assert precisions(product) == {"HIGHEST"}, product


def test_bfloat16_products_have_one_precision():
  found = products("cuda", 0.0, compute_dtype="bfloat16")
  assert {word for p in found for word in precisions(p)} == {"DEFAULT"}


def test_a_cpu_computes_in_float32_whatever_the_precision():
  random = np.random.default_rng(0)
  x = random.standard_normal((2, 13, 13, 48), np.float32)
  kernel = random.standard_normal((3, 3, 48, 32), np.float32)
  padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
  exact = np.einsum("bhwcij,ijcf->bhwf", windows, kernel)
  for precision in lax.Precision:
    y = kernels.convolve(x, kernel, padding=(1, 1), precision=precision)
    # 432 products in a sum of about 20; TF32 would be off by 0.01.
    np.testing.assert_allclose(y, exact, atol=1e-4)
