"""Writes one self-contained HTML page about one or several runs.

  python -m alexnet_jax.report --workdir=DIR[,DIR...] --output=FILE.html
      [--checkpoint=newest|best|STEP]

It begins with what matters: how good the run is and compared with what, whether
its training was healthy, and what to do next. Then come curves, mistakes,
kernels over time, nearest images, the exchanges between towers and the
differences from configs/paper.py; the paper's tables are open for runs on
ImageNet. Several runs are put side by side. The page loads nothing from
elsewhere, so it opens offline, on a phone and from an e-mail.
"""

from absl import flags

from alexnet_jax.analysis import sections
from alexnet_jax.runtime import command, paths
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.runtime.progress import waiting


def main() -> None:
  flag = flags.FLAGS
  with waiting("writing the report"):
    text = sections.report(
      flag.workdir, flag.search, flag.data_dir, flag.checkpoint
    )
  try:
    write_atomic(flag.output, text)
  except OSError as error:
    raise UserError(
      f"cannot write the report to {flag.output}: {error.strerror}. Give"
      " --output a file in an existing, writable directory."
    ) from None
  print(f"{flag.output}: {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
  paths.DEFINE_paths(
    "workdir", None, "run directory, or several separated by commas",
    required=True,
  )  # fmt: skip
  paths.DEFINE_output("output", None, "HTML file to write", required=True)
  flags.DEFINE_integer(
    "search",
    sections.SEARCH,
    "training images to search for Figure 4, evenly spaced; 0: all",
    0,
  )
  paths.DEFINE_path("data_dir", "", "dataset directory, if it has moved")
  command.DEFINE_checkpoint()
  command.run(main)
