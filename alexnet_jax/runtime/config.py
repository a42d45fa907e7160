"""Configurations: files, overrides on the command line, and saved copies.

A configuration is a Python file with a function `get_config()`; ml_collections
parses `--config=configs/quickstart.py --config.batch_size=64`. This file adds
clear error messages, and the rules by which a saved configuration is read and
a run resumed. A configuration file is executed, so use only those you trust.
"""

import ast
import copy
import inspect
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from alexnet_jax.runtime import config_files, values
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.values import flatten, nearest

# Keys that may change when a run is resumed: its length, its devices, and what
# it writes. With any other key changed it would be a different run.
RESUMABLE = (
  "total_epochs",
  "total_steps",
  "early_stopping",
  "mesh",
  "network.exchange_dtype",
  "data_dir",
  "input_threads",
  "log_every_steps",
  "diagnose_every_lines",
  "eval_every_epochs",
  "checkpoint_every_steps",
  "checkpoints_to_keep",
  "stall_minutes",
  "report_at_end",
)

# Keys that were added after older runs had begun, with the value under which
# the program does what it did before. Every new key of the configurations needs
# a line here, or no older run could be resumed. For a new group the value is a
# dict; `*` stands for each group in its place (`network.*.groups`: all layers).
ADDED = {
  "input_threads": 0,
  "start_from": "",
  "start_layers": ("conv1", "conv2", "conv3", "conv4", "conv5"),
  "start_checkpoint": "newest",
  "start_mean_image": False,
  "diagnose_every_lines": 0,
  "network.exchange_dtype": "float32",
  "network.compute_dtype": "float32",
  "network.precision": "default",
  "optimizer.layer_rates": (),
  "schedule.warmup_epochs": 0.0,
  "network.batch_norm_momentum": 0.9,
  "network.batch_norm_epsilon": 1e-5,
  "pixels": {
    "rescale": "crop",
    "order": "rgb",
    "divisor": 1.0,
    "mean": (),
    "deviation": (),
  },
  "random_streams": "shared",
  "augmentation.colour": 0.0,
  "augmentation.mixing": 0.0,
  "optimizer.l1": 0.0,
  "report_at_end": False,
  "early_stopping": 0,
}

# Keys of ADDED that a resumed run keeps as it began, though the configurations
# have another value for new runs.
KEPT = ("random_streams", "network.precision")

# Keys that no longer exist, with the only value that is still supported. A
# saved configuration with another value is rejected.
REMOVED: dict[str, Any] = {}

flags.disclaim_key_flags()  # a flag belongs to the command that defines it


def DEFINE_config(required: bool = True) -> flags.FlagHolder[ConfigDict]:
  """Defines `--config=FILE` and its overrides `--config.KEY=VALUE`.

  After parsing, the holder's `.value` is a locked ConfigDict, or None if the
  flag is absent and not `required`. Parsing raises UserError if the file or an
  override is invalid, or a value is not one that its key may have.
  """
  holder = config_flags.DEFINE_config_file(
    "config",
    help_string="configuration: a file, or a shipped one's name, as paper",
  )
  flags.FLAGS["config"].parser = _FileParser(name="config")
  flags.register_validator("config", _required if required else _check_values)
  return holder


def path() -> str:
  """The value of `--config` on the command line."""
  return flags.FLAGS["config"].config_filename


def load(config_path: str) -> ConfigDict:
  """Executes a configuration file and returns its locked ConfigDict.

  `config_path` is a file, or the name of a shipped configuration, as `paper`.
  Text after a colon (`configs/x.py:ARGUMENT`) is an argument of `get_config`.

  Raises:
    UserError: the file does not exist or fails, or `get_config` does not return
      a ConfigDict.
  """
  name, *argument = config_path.split(":", 1)
  file = config_files.find(name)
  if file is None:
    folder = pathlib.Path(name).parent
    known = sorted(map(str, folder.glob("*.py")))
    raise UserError(
      f"configuration {name!r} not found in {folder.resolve()}."
      + nearest(name, [*known, *config_files.names()])
    )
  try:
    config = config_files.run(file, *argument)
  except (Exception, SystemExit) as error:
    package, _, missing = (getattr(error, "name", "") or "").partition(".")
    if isinstance(error, ModuleNotFoundError) and package == "configs":
      raise UserError(
        f"the configuration {config_path} needs the configuration {missing!r},"
        " which was not found." + nearest(missing, config_files.names())
      ) from None
    reason = " ".join(str(error).split())
    raise UserError(
      f"the configuration {config_path} raised {type(error).__name__}: {reason}"
    ) from None
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"get_config() of {config_path} must return an ml_collections.ConfigDict"
      f" (got {type(config).__name__})"
    )
  config.lock()  # a misspelt key raises instead of creating a new one
  return config


