"""A run on disk: its configuration, its checkpoints, its data, its errors."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data import pipeline, sources
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.training import (
  checkpoint_files,
  metrics,
  run_data,
  step,
  streams,
)
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.early_stopping import EarlyStopping
from alexnet_jax.training.evaluation import Predict
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.run_config import explaining_failure, load_config
from alexnet_jax.training.run_data import RunData

# A file of a workdir: the run has had a checkpoint, of the step in it.
FIRST_CHECKPOINT = "first_checkpoint"


def write_data(workdir: str, data: RunData) -> None:
  """Writes classes.json and statistics.npz; UserError if it cannot."""
  with explaining_failure(pathlib.Path(workdir, "statistics.npz")):
    data.save(workdir)


def newest_step(workdir: str) -> int:
  """Step of the newest checkpoint of a run; -1 if there is none."""
  return checkpoint_files.latest_step(f"{workdir}/checkpoints")


def note_checkpoint(workdir: str) -> None:
  """Notes that a run has a complete checkpoint, for `check_checkpoints`."""
  path = pathlib.Path(workdir, FIRST_CHECKPOINT)
  with contextlib.suppress(OSError):  # a full disk; the next call tries again
    if not path.exists() and (step := newest_step(workdir)) >= 0:
      write_atomic(path, f"{step}\n")


def check_checkpoints(workdir: str) -> None:
  """Checks that a run without a checkpoint never had one.

  A run that is killed before its first save begins again. One whose checkpoints
  were lost must not, since it would replace its metrics.

  Raises:
    UserError: the checkpoints of the run are gone.
  """
  if newest_step(workdir) >= 0:
    return
  folder, lines = pathlib.Path(workdir, "checkpoints"), metrics.read(workdir)
  damaged = checkpoint_files.set_aside(folder)
  if damaged:
    problem = f"has only damaged checkpoints ({', '.join(damaged)})"
  elif pathlib.Path(workdir, FIRST_CHECKPOINT).exists():
    problem = "has lost its checkpoints"
  elif lines and not folder.is_dir():
    problem = "has no folder checkpoints"
  else:
    return
  last = max((line["step"] for line in lines), default=0)
  raise UserError(
    f"the run in {workdir} {problem}, and its metrics reach step {last}."
    " Nothing was changed. Restore the checkpoints from a copy, or start a new"
    " run with another --workdir, or in this one once it is empty."
  )


def is_finished(workdir: str, total_steps: int) -> bool:
  """Whether the run's last checkpoint and last evaluation are on disk."""
  return newest_step(workdir) >= total_steps and any(
    line["split"] == "validation" and line["step"] >= total_steps
    for line in metrics.read(workdir)
  )


def stopped_early(workdir: str, patience: int) -> str:
  """Why the run has ended before its last step; "" if it has not.

  Args:
    workdir: of the run.
    patience: `early_stopping` of the configuration.
  """
  newest = checkpoint_files.newest_metadata(f"{workdir}/checkpoints")
  if not patience or newest is None:
    return ""
  number, metadata = newest
  stopping = EarlyStopping(patience, **metadata.get("early_stopping", {}))
  if metadata.get("evaluation_due"):
    # It was saved before its evaluation, which may have been made since.
    for line in metrics.read(workdir):
      is_its_own = line["split"] == "validation" and line["step"] == number
      if is_its_own and line["top1_error"] is not None:
        stopping.observe(line["top1_error"])
  return stopping.reason


def open_checkpoints(
  workdir: str, max_to_keep: int = 2, read_only: bool = False
) -> Checkpoints:
  """Opens the checkpoints of a run; the arguments are those of `Checkpoints`.

  An error that is missing in a checkpoint is that of metrics.jsonl.
  """
  errors = {
    line["step"]: line["top1_error"]
    for line in metrics.read(workdir)
    if line["split"] == "validation" and line["top1_error"] is not None
  }
  directory = f"{workdir}/checkpoints"
  return Checkpoints(directory, max_to_keep, read_only, errors)


def load_state(
  workdir: str,
  mesh: Mesh,
  checkpoints: Checkpoints | None = None,
  checkpoint: str = "newest",
) -> tuple[step.TrainState, dict[str, Any]]:
  """The state in one of a run's checkpoints, and the checkpoint's metadata.

  The arrays lie on `mesh`, which need not be that of the training. Unless the
  `checkpoints` are open already, they are opened read-only. `checkpoint` is
  "newest", "best" or a step, as in `Checkpoints.restore`.

  Raises:
    UserError: `workdir` holds no run, or no such checkpoint, or the mesh does
      not fit its network.
  """
  recipe = Recipe.from_config(load_config(workdir))
  towers, model_devices = recipe.network.towers, mesh.shape[sharding.MODEL]
  if towers % model_devices:
    raise UserError(
      f"the network of {workdir} has {towers} tower(s), which cannot be divided"
      f" over the {model_devices} devices of the mesh axis 'model': set"
      " mesh.model=1."
    )
  abstract = step.abstract_state(recipe.network, recipe.optimizer, mesh)
  opened = checkpoints or open_checkpoints(workdir, read_only=True)
  try:
    restored = opened.restore(step.to_dict(abstract), checkpoint)
  finally:
    if checkpoints is None:
      opened.close()
  if restored is None:
    raise UserError(
      f"{workdir} has no checkpoint yet. A training writes its first one after"
      " its first evaluation."
    )
  arrays, metadata = restored
  return step.from_dict(arrays, abstract), metadata


