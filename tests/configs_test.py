"""Every configuration builds and takes one training step, at a small width."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.model import network, sharding
from alexnet_jax.runtime import config
from alexnet_jax.training import step
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.schedule import make_schedule

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
BATCH_SIZE = 2


@pytest.fixture(autouse=True)
def quick_compilation():
  """What is compiled here runs once."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def load(name):
  return config.load(str(ROOT / "configs" / f"{name}.py"))


@pytest.mark.parametrize("name", NAMES)
def test_one_training_step(name):
  values = load(name)
  total = max(
    layer.features for layer in values.network.values() if "then" in dir(layer)
  )
  values.network.width *= 4 / max(total**0.5, 4)
  if values.network.conv2.groups > 1:
    values.network.width = 2 / 8
  values.augmentation.shared_by = min(values.augmentation.shared_by, BATCH_SIZE)
  net = network.from_dict(values.network.to_dict(), values.num_classes)
  mesh = sharding.make_mesh(1, 1, towers=net.towers)
  augmentation = Augmentation(**values.augmentation)
  augmentation.check(BATCH_SIZE, values.image_size, net.crop_size)
  schedule = make_schedule(**values.schedule, total_epochs=values.total_epochs)
  optimizer = momentum_sgd(**values.optimizer)
  state = step.init_state(net, optimizer, 0, mesh)
  size = values.image_size
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.integers(0, 256, (BATCH_SIZE, size, size, 3), np.uint8),
    "label": np.arange(BATCH_SIZE, dtype=np.int32),
    "index": np.arange(BATCH_SIZE, dtype=np.int32),
    "epoch": np.zeros(BATCH_SIZE, np.int32),
    "weight": np.ones(BATCH_SIZE, np.float32),
  }
  side = net.crop_size if values.centre_mean else size
  statistics = ImageStatistics(
    jnp.full((side, side, 3), 127.0), 50 * jnp.eye(3)
  )
  place = sharding.place
  after, metrics = step.make_train_step(net, augmentation, optimizer, mesh)(
    state,
    place(batch, sharding.BATCH, mesh),
    place(statistics, sharding.REPLICATED, mesh),
    place(jax.random.key(0), sharding.REPLICATED, mesh),
    schedule.rates(1),  # at 0 a warm-up has a rate of 0
  )
  # Untrained, it knows nothing: near ln(classes), if not far above it.
  assert 0.7 < float(metrics["loss"]) / np.log(values.num_classes) < 3
  assert int(after.step) == 1
  stuck = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree.leaves_with_path(after.optimizer_state)
    if not np.any(leaf)
  ]
  assert not stuck


def keys_of(values):
  return {key for key, _ in config.flatten(values.to_dict())}


def test_every_configuration_has_the_same_keys():
  expected = keys_of(load("paper"))
  for name in NAMES:
    assert keys_of(load(name)) == expected, name
