"""Configurations: Python files with `get_config()`, overridden by flags.

`--config=configs/quickstart.py --config.batch_size=64`: ml_collections does
the work; this file makes each mistake a sentence, and says which keys a
resumed run may change. Configurations are Python, so run only those you trust.
"""

import ast
import copy
import difflib
import inspect
import json
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from alexnet_jax.runtime.command import UserError

# What a resumed run may change: how long it runs, where, and what it tells.
# Every other key would make it another run.
RESUMABLE = (
  "total_epochs",
  "total_steps",
  "mesh",
  "network.exchange_dtype",
  "data_dir",
  "log_every_steps",
  "diagnose_every_lines",
  "eval_every_epochs",
  "checkpoint_every_steps",
  "checkpoints_to_keep",
  "stall_minutes",
)

# Keys that older runs lack, with the value that means what the program did
# then. Whoever adds a key to the configurations adds it here too, so that runs
# begun before go on. The value of a new group is a dict of its keys; `*` stands
# for every group in its place (`network.*.groups`: each layer).
ADDED = {
  "network.exchange_dtype": "float32",
  "network.compute_dtype": "float32",
  "schedule.warmup_epochs": 0.0,
}

# Keys that no longer exist, with the only value that the program still honours.
# A saved configuration with another value is rejected.
REMOVED: dict[str, Any] = {}

flags.disclaim_key_flags()  # --config belongs to the command that defines it


def DEFINE_config(required: bool = True) -> flags.FlagHolder[ConfigDict]:
  """Defines `--config=FILE` and its overrides `--config.KEY=VALUE`.

  Args:
    required: whether a command line without `--config` is an error; else the
      flag's value is then None.

  Returns:
    The flag's holder; `.value` is a locked ConfigDict once flags are parsed.
    Parsing raises UserError for anything wrong with file or overrides.
  """
  holder = config_flags.DEFINE_config_file(
    "config", help_string="configuration, such as configs/quickstart.py"
  )
  flags.FLAGS["config"].parser = _FileParser(name="config")
  if required:
    flags.register_validator("config", _required)
  return holder


def path() -> str:
  """The file that `--config` names."""
  return flags.FLAGS["config"].config_filename


def load(config_path: str) -> ConfigDict:
  """Executes a configuration file.

  Args:
    config_path: a Python file that defines `get_config()`; what follows a
      colon (`configs/x.py:ARGUMENT`) is handed to `get_config`.

  Raises:
    UserError: no such file, or it fails, or it returns no ConfigDict.
  """
  name, *argument = config_path.split(":", 1)
  file = pathlib.Path(name)
  if not file.is_file():
    known = sorted(map(str, file.parent.glob("*.py"))) or _configs()
    raise UserError(
      f"no configuration {str(file)!r} (looked in {file.parent.resolve()})."
      + _nearest(str(file), known)
    )
  try:
    config = runpy.run_path(str(file))["get_config"](*argument)
  except (Exception, SystemExit) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"the configuration {config_path} fails with {type(error).__name__}:"
      f" {reason}"
    ) from None
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"get_config() of {config_path} returns {type(config).__name__}; it must"
      " return an ml_collections.ConfigDict"
    )
  config.lock()  # a misspelt key is an error, not a new key
  return config


def default_workdir(config_path: str) -> str:
  """`configs/NAME.py` -> `runs/NAME`; `configs/NAME.py:ARG` -> `runs/NAME_ARG`.

  Args:
    config_path: what `--config` says.
  """
  file, _, argument = config_path.partition(":")
  name = pathlib.Path(file).stem + (f"_{argument}" if argument else "")
  return str(pathlib.Path("runs") / name.replace("/", "_"))


def to_json(config: ConfigDict) -> dict[str, Any]:
  """The configuration in JSON's own types: tuples become lists.

  Args:
    config: the configuration; references between its keys are resolved.
  """
  return _plain(config.to_dict())