def load_data(
  workdir: str,
  config: dict[str, Any],
  data_dir: str = "",
  metadata: Mapping[str, Any] | None = None,
) -> RunData:
  """The classes and pixel statistics of a run, as `run_data.load`.

  Args:
    workdir: of the run.
    config: of the run.
    data_dir: where the dataset is now; "": where it was in training. Only a run
      that began before workdirs had these files needs it, once.
    metadata: of a checkpoint.
  """
  return run_data.load(
    workdir,
    config,
    lambda split: open_split(config, split, data_dir),
    (metadata or {}).get("data", {}).get("train", ""),
  )


@dataclasses.dataclass(frozen=True)
class Predictor:
  """The network of a checkpoint on a mesh.

  Called with images uint8[B,S,S,3] on the devices, it returns the logarithms of
  the class probabilities, f32[B,classes].
  """

  predict: Predict
  step: int  # of the checkpoint
  data: RunData  # of the run, such as its classes

  def __call__(self, images: jax.Array) -> jax.Array:
    return self.predict(images)


def load_predictor(
  workdir: str,
  mesh: Mesh,
  views: int,
  data_dir: str,
  checkpoint: str = "newest",
) -> Predictor:
  """The network of a run, ready to predict on `mesh`.

  Arguments and errors are those of `load_state`, `step.make_predict` and
  `load_data`.
  """
  config = load_config(workdir)
  state, metadata = load_state(workdir, mesh, checkpoint=checkpoint)
  data = load_data(workdir, config, data_dir, metadata)
  return make_predictor(
    state.net, data, config, views, mesh, number=int(state.step)
  )


def make_predictor(
  net: AlexNet,
  data: RunData,
  config: Mapping[str, Any],
  views: int,
  mesh: Mesh,
  number: int,
) -> Predictor:
  """The parameters `net`, on `mesh`, of step `number`; see `load_predictor`."""
  statistics = data.image_statistics(config, mesh)
  predict = step.make_predict(net.towers.network, views, mesh)
  return Predictor(
    lambda images: predict(net, images, statistics), number, data
  )


def open_split(
  config: dict[str, Any], split: str, data_dir: str = ""
) -> sources.Source:
  """Opens a split of a run; the training split excludes held-out examples.

  Args:
    config: of the run.
    split: "train", "validation" or "test", as the configuration names them.
    data_dir: where the dataset is now; "": where it was in training.

  Raises:
    UserError: the dataset is missing.
  """
  source = sources.open_split(
    config["dataset"], config["splits"][split], data_dir or config["data_dir"]
  )
  if split == "train":
    seeds = streams.hold_out_seeds(config["random_streams"], config["seed"])
    source, _ = sources.hold_out(source, config["holdout"], *seeds)
  return source


def batch_size_on(config: Mapping[str, Any], mesh: Mesh) -> int:
  """The batch size of a run, rounded up to a multiple of the axis "data"."""
  batch_size = config["batch_size"]
  return batch_size + -batch_size % mesh.shape[sharding.DATA]


def example_batches(
  config: dict[str, Any],
  source: sources.Source,
  mesh: Mesh,
  title: str,
  num_examples: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields examples in order, each once, and shows a progress bar.

  The batches are on the host, as of `pipeline.evaluation_batches`.

  Args:
    config: of a run; the batches are as large as `batch_size_on` says.
    mesh: the mesh that the batches will be placed on.
    title: shown beside the bar.
    num_examples: the batches end with the one that holds this many; 0: all.
  """
  return pipeline.evaluation_batches(
    source,
    batch_size=batch_size_on(config, mesh),
    size=config["image_size"],
    rescale=config["pixels"]["rescale"],
    max_undecodable=config["max_undecodable"],
    num_examples=num_examples,
    title=title,
    threads=config["input_threads"],
  )


class Run(NamedTuple):
  """A run on disk."""

  workdir: str  # its directory, which is also its name
  config: dict[str, Any]  # from config.json
  lines: list[dict[str, Any]]  # of metrics.jsonl
  net: AlexNet | None  # of a checkpoint, if there is one
  metadata: dict[str, Any]  # of that checkpoint
  mesh: Mesh  # of this machine, on which `net` lies
  checkpoint: str = "newest"  # which one: "newest", "best" or a step
  step: int = 0  # of that checkpoint

  def split(self, name: str) -> list[dict[str, Any]]:
    """The lines of "train" or "validation"."""
    return [line for line in self.lines if line["split"] == name]


def load(workdir: str, checkpoint: str = "newest") -> Run:
  """Reads a run, with a checkpoint as of `load_state` if it has any.

  Raises:
    UserError: `workdir` is not a run's directory, or there is no such
      checkpoint.
  """
  config = load_config(workdir)
  mesh = sharding.make_mesh(towers=config["network"]["towers"])
  net, metadata, number = None, {}, 0
  if newest_step(workdir) >= 0:
    state, metadata = load_state(workdir, mesh, checkpoint=checkpoint)
    net, number = state.net, int(state.step)
  lines = metrics.read(workdir)
  return Run(workdir, config, lines, net, metadata, mesh, checkpoint, number)
