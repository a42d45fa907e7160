"""The configuration of a run: config.json, and the copy in each checkpoint.

The copy is what the run was trained with. If config.json is lost or edited, the
copy decides.
"""

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.training import checkpoint_files

FILE_NAME = "config.json"


def load_config(workdir: str) -> dict[str, Any]:
  """The configuration of a run.

  If config.json is missing or is not valid JSON, it is the copy in the newest
  checkpoint, with a warning.

  Raises:
    UserError: `workdir` holds no run, or one that this version cannot read; or
      config.json is not what the newest checkpoint was trained with.
  """
  path, copy = pathlib.Path(workdir, FILE_NAME), _newest_copy(workdir)
  if copy is None:
    if not path.is_file():
      raise UserError(
        f"{workdir} is not the directory of a run: it has no config.json. Give"
        " the workdir of a training (default runs/NAME for configs/NAME.py)."
      )
    return configs.load_saved(path)
  step, trained = copy
  config, problem = _read(path)
  if config is None:
    _warn(f"{path} {problem}; the copy in checkpoint {step} is used")
    return trained
  if changed := configs.differences(trained, config):
    raise UserError(
      f"{path} is not the configuration of checkpoint {step}: {_list(changed)}."
      " Undo the change, or remove the file to use the copy in the checkpoint."
    )
  return config


def with_kept_values(workdir: str, config: ConfigDict) -> ConfigDict:
  """`config` with the values that the run in `workdir`, if any, keeps."""
  path, copy = pathlib.Path(workdir, FILE_NAME), _newest_copy(workdir)
  if copy is not None:
    return configs.with_kept_values(config, copy[1])
  if not path.exists():
    return config
  return configs.with_kept_values(config, configs.load_saved(path))


def check_config(workdir: str, config: dict[str, Any]) -> None:
  """Raises UserError if the run in `workdir` has another configuration.

  A config.json that is missing or edited is reported; the checkpoint decides.

  Args:
    workdir: may not exist yet.
    config: the present configuration, as in config.json.
  """
  path, copy = pathlib.Path(workdir, FILE_NAME), _newest_copy(workdir)
  if copy is None:
    if path.exists():
      configs.check_resume(configs.load_saved(path), config)
    return
  step, trained = copy
  configs.check_resume(trained, config)
  saved, problem = _read(path)
  if saved is not None and (changed := configs.differences(trained, saved)):
    problem = f"was edited ({_list(changed)})"
  if problem:
    _warn(f"{path} {problem}; the copy in checkpoint {step} is used")


def write_config(workdir: str, config: dict[str, Any]) -> None:
  """Writes config.json if it differs; raises UserError if it cannot."""
  path = pathlib.Path(workdir, FILE_NAME)
  text = json.dumps(config, indent=2) + "\n"
  with explaining_failure(path):
    if not path.exists() or path.read_bytes() != text.encode():
      write_atomic(path, text)


@contextlib.contextmanager
def explaining_failure(path: pathlib.Path) -> Iterator[None]:
  """Turns an OSError at writing a file of a run into a UserError."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f"{path} cannot be written ({error.strerror}). Free disk space there, or"
      " choose another --workdir."
    ) from None


def _newest_copy(workdir: str) -> tuple[int, dict[str, Any]] | None:
  """Step and configuration, with the keys of this version; None without any."""
  newest = checkpoint_files.newest_metadata(f"{workdir}/checkpoints")
  return newest and (newest[0], configs.upgrade(newest[1]["config"]))


def _read(path: pathlib.Path) -> tuple[dict[str, Any] | None, str]:
  """The content of config.json, or None with what is wrong with it."""
  try:
    return configs.load_saved(path), ""
  except FileNotFoundError:
    return None, "is missing"
  except UserError as error:
    return None, f"cannot be used ({error})"


def _list(changed: Mapping[str, tuple[str, str]], most: int = 5) -> str:
  each = [
    f"{key} was {was} in training and is {now} in the file"
    for key, (was, now) in changed.items()
  ]
  more = [f"{len(each) - most} more"] if len(each) > most else []
  return ", ".join(each[:most] + more)


@functools.cache
def _warn(text: str) -> None:
  """Prints a warning once, however often a command reads the run."""
  print(f"warning: {text}", file=sys.stderr)
