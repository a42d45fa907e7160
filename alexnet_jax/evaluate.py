"""Top-1 and top-5 error over every example of a split (sections 4.1 and 6).

  python -m alexnet_jax.evaluate --workdir=DIR[,DIR...] [--views=1|10]
      [--checkpoint=newest|best|STEP] [--split=validation] [--json=FILE]

Several workdirs are an ensemble: the class probabilities are averaged over
views and networks. `--split` is train, validation or test, as the run's
configuration names them.
"""

import json
import pathlib

from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.data.augment import VIEWS
from alexnet_jax.runtime import command, paths, processes
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs

ERRORS = "top-1 error", "top-5 error"


def main() -> None:
  processes.configure()
  flag = flags.FLAGS
  if flag.views not in VIEWS:
    raise UserError(f"--views must be 1 (centre) or 10 (got {flag.views}).")
  result = runs.evaluate_runs(
    flag.workdir,
    views=flag.views,
    split=flag.split,
    data_dir=flag.data_dir,
    checkpoint=flag.checkpoint,
  )
  table = Table("checkpoint", "examples", "views", *ERRORS, "loss")
  table.add_row(
    f"{result['checkpoint']}, step {result['step']}",
    str(result["num_examples"]),
    str(result["views"]),
    f"{result['top1_error']:.2%}",
    f"{result['top5_error']:.2%}",
    f"{result['loss']:.4f}",
  )
  Console().print(table)
  if flag.json:
    pathlib.Path(flag.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  paths.DEFINE_paths(
    "workdir",
    None,
    "run directory, or several separated by commas",
    required=True,
  )
  flags.DEFINE_integer(
    "views", 1, "views per image: 1 (centre) or 10 (section 4.1)"
  )
  flags.DEFINE_string(
    "checkpoint",
    "newest",
    "checkpoint to read: newest, best (lowest validation error) or a step",
  )
  flags.DEFINE_string(
    "split", "validation", "split to evaluate: train, validation or test"
  )
  paths.DEFINE_path(
    "data_dir", "", "directory of the dataset, if it has moved since training"
  )
  paths.DEFINE_path("json", "", "write the result to this file")
  command.run(main)