def default_workdir(config_path: str) -> str:
  """`configs/NAME.py` -> `runs/NAME`; `configs/NAME.py:A` -> `runs/NAME_A`."""
  file, _, argument = config_path.partition(":")
  name = pathlib.Path(file).stem + (f"_{argument}" if argument else "")
  return str(pathlib.Path("runs") / name.replace("/", "_"))


def to_json(config: ConfigDict) -> dict[str, Any]:
  """The configuration in JSON's types: lists for tuples, no references."""
  return _plain(config.to_dict())


def check_overrides(unused: Mapping[str, str]) -> None:
  """Raises UserError if a key was set on the command line that has no effect.

  Args:
    unused: dotted keys that the present configuration does not use, each with
      the reason, such as "no layer is followed by 'lrn'".
  """
  for key in _overrides():
    if key in unused:
      raise UserError(
        f"--config.{key} would have no effect: {unused[key]}. Remove it, or"
        " change the configuration so that it is used."
      )


def _overrides() -> list[str]:
  """The dotted keys that are set on the command line."""
  if "config" not in flags.FLAGS:
    return []
  flag = flags.FLAGS["config"]
  if not config_flags.is_config_flag(flag) or flag.value is None:
    return []  # the command line has no --config
  return list(flag.override_values)


def call(
  function: Callable[..., Any],
  config: ConfigDict | Mapping[str, Any],
  group: str,
  **more: Any,
) -> Any:
  """Calls `function` with the keys of `config[group]`, and `more`, by name.

  Raises:
    UserError: the group has a key that is not a parameter of `function`, or
      lacks one.
  """
  own = dict(config[group])
  try:
    inspect.signature(function).bind(**own, **more)
  except TypeError as error:
    raise UserError(
      f"invalid configuration group {group!r}: {error}; configs/paper.py lists"
      " the valid keys."
    ) from None
  return function(**own, **more)


def load_saved(path: str | os.PathLike) -> dict[str, Any]:
  """The `config.json` of a run of any version, with the keys of this version.

  Raises:
    UserError: the file is not valid JSON, lacks a key, or has a value that is
      not valid or no longer supported.
  """
  try:
    saved = json.loads(pathlib.Path(path).read_text())
  except ValueError:
    saved = None
  if not isinstance(saved, dict):
    raise UserError(
      f"{path} is not valid JSON. Restore it (the metadata of each checkpoint"
      " contains a copy), or choose another --workdir."
    )
  try:
    saved = upgrade(saved)
    values.check(saved)
  except UserError as error:
    raise UserError(
      f"{path} cannot be used: {error} If the file was edited or damaged,"
      " restore it (the metadata of each checkpoint contains a copy)."
    ) from None
  return saved


def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
  """A saved configuration with the keys of this version.

  Missing keys of ADDED are filled in and keys of REMOVED are dropped. All other
  keys are kept, also unknown ones. `saved` is not modified.

  Raises:
    UserError: a key of REMOVED has a value that is no longer supported.
  """
  saved = copy.deepcopy(saved)
  for key, value in ADDED.items():
    for group, name in _places(saved, key.split(".")):
      group.setdefault(name, _plain(value))
  for key, value in REMOVED.items():
    for group, name in _places(saved, key.split(".")):
      was = group.pop(name, _plain(value))
      if was != _plain(value):
        raise UserError(
          f"{key}={was!r} is no longer supported (only {value!r} is). Use the"
          " version of the program that began this run."
        )
  return saved


def _places(tree: Any, names: list[str]) -> Iterator[tuple[dict, str]]:
  """Pairs (group, key in it) for a dotted key, which may contain `*`."""
  first, *rest = names
  if not isinstance(tree, dict):
    return
  if not rest:
    yield tree, first
    return
  for name in list(tree) if first == "*" else [first]:
    yield from _places(tree.get(name), rest)


