"""Paths of files and folders, as flags and configurations give them."""

import os
import re

from absl import flags

from alexnet_jax.runtime.command import UserError


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