def check_overrides(unused: Mapping[str, str]) -> None:
  """Rejects keys on the command line that would have no effect.

  Args:
    unused: dotted keys that the present configuration does not use, each with
      the reason, such as "no layer is followed by 'lrn'".

  Raises:
    UserError: one of them was set with `--config.KEY=VALUE`.
  """
  if "config" not in flags.FLAGS:
    return
  flag = flags.FLAGS["config"]
  if not config_flags.is_config_flag(flag) or flag.value is None:
    return  # the command line has no --config
  for key in flag.override_values:
    if key in unused:
      raise UserError(
        f"--config.{key} would have no effect: {unused[key]}. Remove it, or"
        " change the configuration so that it is used."
      )


def call(
  function: Callable[..., Any], config: ConfigDict, group: str, **more: Any
) -> Any:
  """`function` with the keys of one group of the configuration as arguments.

  Raises:
    UserError: the group has a key that `function` does not know, or lacks one.
  """
  values = config[group].to_dict()
  try:
    inspect.signature(function).bind(**values, **more)
  except TypeError as error:
    raise UserError(
      f"the configuration's group {group!r} cannot be used: {error}. Compare it"
      f" with the same group of configs/paper.py."
    ) from None
  return function(**values, **more)


def load_saved(path: str | os.PathLike) -> dict[str, Any]:
  """Reads the `config.json` of a run, also one of an older version.

  Args:
    path: of the file.

  Returns:
    The configuration as `to_json` gives it, with the keys of this version.

  Raises:
    UserError: the file is not valid JSON, or this version of the program can
      no longer do what it asks for.
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
    return upgrade(saved)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None


def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
  """Brings a saved configuration to the keys of this version.

  A key of ADDED that is missing gets its value from there; a key of REMOVED is
  left out. Other keys stay as they are, known or not.

  Args:
    saved: `to_json` of the configuration, as any version wrote it.

  Raises:
    UserError: a key of REMOVED has a value that the program no longer honours.
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
  """Pairs (group, key in it) that a dotted key stands for; see ADDED."""
  first, *rest = names
  if not isinstance(tree, dict):
    return
  if not rest:
    yield tree, first
    return
  for name in list(tree) if first == "*" else [first]:
    yield from _places(tree.get(name), rest)


def check_resume(saved: dict[str, Any], new: dict[str, Any]) -> None:
  """Refuses to continue a run under another configuration.

  Args:
    saved: the configuration that the run began with, from `load_saved`.
    new: `to_json` of the present one.

  Raises:
    UserError: naming every key outside RESUMABLE that differs, both values.
  """
  before, after = dict(flatten(saved)), dict(flatten(new))
  changed = [
    f"{key} (was {before.get(key, 'absent')!r}, now"
    f" {after.get(key, 'absent')!r})"
    for key in sorted(before.keys() | after.keys())
    if not any(f"{key}.".startswith(f"{free}.") for free in RESUMABLE)
    and before.get(key, "absent") != after.get(key, "absent")
  ]
  if changed:
    raise UserError(
      "the workdir holds a run of another configuration; these keys differ: "
      + ", ".join(changed)
      + ". Put them back, or start a new run with another --workdir."
      + f" On resume only {', '.join(RESUMABLE)} may change."
    )


class _FileParser(config_flags.ConfigFileFlagParser):
  """Loads the configuration file and rejects overrides of unknown keys.

  ml_collections would accept a file that does not exist, and its own errors
  for unknown keys do not search other groups for the nearest one.
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
    except (ValueError, TypeError, SyntaxError):
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
      "--config is missing: say --config=configs/NAME.py (there are:"
      f" {', '.join(_configs()) or 'none below ' + str(pathlib.Path.cwd())})"
    )
  return True


def _configs() -> list[str]:
  return sorted(map(str, pathlib.Path("configs").glob("[a-z]*.py")))


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
      " keys." + _nearest(key, known)
    )


def _nearest(name: str, known: list[str]) -> str:
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
  return f" The nearest is {close[0]!r}." if close else ""


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple]:
  """Pairs (dotted key, value) of a nested dict's leaves."""
  for name, value in tree.items():
    if isinstance(value, dict) and value:
      yield from flatten(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
  if isinstance(value, dict):
    return {str(name): _plain(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  return value
