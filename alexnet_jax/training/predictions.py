"""What a network predicted for each image of a split, and the file of a run.

`predictions.npz` in a workdir has those of the last evaluation during training,
so that the report need not evaluate again. It is about five bytes an image.
"""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.model import sharding
from alexnet_jax.runtime import processes
from alexnet_jax.training import optional_files, step

FILE_NAME = "predictions.npz"


class Predictions(NamedTuple):
  """Predictions for N images, in the order of the dataset."""

  index: np.ndarray  # of the image in its split, i32[N]
  label: np.ndarray  # its class, i32[N]
  predicted: np.ndarray  # the most probable class, i32[N]
  probability: np.ndarray  # of the most probable class, f32[N]
  # As `step.top_error`, f32[N]; between 0 and 1 if classes tie.
  top1_error: np.ndarray
  top5_error: np.ndarray


class Recorder:
  """Collects the predictions of an evaluation, batch by batch."""

  def __init__(self, mesh: Mesh):
    """`mesh` is the mesh that the batches lie on; compiles nothing yet."""
    self._outcomes = step.make_outcomes(mesh)
    self._batches: list[Predictions] = []

  def add(self, log_probabilities: jax.Array, batch: step.Batch) -> None:
    """Adds the images of weight 1 of a batch.

    `log_probabilities` f32[B,classes] are on the devices, as the batch.
    """
    found = dict(self._outcomes(log_probabilities, batch["label"]))
    found |= {name: batch[name] for name in ("index", "label")}
    # -1 marks an example that only fills up the batch.
    weight, values = sharding.fetch((batch["weight"], found))
    values["index"] = np.where(weight > 0, values["index"], -1)
    self._batches.append(Predictions(**values))

  def predictions(self) -> Predictions:
    """The images of all processes; a collective call of all of them."""
    columns = zip(*self._batches, strict=True)
    gathered = [processes.gather(np.concatenate(column)) for column in columns]
    index = gathered[0]
    # Processes that hold towers of the same images have the same rows.
    _, rows = np.unique(index, return_index=True)
    rows = rows[index[rows] >= 0]
    return Predictions(*(column[rows] for column in gathered))


_KEPT = ("index", "label", "predicted", "probability")


def write(
  workdir: str, found: Predictions, number: int, fingerprint: str
) -> None:
  """Writes `predictions.npz`; warns if it cannot be written.

  Args:
    workdir: of the run.
    found: of the validation images, centre view.
    number: the step of the run.
    fingerprint: of the validation images, `Source.fingerprint`.
  """
  arrays = {name: getattr(found, name) for name in _KEPT}
  for name in ("index", "label", "predicted"):
    smallest = np.min_scalar_type(arrays[name].max(initial=0))
    arrays[name] = arrays[name].astype(smallest)
  arrays["probability"] = arrays["probability"].astype(np.float16)
  path = pathlib.Path(workdir, FILE_NAME)
  optional_files.write(path, step=number, fingerprint=fingerprint, **arrays)


def read(workdir: str, number: int, fingerprint: str) -> Predictions | None:
  """The predictions of a step for images with this fingerprint, if kept.

  Their `top1_error` is 0 or 1 (ties are not kept), `top5_error` is NaN.
  """
  names = ("step", "fingerprint", *_KEPT)
  stored = optional_files.read(pathlib.Path(workdir, FILE_NAME), names)
  if stored is None or stored["fingerprint"] != fingerprint:
    return None
  if stored["step"] != number:
    return None
  index, label, predicted = (
    stored[name].astype(np.int32) for name in _KEPT[:3]
  )
  wrong = (label != predicted).astype(np.float32)
  unknown = np.full_like(wrong, np.nan)
  probability = stored["probability"].astype(np.float32)
  return Predictions(index, label, predicted, probability, wrong, unknown)
