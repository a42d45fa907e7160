"""What a configuration asks for, checked before anything is written.

A `Recipe` holds what the compiled programs depend on. A `Job` is a whole
training: the recipe with its mesh, images, schedule and timetable. The modules
below take plain typed arguments; none of them reads a ConfigDict.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from alexnet_jax.data import sources
from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.data.sources import Source
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import BATCH, REPLICATED
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import provenance
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import schedule as schedules
from alexnet_jax.training import step
from alexnet_jax.training.optimizer import make_optimizer
from alexnet_jax.training.schedule import Schedule, make_schedule
from alexnet_jax.training.timetable import Timetable


class Recipe(NamedTuple):
  """What the compiled programs depend on, apart from the mesh.

  Training, audit, benchmarks and sweeps compile the programs made here.

  Attributes:
    network: the network to train and to evaluate.
    batch_size: B, global.
    image_size: S, side of the stored images in pixels.
    augmentation: of the training images uint8[B,S,S,3].
    optimizer: computes the update.
  """

  network: Network
  batch_size: int
  image_size: int = 256
  augmentation: Augmentation = Augmentation()
  optimizer: optax.GradientTransformationExtraArgs = make_optimizer()

  @classmethod
  def from_config(
    cls, config: Mapping[str, Any], batch_size: int = 0
  ) -> "Recipe":
    """The recipe of a configuration.

    Args:
      config: plain dictionaries, as in config.json.
      batch_size: global; 0: the configuration's.

    Raises:
      UserError: the network cannot be built, or a group has a wrong key.
    """
    return cls(
      networks.from_dict(config["network"], config["num_classes"]),
      batch_size or config["batch_size"],
      config["image_size"],
      configs.call(Augmentation, config, "augmentation"),
      configs.call(make_optimizer, config, "optimizer"),
    )

  def train_step(self, mesh: Mesh) -> Callable[..., Any]:
    """The training step; it is compiled when first called."""
    return step.make_train_step(
      self.network, self.augmentation, self.optimizer, mesh
    )

  def predict(self, mesh: Mesh, views: int = 1) -> Callable[..., jax.Array]:
    """The prediction for one batch; it is compiled when first called."""
    return step.make_predict(self.network, views, mesh)

  def abstract_state(self, mesh: Mesh) -> step.TrainState:
    """The training state's shapes, dtypes and shardings on `mesh`."""
    return step.abstract_state(self.network, self.optimizer, mesh)

  def init_state(self, mesh: Mesh, seed: int = 0) -> step.TrainState:
    """The initial training state, the same on every mesh."""
    return step.init_state(self.network, self.optimizer, seed, mesh)

  def abstract_arguments(self, mesh: Mesh) -> tuple[Any, ...]:
    """The training step's arguments as shapes, dtypes and shardings.

    The devices of `mesh` need not be attached to this machine.

    Returns:
      State, batch, statistics, key and learning rate.
    """

    def array(shape, dtype, spec=REPLICATED):
      place = NamedSharding(mesh, spec)
      return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    count, side = self.batch_size, (self.image_size, self.image_size, 3)
    batch = {
      "image": array((count, *side), jnp.uint8, BATCH),
      "label": array((count,), jnp.int32, BATCH),
      "index": array((count,), jnp.int32, BATCH),
      "epoch": array((count,), jnp.int32, BATCH),
      "weight": array((count,), jnp.float32, BATCH),
    }
    statistics = ImageStatistics(
      array(side, jnp.float32), array((3, 3), jnp.float32)
    )
    key = array((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    state = self.abstract_state(mesh)
    return state, batch, statistics, key, array((), jnp.float32)

  def random_arguments(self, mesh: Mesh) -> tuple[Any, ...]:
    """Values for the same arguments, the same on every mesh.

    Initial weights, images of random pixels, random labels.
    """
    _, *abstract = self.abstract_arguments(mesh)
    count, side = self.batch_size, (self.image_size, self.image_size, 3)
    random = np.random.default_rng(0)
    batch = {
      "image": random.integers(0, 256, (count, *side), np.uint8),
      "label": random.integers(0, self.network.num_classes, count, np.int32),
      "index": np.arange(count, dtype=np.int32),
      "epoch": np.zeros(count, np.int32),
      "weight": np.ones(count, np.float32),
    }
    statistics = ImageStatistics(
      np.full(side, 127.5, np.float32), np.eye(3, dtype=np.float32)
    )
    values = [batch, statistics, jax.random.key(0), np.float32(1e-3)]
    placed = jax.tree.map(
      lambda value, like: jax.device_put(value, like.sharding), values, abstract
    )
    return self.init_state(mesh), *placed


class Job(NamedTuple):
  """A training, ready to start.

  Attributes:
    config: the configuration.
    recipe: its compiled programs.
    mesh: the devices to train on.
    schedule: the learning rates; its state changes during training.
    train: the training images.
    validation: the images that training is evaluated on.
    timetable: when the run logs, evaluates, saves and ends.
  """

  config: ConfigDict
  recipe: Recipe
  mesh: Mesh
  schedule: Schedule
  train: Source
  validation: Source
  timetable: Timetable

  def summary(self, start_step: int) -> str:
    """What the run will do from `start_step` on, in three lines."""
    config = self.config
    validation = (
      f"{len(self.validation):,} training images held out"
      if config.holdout
      else f"the {len(self.validation):,} images of the split"
      f" {config.splits.validation!r}"
    )
    resumed = f", resumed after step {start_step:,}" if start_step else ""
    chance = math.log(config.num_classes)
    return (
      f"{config.dataset}: {len(self.train):,} training images; validation on"
      f" {validation}\n"
      f"mesh {sharding.describe_mesh(self.mesh)};"
      f" {self.timetable.last_step:,} steps of {config.batch_size}"
      f" images{resumed}; a batch may span two epochs\n"
      f"chance-level loss is ln({config.num_classes}) = {chance:.3f}; expect to"
      " start just above it and possibly stay there for a while"
    )

  def check_data(self, saved: Mapping[str, str]) -> None:
    """Checks that the images are those that the run began with.

    Args:
      saved: the fingerprints in a checkpoint's metadata.

    Raises:
      UserError: they are others.
    """
    for split, fingerprint in self._fingerprints().items():
      if saved[split] != fingerprint:
        raise UserError(
          f"the {split} images have changed since this run began: they were"
          f" {saved[split]}, now they are {fingerprint}. Restore that dataset"
          " (data_dir), or start a new run with another --workdir."
        )

  def metadata(self, schedule: Schedule) -> dict[str, Any]:
    """What a checkpoint records beside its arrays.

    The position in the data is not among it: it is the step (data/pipeline).

    Args:
      schedule: in its present state.
    """
    return {
      "config": configs.to_json(self.config),
      "data": self._fingerprints(),
      "mesh": dict(self.mesh.shape),
      "schedule": dataclasses.asdict(schedule),
      "versions": provenance.versions(),
      "git_commit": provenance.git_commit(),
    }

  def _fingerprints(self) -> dict[str, str]:
    return {
      "train": self.train.fingerprint,
      "validation": self.validation.fingerprint,
    }


def make_recipe(config: ConfigDict, batch_size: int = 0) -> Recipe:
  """The recipe of the configuration on the command line.

  Args:
    config: the configuration.
    batch_size: global; 0: the configuration's.

  Raises:
    UserError: the network cannot be built, or a network key on the command line
      has no effect on it.
  """
  recipe = Recipe.from_config(config.to_dict(), batch_size)
  configs.check_overrides(networks.unused_keys(recipe.network))
  return recipe


def make_job(config: ConfigDict) -> Job:
  """Opens the data and checks that the parts of a configuration fit together.

  Raises:
    UserError: they do not, or a key or the dataset is wrong.
  """
  recipe = Recipe.from_config(config.to_dict())
  network = recipe.network
  mesh = sharding.make_mesh(
    config.mesh.data, config.mesh.model, towers=network.towers
  )
  sharding.check_batch_size(config.batch_size, mesh)
  configs.check_overrides(unused_keys(config))
  recipe.augmentation.check(
    config.batch_size // mesh.shape[sharding.DATA],
    config.image_size,
    network.crop_size,
  )
  if config.schedule.conv1_frozen_from and network.conv1 is None:
    raise UserError(
      f"schedule.conv1_frozen_from={config.schedule.conv1_frozen_from}, but"
      " this network has no conv1. Set schedule.conv1_frozen_from=0."
    )
  if config.checkpoints_to_keep < 1:
    raise UserError(
      "checkpoints_to_keep must be at least 1 (got"
      f" {config.checkpoints_to_keep}): a run resumes from its newest"
      " checkpoint."
    )
  train, validation = _open_splits(config)
  timetable = Timetable(
    num_examples=len(train),
    batch_size=config.batch_size,
    total_epochs=config.total_epochs,
    total_steps=config.total_steps,
    log_every_steps=config.log_every_steps,
    diagnose_every_lines=config.diagnose_every_lines,
    eval_every_epochs=config.eval_every_epochs,
    checkpoint_every_steps=config.checkpoint_every_steps,
  )
  schedule = configs.call(
    make_schedule,
    config,
    "schedule",
    total_epochs=config.total_epochs,
    end_epoch=timetable.epoch(timetable.last_step),
  )
  return Job(config, recipe, mesh, schedule, train, validation, timetable)


def unused_keys(config: ConfigDict) -> dict[str, str]:
  """Keys of a configuration that would have no effect, with the reason."""
  network = networks.from_dict(config.network.to_dict(), config.num_classes)
  keys = networks.unused_keys(network) | schedules.unused_keys(
    config.schedule.name
  )
  if not config.start_from:
    keys["start_layers"] = "start_from is empty"
  if not (config.augmentation.crop or config.augmentation.flip):
    keys["augmentation.shared_by"] = (
      "augmentation.crop and augmentation.flip are off"
    )
  return keys


def _open_splits(config: ConfigDict) -> tuple[Source, Source]:
  """The images to train on, and those that training is evaluated on.

  With `holdout` the latter are training images, and the official validation
  split is left to `alexnet_jax.evaluate`.
  """
  train = sources.open_split(
    config.dataset, config.splits.train, config.data_dir
  )
  if train.num_classes != config.num_classes:
    raise UserError(
      f"num_classes={config.num_classes}, but {config.dataset} has"
      f" {train.num_classes} classes. Set"
      f" --config.num_classes={train.num_classes}."
    )
  if config.holdout:
    return sources.hold_out(train, config.holdout, config.seed)
  return train, sources.open_split(
    config.dataset, config.splits.validation, config.data_dir
  )