def with_kept_values(config: ConfigDict, saved: dict[str, Any]) -> ConfigDict:
  """`config` with the values of `saved` for KEPT; a locked copy.

  A value on the command line stays, and is compared like any other key.
  """
  config = ConfigDict(config)
  before, given = dict(flatten(saved)), _overrides()
  config.update_from_flattened_dict(
    {key: before[key] for key in KEPT if key in before and key not in given}
  )
  return config.lock()


def check_resume(saved: dict[str, Any], new: dict[str, Any]) -> None:
  """Checks that a run begun with `saved` can be resumed with `new`.

  Raises:
    UserError: keys outside RESUMABLE differ; names each with both values.
  """
  changed = [
    f"{key} (was {was}, now {now})"
    for key, (was, now) in differences(saved, new).items()
  ]
  if changed:
    raise UserError(
      "the workdir contains a run with another configuration; these keys"
      f" differ: {', '.join(changed)}. Use the values of that run, or start a"
      " new run with another --workdir. Only these keys may change when a run"
      f" is resumed: {', '.join(RESUMABLE)}."
    )


def differences(
  saved: dict[str, Any], new: dict[str, Any]
) -> dict[str, tuple[str, str]]:
  """The keys outside RESUMABLE that differ, with both values as text."""
  before, after = dict(flatten(saved)), dict(flatten(new))

  def show(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"

  return {
    key: (show(before, key), show(after, key))
    for key in sorted(before.keys() | after.keys())
    if not any(f"{key}.".startswith(f"{free}.") for free in RESUMABLE)
    and before.get(key, ...) != after.get(key, ...)
  }


class _FileParser(config_flags.ConfigFileFlagParser):
  """Loads the configuration file and rejects overrides of unknown keys.

  ml_collections accepts a file that does not exist, and for an unknown key it
  suggests only keys of the same group.
  """

  def parse(self, path: str) -> ConfigDict:
    config = load(path)
    known = [key for key, _ in flatten(config.to_dict())]
    for word in sys.argv[1:]:
      if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
        _check_exists(match[1], known, path)
    return config


class _ValueParser(flags.ArgumentParser):
  """Converts the value of an override; errors name the expected type."""

  def __init__(self, expected: str, convert: Callable[[Any], Any]):
    self._expected, self._convert = expected, convert

  def parse(self, argument: Any) -> Any:
    try:
      return self._convert(argument)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
      # The last two from thousands of nested parentheses.
      raise ValueError(f"expects {self._expected}") from None


def _to_tuple(argument: Any) -> tuple:
  value = ast.literal_eval(argument) if isinstance(argument, str) else argument
  if not isinstance(value, tuple):
    raise TypeError(argument)
  return value


for _type, _expected, _convert in (
  (bool, "true or false", flags.BooleanParser().parse),
  (int, "an integer", flags.IntegerParser().parse),
  (float, "a number", flags.FloatParser().parse),
  (tuple, "a tuple such as '(1, 2)'", _to_tuple),
):
  config_flags.register_flag_parser_for_type(
    _type, _ValueParser(_expected, _convert)
  )


def _required(config: ConfigDict | None) -> bool:
  if config is None:
    raise UserError(
      "--config is missing; pass --config=configs/NAME.py, a file of yours or"
      f" one of those that are shipped: {', '.join(config_files.names())}."
    )
  return _check_values(config)


def _check_values(config: ConfigDict | None) -> bool:
  if config is not None:
    values.check(config.to_dict())
  return True


def _check_exists(key: str, known: list[str], config_path: str) -> None:
  """Raises UserError unless `key` is one of the `known` keys."""
  members = [name for name in known if name.startswith(f"{key}.")]
  if members:
    raise UserError(
      f"--config.{key} is a group of keys; set one of them:"
      f" --config.{' --config.'.join(members)}"
    )
  if key not in known:
    raise UserError(
      f"unknown configuration key {key!r}; {config_path} defines the valid"
      " keys." + nearest(key, known)
    )


def _plain(value: Any) -> Any:
  if isinstance(value, dict):
    return {str(name): _plain(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  return value
