"""Every configuration: its keys, its training step, and one step done."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data.augment import ImageStatistics
from alexnet_jax.model import alexnet, sharding
from alexnet_jax.runtime import config
from alexnet_jax.training import job
from alexnet_jax.training.schedule import make_schedule

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
BATCH_SIZE = 2
# These train a step in the fast tests: two towers; LRN before ReLU, a frozen
# layer and the source's schedule; local layers; batch normalisation.
FAST = ("paper", "original2012", "cifar_13pct")
# The network and the initial weights of the paper, with other rates or data.
SAME_AS_PAPER = ("cosine", "finetune", "no_lighting")


@pytest.fixture(autouse=True)
def quick_compilation():
  """Each program runs once, so compiling takes the time."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def load(name):
  return config.load(str(ROOT / "configs" / f"{name}.py"))


@pytest.mark.parametrize("name", NAMES)
def test_the_training_step_can_be_traced_at_full_width(name):
  """No value is computed: shapes, dtypes and keys fit each other."""
  values = load(name)
  recipe = job.make_recipe(values)
  mesh = sharding.make_mesh(1, 1, towers=recipe.network.towers)
  recipe.augmentation.check(
    recipe.batch_size, recipe.image_size, recipe.network.crop_size
  )
  state, *arguments = recipe.abstract_arguments(mesh)
  after, metrics = jax.eval_shape(recipe.train_step(mesh), state, *arguments)
  assert metrics["loss"].shape == ()
  assert jax.tree.structure(after) == jax.tree.structure(state)
  for new, old in zip(*map(jax.tree.leaves, (after, state)), strict=True):
    assert (new.shape, new.dtype) == (old.shape, old.dtype)


def train_one_step(values):
  """One step of a configuration on random images: (state, loss)."""
  values.batch_size = BATCH_SIZE
  values.augmentation.shared_by = min(values.augmentation.shared_by, BATCH_SIZE)
  recipe = job.make_recipe(values)
  mesh = sharding.make_mesh(1, 1, towers=recipe.network.towers)
  schedule = make_schedule(**values.schedule, total_epochs=values.total_epochs)
  state, batch, statistics, key, _ = recipe.random_arguments(mesh)
  if values.centre_mean:
    side = recipe.network.crop_size
    statistics = sharding.place(
      ImageStatistics(jnp.full((side, side, 3), 127.0), 50 * jnp.eye(3)),
      sharding.REPLICATED,
      mesh,
    )
  rates = schedule.rates(values.schedule.warmup_epochs)  # it begins at 0
  state, metrics = recipe.train_step(mesh)(state, batch, statistics, key, rates)
  return state, float(metrics["loss"])


def check_step(state, loss, num_classes):
  # The loss before training is about ln(classes).
  assert 0.7 < loss / np.log(num_classes) < 3
  assert int(state.step) == 1
  unchanged = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree.leaves_with_path(state.optimizer_state)
    if not np.any(leaf)
  ]
  averages = {
    jax.tree_util.keystr(path)
    for path, _ in jax.tree.leaves_with_path(
      alexnet.running_averages(state.net)
    )
  }
  assert len(unchanged) == len(averages), unchanged


@pytest.mark.parametrize("name", SAME_AS_PAPER)
def test_its_network_is_the_papers(name):
  assert load(name).network == load("paper").network
  assert load(name).num_classes == load("paper").num_classes


@pytest.mark.parametrize(
  "name",
  [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in NAMES
    if name not in SAME_AS_PAPER
  ],
)
def test_one_training_step(name):
  """At a small width, which keeps the layers and their order."""
  values = load(name)
  features = max(
    layer.features for layer in values.network.values() if "then" in dir(layer)
  )
  values.network.width *= 4 / max(features**0.5, 4)
  if values.network.conv2.groups > 1:
    values.network.width = 2 / 8
  check_step(*train_one_step(values), values.num_classes)


@pytest.mark.slow
def test_one_training_step_of_the_paper_at_full_width():
  values = load("paper")
  check_step(*train_one_step(values), values.num_classes)


def keys_of(values):
  return {key for key, _ in config.flatten(values.to_dict())}


def test_every_configuration_has_the_same_keys():
  expected = keys_of(load("paper"))
  for name in NAMES:
    assert keys_of(load(name)) == expected, name
