"""What a configuration asks for: keys without effect."""

import re

import pytest

from alexnet_jax.runtime import config as configs
from alexnet_jax.training import job
from configs import paper


@pytest.mark.parametrize(
  ("key", "changes"),
  [
    ("schedule.boundaries", {"schedule.name": "plateau"}),
    ("schedule.patience", {}),
    ("schedule.warmup_epochs", {}),
    ("schedule.drops", {"schedule.name": "dexp"}),
    ("augmentation.shared_by", {"augmentation.crop": False}),
    ("start_layers", {}),
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
  expected = r"schedule\.(boundaries|warmup_epochs)|start_layers|.*within_map.*"
  for key, _ in configs.flatten(config.to_dict()):
    if not re.fullmatch(expected, key) and "conv6" not in key:
      assert key not in unused
  assert "network.conv6.features" not in unused


def test_mean_pooling_uses_the_pool_size_too():
  config = paper.get_config()
  for name in ("conv1", "conv2", "conv5"):
    config.network[name].then = ("relu", "avg_pool")
  assert "network.pool_size" not in job.unused_keys(config)
