"""A configuration becomes the programs and arguments that it says."""

import jax

from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.runtime import config
from alexnet_jax.training import recipe
from alexnet_jax.training.recipe import Recipe

SMALL = Recipe(Network(width=1 / 32, num_classes=7), 8, image_size=230)


def test_the_papers_configuration_is_read():
  paper = recipe.from_config(config.load("configs/paper.py").to_dict())
  # Section 5: 128 images; section 2: 256 x 256; 3.5: width 1, 1000 classes.
  assert (paper.batch_size, paper.image_size) == (128, 256)
  assert paper.network == Network()
  assert paper.augmentation.lighting == 0.1  # section 4.1
  other = recipe.from_config(config.load("configs/paper.py").to_dict(), 96)
  assert other.batch_size == 96


def test_noise_has_the_shapes_and_places_that_are_compiled_for():
  mesh = sharding.make_mesh(2, 2)
  abstract, noise = SMALL.abstract(mesh), SMALL.noise(mesh)
  assert jax.tree.structure(abstract) == jax.tree.structure(noise)
  for (path, wanted), got in zip(
    jax.tree.leaves_with_path(abstract), jax.tree.leaves(noise), strict=True
  ):
    assert got.shape == wanted.shape, path
    assert got.dtype == wanted.dtype, path
    assert got.sharding.is_equivalent_to(wanted.sharding, got.ndim), path
  batch = jax.device_get(noise[1])
  assert (batch["image"].min(), batch["image"].max()) == (0, 255)
  assert set(batch["label"]) <= set(range(7))
