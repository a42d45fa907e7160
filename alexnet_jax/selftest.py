"""Checks a machine before a long run; prints one line per check.

  python -m alexnet_jax.selftest

Checks the devices, that every mesh trains the same network, that the towers
exchange what the paper describes, that a killed run resumes exactly, and the
speed of input and training. The exit status is 1 if a check failed.
"""

import time

from rich.console import Console

from alexnet_jax.analysis.checks import CHECKS
from alexnet_jax.runtime import command, environment
from alexnet_jax.runtime.progress import waiting


def main() -> int:
  """Runs all checks; returns 1 if one failed."""
  console = Console(highlight=False, soft_wrap=True)
  failures = 0
  for name, check in CHECKS.items():
    start = time.monotonic()
    try:
      with waiting(f"check: {name}"):
        verdict, message = "ok    ", check()
    except Exception as error:  # the other checks still run
      reason = environment.reason_of(error) or repr(error)
      verdict, message = "FAILED", " ".join(reason.split())[:500]
      failures += 1
    seconds = time.monotonic() - start
    line = f"{verdict} {name}: {message} ({seconds:.0f} s)"
    console.print(line, markup=False)
  failed = f"{failures} of {len(CHECKS)} checks failed"
  print(failed if failures else "all checks passed")
  return 1 if failures else 0


if __name__ == "__main__":
  command.run(main)
