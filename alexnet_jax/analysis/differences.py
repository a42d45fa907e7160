"""Differences between the configurations of runs, by key."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_jax.runtime import config as configs

_ABSENT = "\0absent"  # no configuration has this value
# Keys that say where and how a run is trained, and not what is trained.
_PLACE = tuple(key for key in configs.RESUMABLE if "total" not in key)


def differing_keys(
  compared: Sequence[Mapping[str, Any]],
) -> dict[str, list[str]]:
  """The values, as JSON or "absent", of each key that is not equal in all.

  Args:
    compared: configurations, as in config.json.

  Returns:
    By key, in the order of the first configuration, a value for each one; of
    a float six digits.
  """
  flat = [dict(configs.flatten(config)) for config in compared]
  found = {}
  for key in dict.fromkeys([*flat[0], *sorted(set().union(*flat))]):
    values = [config.get(key, _ABSENT) for config in flat]
    if len({json.dumps(value) for value in values}) > 1:
      found[key] = ["absent" if v == _ABSENT else _text(v) for v in values]
  return found


def _text(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:.6g}"
  if isinstance(value, list | tuple):
    return f"[{', '.join(map(_text, value))}]"
  return json.dumps(value)


def in_short(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
  """What another configuration has instead, such as "seed 1, width 0.5"."""
  keys = [
    f"{key.removeprefix('network.')} {values[1]}"
    for key, values in differing_keys([own, other]).items()
    if not key.startswith(_PLACE)
  ]
  if not keys:
    return "same configuration"
  more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
  return ", ".join(keys[:3]) + more
