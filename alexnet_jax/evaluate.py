"""Top-1 and top-5 error over every example of a split (sections 4.1 and 6).

  python -m alexnet_jax.evaluate --workdir=DIR[,DIR...] [--views=1|10]
      [--checkpoint=newest|best|STEP] [--split=validation]
      [--dataset=NAME] [--data_dir=DIR] [--skip_unknown_classes]
      [--per_class=FILE.csv] [--json=FILE]

  python -m alexnet_jax.evaluate --weights=FILE [--config=FILE] ...

Several workdirs are an ensemble: the class probabilities are averaged over
views and networks. `--split` is train, validation or test, as the run's
configuration names them. The images must be those of the training's dataset.

`--dataset` evaluates on another dataset, `--split` is then one of its splits.
Its classes are matched with the network's by name, and scores are restricted to
them, as is usual for ImageNet-A and ImageNet-R.

`--weights` is a file that `weights export` wrote, or published weights of
AlexNet (docs/weights.md), which need the `--config` of their network.
"""

import json

from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.data.augment import VIEWS
from alexnet_jax.runtime import command, paths, processes
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.training import run_evaluation
from alexnet_jax.training.known_classes import list_names
from alexnet_jax.training.run_evaluation import Evaluation

ERRORS = "top-1 error", "top-5 error"


def main() -> None:
  processes.configure()
  flag = flags.FLAGS
  if flag.views not in VIEWS:
    raise UserError(f"--views must be 1 (centre) or 10 (got {flag.views}).")
  if flag.skip_unknown_classes and not flag.dataset:
    raise UserError(
      "--skip_unknown_classes needs --dataset=NAME: the dataset of the training"
      " has no unknown classes."
    )
  if bool(flag.workdir) == bool(flag.weights):
    raise UserError(
      "give either --workdir=DIR, the directory of a run, or --weights=FILE."
    )
  if flag.config is not None and not flag.weights:
    raise UserError(
      "--config needs --weights=FILE: a run has its own configuration."
    )
  if flag.weights and flag.checkpoint != "newest":
    raise UserError("--checkpoint needs --workdir: a file has no checkpoints.")
  if flag.json and flag.json == flag.per_class:
    raise UserError(f"--json and --per_class are the same file, {flag.json}.")
  options = {
    "views": flag.views,
    "split": flag.split,
    "data_dir": flag.data_dir,
    "dataset": flag.dataset,
    "skip_unknown_classes": flag.skip_unknown_classes,
  }
  if flag.weights:
    found = run_evaluation.evaluate_weights(
      flag.weights, config=flag.config, **options
    )
  else:
    found = run_evaluation.evaluate_runs(
      flag.workdir, checkpoint=flag.checkpoint, **options
    )
  _print(found)
  if flag.json:
    _write(flag.json, json.dumps(found.result, indent=2) + "\n")
  if flag.per_class:
    _write(flag.per_class, found.classes.to_csv())


def _print(found: Evaluation) -> None:
  result = found.result
  print(f"{result['dataset']}, {result['split']}")
  if result["num_classes"] < found.num_network_classes:
    print(
      f"scores are restricted to {result['num_classes']:,} of the network's"
      f" {found.num_network_classes:,} classes"
    )
  if empty := int((found.classes.num_examples == 0).sum()):
    print(f"{empty:,} of {result['num_classes']:,} classes have no image")
  if found.unknown:
    print(
      f"left out: {result['num_left_out']:,} images of classes that the network"
      f" does not know ({list_names(found.unknown)})"
    )
  table = Table("checkpoint", "examples", "views", *ERRORS, "loss")
  which = result["checkpoint"]
  if result["step"]:  # unknown of weights of other programs
    which += f", step {result['step']}"
  table.add_row(
    which,
    str(result["num_examples"]),
    str(result["views"]),
    f"{result['top1_error']:.2%}",
    f"{result['top5_error']:.2%}",
    f"{result['loss']:.4f}",
  )
  Console().print(table)


def _write(path: str, text: str) -> None:
  try:
    write_atomic(path, text)
  except OSError as error:
    raise UserError(
      f"{path} cannot be written ({error.strerror}). Check the path, its"
      " permissions and the free disk space."
    ) from None


if __name__ == "__main__":
  paths.DEFINE_paths(
    "workdir",
    None,
    "run directory, or several separated by commas",
  )
  paths.DEFINE_path("weights", "", "file of weights, instead of a run")
  configs.DEFINE_config(required=False)
  flags.DEFINE_integer(
    "views", 1, "views per image: 1 (centre) or 10 (section 4.1)"
  )
  command.DEFINE_checkpoint()
  flags.DEFINE_string(
    "split",
    "validation",
    "split to evaluate: train, validation or test; of another --dataset, one of"
    " its splits",
  )
  flags.DEFINE_string(
    "dataset", "", "another dataset, whose classes are matched by name"
  )
  paths.DEFINE_path(
    "data_dir", "", "directory of the dataset, if it has moved since training"
  )
  flags.DEFINE_bool(
    "skip_unknown_classes",
    False,
    "leave out images of classes that the network does not know",
  )
  paths.DEFINE_output("per_class", "", "write the errors by class to this CSV")
  paths.DEFINE_output("json", "", "write the result to this file")
  command.run(main)
