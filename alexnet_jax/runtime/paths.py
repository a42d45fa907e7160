"""Paths of files and folders, as flags and configurations give them."""

import os
import re
import tempfile
from collections.abc import Callable

from absl import flags

from alexnet_jax.runtime.command import UserError

flags.disclaim_key_flags()  # a flag belongs to the command that defines it


def local_path(path: str, name: str) -> str:
  """`path` with `~` expanded, which no shell does in `--workdir=~/x`.

  Args:
    path: of a file or folder; "" is returned unchanged.
    name: the flag or key that was set, for the message.

  Raises:
    UserError: `path` is an address such as gs://bucket/folder.
  """
  if re.match(r"[A-Za-z][\w+.-]+:/", path):
    raise UserError(
      f"{name}={path} is an address, and this program reads and writes local"
      " files only. Mount the bucket as a folder (gcsfuse, s3fs, rclone mount),"
      " or copy it (gcloud storage cp -r, aws s3 cp --recursive), and give the"
      " local path."
    )
  return os.path.expanduser(path)


def check_output(path: str, name: str) -> None:
  """Checks that a file can be written, before the work whose result it gets.

  Args:
    path: of the file, which may exist; "" is not checked.
    name: the flag or key that was set, for the message.

  Raises:
    UserError: `path` is a folder, or its folder is missing or not writable.
  """
  if not path:
    return
  folder = os.path.dirname(path) or "."
  if os.path.isdir(path) or path.endswith(os.sep):
    raise UserError(f"{name}={path} is a folder; give the name of a file.")
  if not os.path.isdir(folder):
    raise UserError(
      f"{name}={path} cannot be written: there is no folder {folder}. Make it"
      f" (mkdir -p {folder}), or choose another {name}."
    )
  _check_writable(folder, path, name)
  if os.path.exists(path) and not os.access(path, os.W_OK):
    raise UserError(
      f"{name}={path} cannot be written (Permission denied). Choose another"
      f" {name}."
    )


def check_output_folder(path: str, name: str) -> None:
  """The same for a folder, which is made later if it is missing."""
  if not path:
    return
  folder = os.path.abspath(path)
  while not os.path.lexists(folder):
    folder = os.path.dirname(folder)
  if not os.path.isdir(folder):
    raise UserError(
      f"{name}={path} cannot be a folder: {folder} is a file. Choose another"
      f" {name}."
    )
  _check_writable(folder, path, name)


def _check_writable(folder: str, path: str, name: str) -> None:
  """Makes a file without a name in `folder`, which leaves nothing behind."""
  try:
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise UserError(
      f"{name}={path} cannot be written: {folder} accepts no files"
      f" ({error.strerror}). Check its permissions and the free disk space, or"
      f" choose another {name}."
    ) from None


def printable(name: str) -> str:
  """A file's name as text that any terminal and any file can hold.

  Line ends, escapes and bytes that are not UTF-8 are written as in Python.
  """
  text = re.sub(
    "[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:x}", name
  )
  return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class _PathParser(flags.ArgumentParser):
  syntactic_help = "a local path; ~ is the home directory"

  def __init__(self, name: str):
    self._name = f"--{name}"

  def parse(self, argument: str) -> str:
    return local_path(argument, self._name)


class _PathListParser(_PathParser):
  syntactic_help = "local paths, separated by commas"

  def parse(self, argument: str | list[str]) -> list[str]:
    if isinstance(argument, str):
      argument = argument.split(",")
    return [super(_PathListParser, self).parse(path) for path in argument]


def DEFINE_path(
  name: str, default: str | None, help: str, **options
) -> flags.FlagHolder[str]:
  """As `flags.DEFINE_string`, for the path of a local file or folder."""
  return flags.DEFINE(_PathParser(name), name, default, help, **options)


def DEFINE_paths(
  name: str, default: list[str] | None, help: str, **options
) -> flags.FlagHolder[list[str]]:
  """As `flags.DEFINE_list`, for paths of local files or folders."""
  parser = _PathListParser(name)
  return flags.DEFINE(parser, name, default, help, **options)


def DEFINE_output(
  name: str, default: str | None, help: str, **options
) -> flags.FlagHolder[str]:
  """As `DEFINE_path`, for a file to write: parsing checks that it can be."""
  return _checked(DEFINE_path(name, default, help, **options), check_output)


def DEFINE_output_folder(
  name: str, default: str | None, help: str, **options
) -> flags.FlagHolder[str]:
  """As `DEFINE_path`, for a folder to write to; it is made when needed."""
  holder = DEFINE_path(name, default, help, **options)
  return _checked(holder, check_output_folder)


def _checked(
  holder: flags.FlagHolder[str], check: Callable[[str, str], None]
) -> flags.FlagHolder[str]:
  """Checks the value once all flags are parsed (a default is parsed before)."""

  def is_valid(path: str | None) -> bool:
    check(path or "", f"--{holder.name}")
    return True

  flags.register_validator(holder.name, is_valid)
  return holder
