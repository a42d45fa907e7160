"""What a configuration asks for: programs, arguments, keys without effect."""

import dataclasses
import pathlib
import re

import jax
import pytest

from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import job
from alexnet_jax.training.job import Recipe
from configs import paper

SMALL = Recipe(Network(width=1 / 32, num_classes=7), 8, image_size=230)


def test_the_recipe_of_the_papers_configuration():
  config = paper.get_config().to_dict()
  recipe = Recipe.from_config(config)
  # Section 5: 128 images; section 2: 256 x 256; 3.5: width 1, 1000 classes.
  assert (recipe.batch_size, recipe.image_size) == (128, 256)
  assert recipe.network == Network()
  assert recipe.augmentation.lighting == 0.1  # section 4.1
  assert Recipe.from_config(config, 96).batch_size == 96


def test_random_arguments_have_the_shapes_and_shardings_of_the_abstract_ones():
  mesh = sharding.make_mesh(2, 2)
  abstract = SMALL.abstract_arguments(mesh)
  values = SMALL.random_arguments(mesh)
  assert jax.tree.structure(abstract) == jax.tree.structure(values)
  for (path, wanted), got in zip(
    jax.tree.leaves_with_path(abstract), jax.tree.leaves(values), strict=True
  ):
    assert got.shape == wanted.shape, path
    assert got.dtype == wanted.dtype, path
    assert got.sharding.is_equivalent_to(wanted.sharding, got.ndim), path
  batch = jax.device_get(values[1])
  assert (batch["image"].min(), batch["image"].max()) == (0, 255)
  assert set(batch["label"]) <= set(range(7))


@pytest.mark.parametrize(
  ("key", "changes"),
  [
    ("schedule.boundaries", {"schedule.name": "plateau"}),
    ("schedule.patience", {}),
    ("schedule.warmup_epochs", {}),
    ("schedule.drops", {"schedule.name": "dexp"}),
    ("augmentation.shared_by", {"augmentation.crop": False}),
    ("start_layers", {}),
    ("start_mean_image", {}),
    ("network.exchange_dtype", {"network.exchanges": ()}),
    ("network.lrn_alpha", {"network.conv1.then": ("relu",)}),
    ("network.within_map_n", {}),
    ("network.dropout_rate", {"network.fc6.then": ("relu",)}),
    ("network.conv6.size", {}),
  ],
)
def test_a_key_without_effect_is_found(key, changes):
  config = paper.get_config()
  config.augmentation.flip = False
  for name in ("conv2", "fc7"):
    config.network[name].then = ("relu",)
  config.update_from_flattened_dict(changes)
  assert key in job.unused_keys(config)


def test_no_other_key_is_found():
  config = paper.get_config()
  config.schedule.name = "plateau"
  unused = job.unused_keys(config)
  expected = (
    r"schedule\.(boundaries|warmup_epochs)"
    r"|start_(layers|checkpoint|mean_image)"
    r"|network\.(within_map|batch_norm)_.*"
  )
  for key, _ in configs.flatten(config.to_dict()):
    if not re.fullmatch(expected, key) and "conv6" not in key:
      assert key not in unused
  assert "network.conv6.features" not in unused


def test_what_cannot_fit_in_memory_is_refused_with_the_numbers():
  mesh = sharding.make_mesh(1, 1)
  text = pathlib.Path("/proc/meminfo").read_text()
  machine = int(re.search(r"MemTotal: +(\d+)", text)[1]) * 1024
  assert sharding.memory(mesh) == pytest.approx(machine, rel=0.02)
  SMALL.check_memory(mesh)
  each = 3 * (SMALL.image_size**2 + 4 * SMALL.network.crop_size**2)
  count = 2 * machine // each
  with pytest.raises(UserError, match="smaller batch_size"):
    SMALL._replace(batch_size=count).check_memory(mesh)
  wide = dataclasses.replace(SMALL.network, width=1000)
  with pytest.raises(UserError, match="this network with its gradients"):
    SMALL._replace(network=wide).check_memory(mesh)


def test_mean_pooling_uses_the_pool_size_too():
  config = paper.get_config()
  for name in ("conv1", "conv2", "conv5"):
    config.network[name].then = ("relu", "avg_pool")
  assert "network.pool_size" not in job.unused_keys(config)
