"""No two things that are random in a run draw from the same key."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data import sources
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import LAYERS, Network
from alexnet_jax.training import streams
from alexnet_jax.training.job import Recipe

SEED = 7
TOWERS, EPOCHS, EXAMPLES = 2, 9, 9
NETWORK = Network(width=1 / 32, num_classes=7, crop_size=64)
RECIPE = Recipe(NETWORK, 4, 72, Augmentation(colour=0.2, shared_by=2))


def weight_keys():
  """By tower and layer, the keys of the initial weights."""
  root = jax.random.key(SEED)
  return {
    ("weights", tower, name): jax.random.key_data(key)
    for tower in range(TOWERS)
    for name, key in zip(
      LAYERS,
      jax.random.split(jax.random.fold_in(root, tower), len(LAYERS)),
      strict=True,
    )
  }


def example_keys(kind):
  """By purpose, epoch and example, all keys of a training step.

  Those that are split as well: a key's children are its own random bits.
  """
  fold_in, split = jax.random.fold_in, jax.random.split

  def of_example(epoch, index):
    made = streams.make_streams(kind, SEED)
    (augmentation,), (dropout,) = made.example_keys(epoch[None], index[None])
    found = {"augmentation": augmentation, "dropout": dropout}
    if kind == "shared":
      found["example"] = fold_in(fold_in(jax.random.key(SEED), epoch), index)
    found["crop"], found["flip"], found["light"] = split(augmentation, 3)
    found["colour"] = fold_in(augmentation, 3)
    for tower in range(TOWERS):
      for name in ("fc6", "fc7"):
        key = fold_in(fold_in(dropout, tower), LAYERS.index(name))
        found[f"units of {name}, tower {tower}"] = key
    return found

  epoch, index = np.divmod(np.arange(EPOCHS * EXAMPLES, dtype=np.int32), 9)
  found = jax.jit(jax.vmap(of_example))(epoch, index)
  return {
    (purpose, int(e), int(i)): key
    for purpose, keys in found.items()
    for e, i, key in zip(epoch, index, jax.random.key_data(keys), strict=True)
  }


def same_bits(keys):
  """Groups of names whose keys are equal."""
  groups = {}
  for name, key in keys.items():
    bits = np.asarray(key).tobytes()
    groups.setdefault(bits, []).append(name)
  return [names for names in groups.values() if len(names) > 1]


def test_every_purpose_has_keys_of_its_own():
  assert same_bits(weight_keys() | example_keys("separate")) == []


def test_the_one_key_of_older_runs_served_weights_and_examples():
  """The fault, which such runs keep; it shows that the test above sees it."""
  equal = same_bits(weight_keys() | example_keys("shared"))
  assert [("weights", 1, "conv4"), ("example", 1, 3)] in equal


def test_weights_are_drawn_from_the_seed_itself():
  """As before there were streams, and as `AlexNet(network, key)` draws them."""
  init = jax.jit(lambda key: AlexNet(NETWORK, key).towers.conv4.kernel[...])
  kernel = init(streams.root_key(SEED))
  for tower in range(TOWERS):
    key = jax.random.wrap_key_data(weight_keys()["weights", tower, "conv4"])
    expected = NETWORK.conv4.std * jax.random.normal(key, kernel[0].shape)
    np.testing.assert_allclose(kernel[tower], expected, rtol=1e-6)


def test_held_out_images_are_not_the_first_of_epoch_0():
  first = sources.permutation(1000, SEED, 0)
  shared = streams.hold_out_seeds("shared", SEED)
  separate = streams.hold_out_seeds("separate", SEED)
  assert (sources.permutation(1000, *shared) == first).all()
  order = sources.permutation(1000, *separate)
  assert abs(np.corrcoef(order, first)[0, 1]) < 0.15  # 4.7 standard deviations
  for epoch in range(100):
    assert (order != sources.permutation(1000, SEED, epoch)).any()


def programs():
  """The training step and the initial weights as text, not compiled."""
  mesh = sharding.make_mesh(1, 2)
  train_step = RECIPE.train_step(mesh).trace(*RECIPE.abstract_arguments(mesh))
  init = jax.jit(lambda key: AlexNet(NETWORK, key)).trace(jax.random.key(0))
  return f"{train_step.jaxpr} {init.jaxpr}"


def test_no_type_follows_the_process():
  """In 64 bits, the same draws and no array of 64 bits; only constants are."""
  ours = programs()
  with jax.enable_x64(True):
    assert jnp.zeros(1).dtype == np.float64
    theirs = programs()
  assert re.findall(r"\w+64\[\d.*", theirs) == []
  draws = [re.findall(r"random_bits\[.*?\]", text) for text in (ours, theirs)]
  assert draws[0] == draws[1]
  assert len(draws[0]) > 10


def trained():
  """Weights after two steps, as bytes."""
  mesh = sharding.make_mesh(1, 2)
  state, *rest = RECIPE.random_arguments(mesh)
  train_step = RECIPE.train_step(mesh)
  for _ in range(2):
    state, _ = train_step(state, *rest)
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.mark.slow
def test_training_in_a_process_of_64_bits_is_the_same_bit_for_bit():
  ours = trained()
  with jax.enable_x64(True), jax.default_prng_impl("rbg"):
    assert trained() == ours


@pytest.mark.slow
def test_jax_finds_no_key_that_is_used_twice():
  mesh = sharding.make_mesh(1, 2)
  state, *rest = RECIPE.random_arguments(mesh)
  with jax.debug_key_reuse(True):
    train_step = RECIPE.train_step(mesh)
    for _ in range(2):
      state, metrics = train_step(state, *rest)
  assert np.isfinite(float(metrics["loss"]))
