"""Values: which ones each key of a configuration may have, in one table.

What is checked here needs no other key. The parts that use the values check
the rest, such as names of layers and sizes that have to fit each other.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from alexnet_jax.runtime.command import UserError

MAX_INTEGER = 2**31 - 1  # of int32, in which steps and indices are counted
MAX_SIDE = 4096  # pixels
MAX_NUMBER = 1e30  # so that squares and sums stay finite in float32
MIN_POSITIVE = 1e-30  # so that a quotient of 1 stays finite in float32

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7")


class Rule(NamedTuple):
  """The valid values of a key."""

  expected: str  # completes "must be ..."
  accepts: Callable[[Any], bool]


def integer(low: int = 0, high: int = MAX_INTEGER) -> Rule:
  """An integer from `low` to `high`; True and False are none."""
  return Rule(
    f"an integer from {low} to {high}",
    lambda x: type(x) is int and low <= x <= high,
  )


def number(
  low: float = 0.0, high: float = MAX_NUMBER, *, below: bool = False
) -> Rule:
  """A number from `low` to `high`, or `below` that; NaN is none."""
  return Rule(
    f"a number from {low:g} to {'below ' * below}{high:g}",
    lambda x: (
      isinstance(x, int | float)
      and not isinstance(x, bool)
      and low <= x <= high
      and not (below and x == high)
    ),
  )


def tuple_of(item: Rule, of: str, *lengths: int) -> Rule:
  """A tuple of valid items (or a list, as JSON has it) of one of `lengths`.

  `of` says in the plural what the items are.
  """
  counts = " or ".join(map(str, lengths))
  return Rule(
    f"a tuple of {counts + ' ' if counts else ''}{of}",
    lambda x: (
      isinstance(x, list | tuple)
      and len(x) in (lengths or (len(x),))
      and all(map(item.accepts, x))
    ),
  )


BOOLEAN = Rule("true or false", lambda x: isinstance(x, bool))
# A file name cannot hold the character 0.
TEXT = Rule(
  "a string without the character 0",
  lambda x: isinstance(x, str) and "\0" not in x,
)
NAME = Rule(
  "a string that is not empty",
  lambda x: TEXT.accepts(x) and bool(x.strip()),
)
POSITIVE = number(MIN_POSITIVE)
SHARE = number(0, 1, below=True)
NAMES = tuple_of(NAME, "names")
_BIAS = number(-MAX_NUMBER)
_FACTOR = number()
_PAIR = Rule(
  "",
  lambda x: (
    isinstance(x, list | tuple)
    and len(x) == 2
    and NAME.accepts(x[0])
    and _FACTOR.accepts(x[1])
  ),
)
PAIRS = tuple_of(
  _PAIR, "pairs of a layer and a number from 0 up, such as (('fc8', 1.0),)"
)

_LAYER = {
  "features": integer(0, 2**20),
  "size": integer(0, MAX_SIDE),
  "stride": integer(1, MAX_SIDE),
  "padding": tuple_of(integer(0, MAX_SIDE), "integers from 0 up", 2),
  "groups": integer(1),
  "local": BOOLEAN,
  "std": number(),
  "bias": Rule(
    f"{_BIAS.expected}, or None for a layer without a bias",
    lambda x: x is None or _BIAS.accepts(x),
  ),
  "then": NAMES,
}

RULES: dict[str, Rule] = {
  # JAX's keys use the lower 32 bits of a seed, the order of images all of it.
  "seed": integer(0, 2**63 - 1),
  "random_streams": Rule(
    "'separate', or 'shared' to draw as runs begun before this key",
    lambda x: x in ("separate", "shared"),
  ),
  "batch_size": integer(1),
  "total_epochs": number(1e-6, 1e9),
  "total_steps": integer(),
  "dataset": Rule(
    "a name of at most 255 characters",
    lambda x: NAME.accepts(x) and len(x.encode(errors="replace")) <= 255,
  ),
  "data_dir": TEXT,
  "splits.train": NAME,
  "splits.validation": NAME,
  "splits.test": NAME,
  "num_classes": integer(1, 2**24),
  "holdout": integer(),
  "max_undecodable": integer(),
  "input_threads": integer(),
  "start_from": TEXT,
  "start_layers": NAMES,
  "start_checkpoint": NAME,
  "start_mean_image": BOOLEAN,
  "image_size": integer(1, MAX_SIDE),
  "centre_mean": BOOLEAN,
  "pixels.rescale": NAME,
  "pixels.order": NAME,
  "pixels.divisor": POSITIVE,
  "pixels.mean": tuple_of(number(-MAX_NUMBER), "numbers", 0, 3),
  "pixels.deviation": tuple_of(POSITIVE, "numbers above 0", 0, 3),
  "augmentation.crop": BOOLEAN,
  "augmentation.flip": BOOLEAN,
  "augmentation.shared_by": integer(1),
  "augmentation.lighting": number(),
  "augmentation.lighting_divisor": POSITIVE,
  "augmentation.lighting_until": number(),
  "augmentation.colour": number(0, 1),
  "augmentation.mixing": number(0, 1),
  "network.towers": integer(1, 1024),
  "network.width": number(MIN_POSITIVE, 1000),
  "network.crop_size": integer(1, MAX_SIDE),
  "network.channels": Rule(
    "3 (RGB) or 1 (grey)", lambda x: type(x) is int and x in (1, 3)
  ),
  "network.exchanges": NAMES,
  "network.exchange_dtype": NAME,
  "network.compute_dtype": NAME,
  "network.precision": NAME,
  **{f"network.{n}.{key}": _LAYER[key] for n in LAYERS for key in _LAYER},
  "network.fc8_std": number(),
  "network.lrn_k": POSITIVE,  # or the response to an empty image is 0 / 0
  "network.lrn_n": integer(1),
  "network.lrn_alpha": number(),
  "network.lrn_beta": number(),
  "network.within_map_k": POSITIVE,
  "network.within_map_n": integer(1),
  "network.within_map_alpha": number(),
  "network.within_map_beta": number(),
  "network.pool_size": integer(1, MAX_SIDE),
  "network.pool_stride": integer(1, MAX_SIDE),
  "network.pool_overhang": BOOLEAN,
  "network.dropout_rate": SHARE,
  "network.dropout_inverted": BOOLEAN,
  "network.batch_norm_momentum": SHARE,
  "network.batch_norm_epsilon": POSITIVE,
  "optimizer.momentum": number(0, 1),
  "optimizer.weight_decay": number(),
  "optimizer.l1": number(),
  "optimizer.layer_weight_decay": PAIRS,
  "optimizer.layer_rates": PAIRS,
  "optimizer.decay_biases": BOOLEAN,
  "schedule.name": NAME,
  "schedule.learning_rate": number(),
  "schedule.bias_learning_rate": number(),
  "schedule.bias_drops": NAME,
  "schedule.conv1_frozen_from": number(),
  "schedule.boundaries": tuple_of(number(), "numbers from 0 up"),
  "schedule.patience": integer(1),
  "schedule.drops": integer(0, 30),  # each divides the rate by 10
  "schedule.warmup_epochs": number(),
  "mesh.data": integer(0, 2**20),
  "mesh.model": integer(0, 2**20),
  "log_every_steps": integer(),
  "diagnose_every_lines": integer(),
  "eval_every_epochs": number(),
  "early_stopping": integer(),
  "checkpoint_every_steps": integer(),
  "checkpoints_to_keep": integer(1),
  "stall_minutes": number(0, 1e6),
  "report_at_end": BOOLEAN,
}


def check(values: Mapping[str, Any], group: str = "") -> None:
  """Checks the values of a configuration, each against its rule.

  Args:
    values: nested dictionaries, as `ConfigDict.to_dict` or config.json.
    group: the dotted name of the group that `values` is, such as "network"; "":
      a whole configuration.

  Raises:
    UserError: a value is not valid, or a key is unknown or missing.
  """
  prefix = group and f"{group}."
  known = [key for key in RULES if key.startswith(prefix)]
  found = {f"{prefix}{key}": value for key, value in flatten(values)}
  for key, value in found.items():
    if key in RULES:
      if not RULES[key].accepts(value):
        raise UserError(
          f"{key} must be {RULES[key].expected} (got {shown(value)})."
        )
    elif any(other.startswith(f"{key}.") for other in known):
      raise UserError(f"{key} must be a group of keys (got {shown(value)}).")
    else:
      raise UserError(
        f"unknown configuration key {key!r}; configs/paper.py lists the valid"
        f" keys.{nearest(key, known)}"
      )
  if missing := [key for key in known if key not in found]:
    raise UserError(
      f"the configuration lacks the key {missing[0]!r}; configs/paper.py has"
      " every key with its default value."
    )


def flatten(
  tree: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Pairs (dotted key, value) of the leaves of nested dictionaries."""
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      yield from flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def nearest(name: str, known: list[str]) -> str:
  """A sentence with the most similar of the `known` names; "" if none is."""
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
  return f" The nearest is {close[0]!r}." if close else ""


def shown(value: Any, length: int = 80) -> str:
  """`repr(value)`, cut to a `length`, also of integers that are too long."""
  try:
    text = repr(value)
  except ValueError:  # Python writes no integers of more than 4,300 digits
    return f"{type(value).__name__} of more than 4,300 digits"
  return text if len(text) <= length else f"{text[:length]}..."
