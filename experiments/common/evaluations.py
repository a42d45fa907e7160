"""The prediction of a trained network for every image of a split.

They are written beside the run's metrics, one or two bytes an image, so that
two networks can be compared image by image long after their training.
"""

import io
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.model import sharding
from alexnet_jax.runtime import files
from alexnet_jax.training import runs

# Training images that are evaluated; every image of the other splits counts.
NUM_TRAINING_IMAGES = 10_000


class Evaluation(NamedTuple):
  """One network on one split, in evaluation mode: the centre view, no dropout.

  Attributes:
    step: of the run, when it was evaluated.
    loss: mean cross entropy.
    labels, predictions: uint8[N], or uint16[N] beyond 256 classes; the most
      probable class of each image, in the order of the dataset.
  """

  step: int
  loss: float
  labels: np.ndarray
  predictions: np.ndarray

  @property
  def wrong(self) -> np.ndarray:
    """Whether the prediction is wrong, bool[N]."""
    return self.labels != self.predictions

  @property
  def top1_error(self) -> float:
    """The share of wrong predictions."""
    return float(self.wrong.mean())


def evaluate(workdir: str, split: str, step: int) -> Evaluation:
  """Evaluates the newest checkpoint of a run, or reads its last evaluation.

  Args:
    workdir: of the run; receives `evaluation_SPLIT.npz`.
    split: "train" (its first 10,000 images), "validation" or "test".
    step: of the newest checkpoint. An evaluation of another step is repeated.
  """
  path = pathlib.Path(workdir, f"evaluation_{split}.npz")
  if path.exists():
    with np.load(path, allow_pickle=False) as stored:
      found = Evaluation(
        int(stored["step"]),
        float(stored["loss"]),
        stored["labels"],
        stored["predictions"],
      )
    if found.step == step:
      return found
  found = _evaluate(workdir, split, step)
  content = io.BytesIO()
  np.savez_compressed(content, **found._asdict())
  files.write_atomic(str(path), content.getvalue())
  return found


def _evaluate(workdir: str, split: str, step: int) -> Evaluation:
  config: dict[str, Any] = runs.load_config(workdir)
  mesh = sharding.make_mesh(1, 1, towers=config["network"]["towers"])
  source = runs.open_split(config, split)
  count = min(len(source), NUM_TRAINING_IMAGES) if split == "train" else 0
  predict = runs.load_predictor(workdir, mesh, 1, "")
  losses, labels, predictions = [], [], []
  for batch in runs.example_batches(config, source, mesh, split, count):
    real = batch["weight"] > 0
    images = jax.device_put(batch["image"], sharding.batch_sharding(mesh))
    scores = np.asarray(predict(images))[real]
    labels.append(batch["label"][real])
    predictions.append(scores.argmax(axis=1))
    losses.append(-scores[np.arange(len(scores)), labels[-1]])
  kept = slice(count or None)  # the last batch may hold more
  small = np.uint8 if config["num_classes"] <= 256 else np.uint16
  return Evaluation(
    step,
    float(np.concatenate(losses)[kept].mean(dtype=np.float64)),
    np.concatenate(labels)[kept].astype(small),
    np.concatenate(predictions)[kept].astype(small),
  )
