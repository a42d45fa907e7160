"""Writes the result of one training as a small JSON file.

  python -m experiments.record --workdir=DIR --command="..." --output=FILE.json

The file has the command, hardware, versions, commit and seed of the run, and
its metrics: every evaluation, and the mean loss of the training lines between
evaluations.
"""

import json
import pathlib
import statistics
from typing import Any

from absl import flags

from alexnet_jax.runtime import command, files, paths, provenance
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import metrics
from alexnet_jax.training.checkpoint_files import latest_step
from alexnet_jax.training.runs import load_config

KEPT = ("epoch", "step", "num_examples", "top1_error", "top5_error", "loss")


def evaluations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The validation lines, each with the mean loss of the training lines before.

  A training line has the loss of one step, so this is a sample of the steps.
  Without a training line before it, an evaluation has neither loss nor speed.

  Args:
    lines: the lines of metrics.jsonl.
  """
  rows, losses, speeds = [], [], []
  for line in lines:
    if line["split"] == "train":
      losses.append(line["loss"])
      speeds.append(line["images_per_second"] or 0.0)  # None: not measured
      continue
    row = {name: line[name] for name in KEPT}
    row["train_loss"] = statistics.fmean(losses) if losses else None
    row["images_per_second"] = max(speeds, default=None)
    row["minutes"] = round(line["seconds"] / 60, 2)
    rows.append(row)
    losses, speeds = [], []
  return rows


def record(workdir: str, command_line: str) -> dict[str, Any]:
  """The origin of a run and its result.

  Args:
    workdir: the run's directory; it must contain a checkpoint.
    command_line: the command that trained it.

  Raises:
    UserError: the workdir contains no run, or no checkpoint yet.
  """
  config = load_config(workdir)
  step = latest_step(f"{workdir}/checkpoints")
  path = pathlib.Path(workdir, "checkpoints", str(step), "metadata", "metadata")
  if not path.is_file():
    raise UserError(
      f"{workdir} has no checkpoint yet ({path} does not exist). Train it until"
      " the first checkpoint, then record it."
    )
  saved = json.loads(path.read_text())["metadata"]
  return {
    "what": f"{config['dataset']}, {config['total_epochs']} epochs",
    "command": command_line,
    "hardware": provenance.hardware().partition(";")[
      0
    ],  # the mesh tells the devices
    "versions": saved["versions"],
    "commit": saved["git_commit"],
    "seed": config["seed"],
    "mesh": saved["mesh"],
    "result": evaluations(metrics.read(workdir)),
  }


def main() -> None:
  flag = flags.FLAGS
  text = json.dumps(record(flag.workdir, flag.command), indent=2) + "\n"
  files.write_atomic(pathlib.Path(flag.output), text)


if __name__ == "__main__":
  paths.DEFINE_path("workdir", None, "run directory", required=True)
  flags.DEFINE_string("command", None, "command that trained it", required=True)
  paths.DEFINE_output("output", None, "JSON file to write", required=True)
  command.run(main)
