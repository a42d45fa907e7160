"""What the stages of the study cost on ImageNet, for experiments/README.md.

The rate is one that a GPU cannot exceed: that of the memory traffic of the
compiled training step (results/gpu_step.json).
"""

import json
import pathlib

from alexnet_jax.runtime import config as configs
from experiments import study
from experiments.common import markdown
from experiments.common.experiment import Run

RECORD = pathlib.Path(__file__).parent / "results" / "gpu_step.json"
IMAGES = 1_281_167  # ILSVRC-2012's training images
# Not on ImageNet: always on CIFAR-10; and without trainings of its own.
LEFT_OUT = ("relu_tanh", "figure4")


def images_per_second() -> float:
  """The upper bound for batches of 128 in bfloat16 on an H100."""
  result = json.loads(RECORD.read_text())["result"]
  return result["batch_size"] / max(result["seconds_at_least"].values())


def table() -> str:
  """Trainings, images and hours of each stage in its order.

  Runs of one name are shared, so only the first stage has them.
  """
  rows, shared, totals = [], set(), [0.0, 0.0, 0.0]
  for stage in study.STAGES:
    if stage.name in LEFT_OUT:
      continue
    experiment = study.load(stage.name)
    chosen = [
      run
      for run in experiment.runs
      if not stage.only or run.name.startswith(tuple(stage.only))
    ]
    trainings = images = 0.0
    for run in chosen:
      seeds = range(experiment.seeds)
      new = [seed for seed in seeds if (run.name, seed) not in shared]
      shared |= {(run.name, seed) for seed in seeds}
      trainings += len(new)
      images += len(new) * _images(run)
    hours = images / images_per_second() / 3600
    rows.append(_cells(f"`{stage.name}`", trainings, images, hours))
    for place, value in enumerate((trainings, images, hours)):
      totals[place] += value
  rows.append(_cells("all", *totals))
  headings = ("stage", "trainings", "billions of images", "GPU hours at least")
  return markdown.table(headings, rows, "lrrr")


def _images(run: Run) -> float:
  epochs = run.overrides.get("total_epochs")
  return run.length * IMAGES * (epochs or configs.load(run.config).total_epochs)


def _cells(
  name: str, trainings: float, images: float, hours: float
) -> list[str]:
  return [name, f"{trainings:.0f}", f"{images / 1e9:.1f}", f"{hours:.1f}"]
