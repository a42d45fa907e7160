"""The table of valid values, against values chosen by hand."""

import pytest

from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import config_files, values
from alexnet_jax.runtime.command import UserError
from configs import paper


def changed(key, value):
  """The paper's configuration with another value, as in config.json."""
  tree = configs.to_json(paper.get_config())
  *groups, name = key.split(".")
  group = tree
  for part in groups:
    group = group[part]
  group[name] = value
  return tree


def test_every_key_has_a_rule_and_every_shipped_value_is_valid():
  for name in config_files.names():
    config = configs.load(name).to_dict()
    assert {key for key, _ in values.flatten(config)} == values.RULES.keys()
    values.check(config)


@pytest.mark.parametrize(
  ("key", "bad", "good"),
  [
    ("seed", [-1, 1.0, "1", True, None, 2**63, 10**5000], [0, 20261126120000]),
    ("batch_size", [0, -8, 2.5], [1]),
    ("total_epochs", [0, -1, float("nan"), float("inf")], [1, 0.5]),
    ("total_steps", [-5, 2**31], [0, 5]),
    ("dataset", ["", " ", "a\0b", 3], ["mnist"]),
    ("eval_every_epochs", [-1, float("nan"), True], [0, 0.5, 2]),
    ("pixels.mean", [[1, 2], [1, 2, "3"], 3], [[], [1, 2, 3]]),
    ("pixels.divisor", [0, 1e-300, -1], [255]),
    ("network.width", [0, float("inf"), -1], [0.5]),
    ("network.channels", [2, True, 1.0], [1, 3]),
    ("network.conv1.features", [-3, 1.5, None], [0, 3]),
    ("network.conv1.padding", [[1], [0, -1], [0, 1.0], 1], [[0, 3]]),
    ("network.conv1.bias", ["", float("nan")], [None, -1, 0.5]),
    ("network.conv1.then", ["relu", [["relu"]], [1]], [[], ["relu"]]),
    ("network.dropout_rate", [1, -0.1], [0, 0.99]),
    ("network.lrn_k", [0, -1], [2]),
    (
      "optimizer.layer_weight_decay",
      [[["fc8", "1.0"]], ["fc8", 1.0], [["fc8", -1]], [["fc8"]], 1],
      [[], [["fc8", 1]]],
    ),
    ("schedule.boundaries", [["a"], [-1], [float("nan")]], [[], [1, 2.5]]),
    ("mesh.data", [-1, 0.5], [0, 8]),
    ("stall_minutes", [-1, float("inf")], [0, 0.5]),
  ],
)
def test_values_are_accepted_or_named(key, bad, good):
  for value in good:
    values.check(changed(key, value))
  for value in bad:
    with pytest.raises(UserError, match=rf"^{key} must be .* \(got "):
      values.check(changed(key, value))


def test_a_group_is_checked_alone():
  tree = configs.to_json(paper.get_config())["pixels"]
  values.check(tree, "pixels")
  with pytest.raises(UserError, match=r"pixels\.order must be .*got 3"):
    values.check(tree | {"order": 3}, "pixels")
  with pytest.raises(UserError, match=r"'pixels\.ordre'.*'pixels\.order'"):
    values.check(tree | {"ordre": "rgb"}, "pixels")
  del tree["order"]
  with pytest.raises(UserError, match=r"lacks the key 'pixels\.order'"):
    values.check(tree, "pixels")


def test_a_long_value_is_cut_in_messages():
  with pytest.raises(UserError) as error:
    values.check(changed("seed", "x" * 10**6))
  assert len(str(error.value)) < 250
