"""Flag parsing, error messages and exit statuses of all commands.

Exit statuses: 0 success; 2 a mistake that the user can correct, explained in
one paragraph without a traceback; 130 interrupted. A traceback (status 1) is
always a bug of this package.
"""

import errno
import math
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging

from alexnet_jax.runtime import environment, libraries, output
from alexnet_jax.runtime.watch import Watch, exit_now

flags.disclaim_key_flags()  # a flag belongs to the command that defines it

# Errors of standard output that lose what somebody wanted to keep.
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
HELP_FLAGS = ("--help", "-help", "-h", "-?", "--helpshort", "--helpfull")


class UserError(Exception):
  """A mistake that the user can correct.

  The message is one paragraph: what is wrong, with which value, and what to do.
  """


def run(
  main: Callable[..., int | None],
  *choices: str,
  operands: bool = False,
  prints_progress: bool = False,
) -> None:
  """Parses the flags, calls `main` and exits; the last line of every command.

  absl and ml_collections exit with status 1 for wrong flags, sometimes with a
  traceback. Here every mistake is one paragraph on stderr and status 2.

  Args:
    main: called without arguments, with the subcommand if there are `choices`,
      or with the `operands`; returns the exit status (None: 0).
    *choices: subcommands, such as `export` and `import`; the command line must
      contain exactly one.
    operands: whether the command takes words that are not flags, such as paths.
    prints_progress: whether all that is printed is progress. The command then
      succeeds even if some of it could not be written, as on a full disk.
  """
  output.protect()
  libraries.configure()
  # Interactive shells, notebooks too (`%run`), have a prompt and live on.
  Watch.owns_process = not hasattr(sys, "ps1")
  try:
    if any(argument in HELP_FLAGS for argument in sys.argv[1:]):
      print(_help())
      status = 0
    else:
      status = main(*_parse_flags(sys.argv, choices, operands)) or 0
    # A reader that is gone (`| head`) has seen what it wanted.
    error = output.lost()
    if error and not prints_progress and error.errno in FULL_ERRORS:
      raise UserError(
        f"part of the output could not be written: {error.strerror}. Free disk"
        " space where it goes, then run the command again."
      )
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    status = 2
  except KeyboardInterrupt:
    _exit_interrupted()
  except OSError as error:  # for example a full disk or a missing folder
    what = "Check the path, its permissions and the free disk space."
    print(f"error: {error}. {what}", file=sys.stderr)
    status = 2
  except RuntimeError as error:
    # Inside Python's own locks an interrupt becomes "release unlocked lock".
    if isinstance(error.__context__, KeyboardInterrupt):
      _exit_interrupted()
    if not (reason := environment.reason_of(error)):
      raise
    print(f"error: {reason}", file=sys.stderr)
    status = 2
  except (AssertionError, FloatingPointError) as error:
    if not (reason := environment.reason_of(error)):
      raise
    print(f"error: {reason}", file=sys.stderr)
    status = 2
  sys.exit(status)


def DEFINE_checkpoint(task: str = "") -> flags.FlagHolder[str]:
  """Defines `--checkpoint`; parsing checks the form of its value.

  `task` begins the help text.
  """
  holder = flags.DEFINE_string(
    "checkpoint",
    "newest",
    f"{task}checkpoint to read: newest, best (lowest validation error) or a"
    " step",
  )

  def is_valid(checkpoint: str) -> bool:
    if not re.fullmatch("newest|best|[0-9]+", checkpoint):
      raise UserError(
        "--checkpoint must be newest, best or the step of one (got"
        f" {checkpoint!r})."
      )
    return True

  flags.register_validator("checkpoint", is_valid)
  return holder


def _exit_interrupted() -> NoReturn:
  print("interrupted", file=sys.stderr)
  exit_now(130)  # threads may be in the middle of long work


def _parse_flags(
  argv: list[str], choices: tuple[str, ...], operands: bool
) -> list[str]:
  """Parses `argv` into absl's FLAGS; returns the words that are no flags."""
  # Flags may follow the subcommand: `benchmark step --batch_size=64`.
  flags.FLAGS.set_gnu_getopt(True)
  try:
    words = flags.FLAGS(argv)[1:]
  except (flags.Error, LookupError, AttributeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{reason} (--help lists the flags)") from None
  for name, value in flags.FLAGS.flag_values_dict().items():
    # Bounds do not exclude NaN, which is neither above nor below anything.
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"--{name} must be a finite number (got {value}).")
    if isinstance(value, int) and abs(value) > sys.maxsize:
      raise UserError(f"--{name} must be at most {sys.maxsize}.")
  if flags.FLAGS["verbosity"].using_default_value:
    logging.set_verbosity(logging.ERROR)  # libraries log every step
  if choices and (len(words) != 1 or words[0] not in choices):
    raise UserError(
      f"expected one of {', '.join(choices)} after the command's name, got"
      f" {' '.join(words) or 'nothing'} (--help lists the flags)"
    )
  if words and not (choices or operands):
    raise UserError(
      f"unexpected argument {words[0]!r}; flags have the form --name=value"
      " (--help lists them)"
    )
  return words


def _help() -> str:
  """The command's docstring and its own flags."""
  doc = sys.modules["__main__"].__doc__ or ""
  return f"{doc.strip()}\n\nflags:{flags.FLAGS.main_module_help()}"
