"""A finished training as evidence: one small JSON from its workdir.

  python -m experiments.record --workdir=DIR --command="..." --output=FILE.json

The file holds the command, hardware, versions, commit and seed of the run, and
its metrics: every evaluation, and the mean training loss between them.
"""

import json
import pathlib
from typing import Any

from absl import flags

from alexnet_jax.runtime import command, files, provenance
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import metrics
from alexnet_jax.training.checkpoint import latest_step
from alexnet_jax.training.runs import load_config

KEPT = ("epoch", "step", "num_examples", "top1_error", "top5_error", "loss")


def evaluations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The validation lines, each with the training loss since the one before.

  Args:
    lines: of metrics.jsonl.
  """
  rows, losses, speeds = [], [], []
  for line in lines:
    if line["split"] == "train":
      losses.append(line["loss"])
      speeds.append(line["images_per_second"])
      continue
    row = {name: line[name] for name in KEPT}
    row["train_loss"] = sum(losses) / len(losses)
    row["images_per_second"] = max(speeds)
    row["minutes"] = round(line["seconds"] / 60, 2)
    rows.append(row)
    losses, speeds = [], []
  return rows


def record(workdir: str, command_line: str) -> dict[str, Any]:
  """What a run was and what came of it.

  Args:
    workdir: of a training with a checkpoint.
    command_line: that trained it.

  Raises:
    UserError: there is no run, or no checkpoint yet.
  """
  config = load_config(workdir)
  step = latest_step(f"{workdir}/checkpoints")
  path = pathlib.Path(workdir, "checkpoints", str(step), "metadata", "metadata")
  if not path.is_file():
    raise UserError(f"{workdir} has no checkpoint yet: there is no {path}.")
  saved = json.loads(path.read_text())["metadata"]
  return {
    "what": f"{config['dataset']}, {config['total_epochs']} epochs",
    "command": command_line,
    "hardware": provenance.hardware().partition(";")[0],  # devices: the mesh
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
  flags.DEFINE_string("workdir", None, "of a training", required=True)
  flags.DEFINE_string("command", None, "that trained it", required=True)
  flags.DEFINE_string("output", None, "JSON file to write", required=True)
  command.run(main)
