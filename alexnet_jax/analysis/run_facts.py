"""Facts of a run that several sections of the report state."""

import pathlib
import statistics
from collections.abc import Sequence

from alexnet_jax.analysis.health import Line
from alexnet_jax.analysis.number_format import count, duration, epochs, number
from alexnet_jax.model.shapes import layer_counts
from alexnet_jax.training import predictions
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.runs import Run


def evaluation_of(run: Run) -> Line | None:
  """The evaluation of the run's checkpoint, or else the last one before it."""
  lines = [
    line
    for line in run.split("validation")
    if line.get("top1_error") is not None
    and (run.net is None or line["step"] <= run.step)
  ]
  return lines[-1] if lines else None


def describe_training(run: Run) -> str:
  """What was trained, on what and for how long, in two sentences."""
  config, last = run.config, run.lines[-1] if run.lines else None
  network = Recipe.from_config(config).network
  parameters = layer_counts(network)["totals"]["parameters"]
  towers = f"{network.towers} tower{'s'[: network.towers != 1]}"
  what = (
    f"A network of {towers} and {count(parameters)} parameters"
    f" (width {config['network']['width']:g}) for the"
    f" {config['num_classes']:,} classes of {config['dataset']}."
  )
  if last is None:
    return f"{what} Nothing has been logged yet."
  planned = f" of {config['total_epochs']:g}"
  if config["total_steps"]:
    planned = f" (step {last['step']:,} of {config['total_steps']:,})"
  mesh = run.metadata.get("mesh", {})
  places = " x ".join(f"{axis}:{size}" for axis, size in mesh.items())
  speed = median_speed(run)
  return (
    f"{what} It was trained for {epochs(last['epoch'])}{planned} epochs,"
    f" {count(last['step'] * config['batch_size'])} images, in"
    f" {duration(last.get('seconds', 0))}"
    + (f" at {number(speed)} images/s (median)" if speed else "")
    + (f" on a mesh {places}." if places else ".")
  )


def median_speed(run: Run) -> float | None:
  """Images per second over the training lines; None if there is none."""
  speeds = (line.get("images_per_second") for line in run.split("train"))
  known = [speed for speed in speeds if speed]
  return statistics.median(known) if known else None


def short_names(runs: Sequence[Run]) -> list[str]:
  """The workdirs without the folders that they have in common."""
  parts = [pathlib.PurePath(run.workdir).parts for run in runs]
  shared = 0
  while all(len(p) > shared + 1 for p in parts) and (
    len({p[shared] for p in parts}) == 1
  ):
    shared += 1
  return [str(pathlib.PurePath(*part[shared:])) for part in parts]


def recorded_predictions(run: Run) -> predictions.Predictions | None:
  """What the training kept of its evaluation of this checkpoint, if it did."""
  fingerprint = run.metadata.get("data", {}).get("validation", "")
  found = predictions.read(run.workdir, run.step, fingerprint)
  if found is None or not len(found.label):
    return None
  largest = max(found.label.max(), found.predicted.max())
  return found if largest < run.config["num_classes"] else None
