"""What every command shares: parse the flags, speak plainly, exit cleanly.

Exit statuses: 0 done, 2 a mistake the user can mend (one paragraph, no
traceback), 130 interrupted. A traceback (status 1) is always our own bug.
"""

import os
import sys
from collections.abc import Callable

from absl import flags, logging

HELP_FLAGS = ("--help", "-help", "-h", "-?", "--helpshort", "--helpfull")


class UserError(Exception):
  """A mistake the user can mend, told in one paragraph.

  The text says what was wrong, where the program looked and what to do.
  """


def run(main: Callable[..., int | None], *choices: str) -> None:
  """Parses the flags, calls `main` and exits; every command ends in this.

  absl and ml_collections answer wrong flags with status 1, some with a
  traceback; here each is one paragraph on stderr and status 2.

  Args:
    main: called without arguments, or with the chosen word if there are
      choices; the integer that it returns is the exit status (None is 0).
    *choices: words of which the command line must name one, such as
      `export` and `import`.

  Raises:
    SystemExit: always, with the exit status.
  """
  try:
    if any(argument in HELP_FLAGS for argument in sys.argv[1:]):
      print(_help())
      status = 0
    else:
      status = main(*_parse_flags(sys.argv, choices)) or 0
    sys.stdout.flush()
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    status = 2
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    status = 130
  except BrokenPipeError:  # the reader (`| head`) has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    status = 0
  except OSError as error:  # a disk that is full, a folder that is not there
    print(
      f"error: {error}. A file could not be read or written: look at its"
      " path, its permissions and the room there.",
      file=sys.stderr,
    )
    status = 2
  sys.exit(status)


def _parse_flags(argv: list[str], choices: tuple[str, ...]) -> list[str]:
  """Parses `argv` into absl's FLAGS and returns the chosen word, if any."""
  # Flags may follow the chosen word: `benchmark step --batch_size=64`.
  flags.FLAGS.set_gnu_getopt(True)
  try:
    words = flags.FLAGS(argv)[1:]
  except (flags.Error, LookupError, AttributeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{reason} (--help lists the flags)") from None
  if flags.FLAGS["verbosity"].using_default_value:
    logging.set_verbosity(logging.ERROR)  # libraries tell every step of theirs
  if choices and (len(words) != 1 or words[0] not in choices):
    raise UserError(
      f"say one of {', '.join(choices)} after the command's name"
      f" (got: {' '.join(words) or 'nothing'}); --help lists the flags"
    )
  if words and not choices:
    raise UserError(
      f"{words[0]!r} is no flag; flags are written --name=value"
      " (--help lists them)"
    )
  return words


def _help() -> str:
  """The command's docstring and its own flags."""
  doc = sys.modules["__main__"].__doc__ or ""
  return f"{doc.strip()}\n\nflags:{flags.FLAGS.main_module_help()}"
