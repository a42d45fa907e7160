"""What a configuration asks for, checked before anything is written."""

import dataclasses
import math
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax.data import sources
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.sources import Source
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import provenance
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import schedule as schedules
from alexnet_jax.training.optimizer import make_optimizer
from alexnet_jax.training.schedule import Schedule, make_schedule
from alexnet_jax.training.timetable import Timetable


class Job(NamedTuple):
  """What a configuration asks for, as things that can be used.

  Attributes:
    config: asks for it.
    network, mesh, augmentation, optimizer, schedule, timetable: of the run.
    train, validation: the images.
  """

  config: ConfigDict
  network: Network
  mesh: Mesh
  augmentation: Augmentation
  optimizer: optax.GradientTransformationExtraArgs
  schedule: Schedule
  train: Source
  validation: Source
  timetable: Timetable


def make_job(config: ConfigDict) -> Job:
  """Opens the data and checks that network, mesh and schedule fit each other.

  Raises:
    UserError: they do not, or a key or the data set is wrong.
  """
  network = networks.from_dict(config.network.to_dict(), config.num_classes)
  mesh = sharding.make_mesh(
    config.mesh.data, config.mesh.model, towers=network.towers
  )
  sharding.check_batch_size(config.batch_size, mesh)
  configs.check_overrides(unused_keys(config))
  optimizer = configs.call(make_optimizer, config, "optimizer")
  augmentation = configs.call(Augmentation, config, "augmentation")
  augmentation.check(
    config.batch_size // mesh.shape[sharding.DATA],
    config.image_size,
    network.crop_size,
  )
  if config.schedule.conv1_frozen_from and network.conv1 is None:
    raise UserError(
      f"schedule.conv1_frozen_from={config.schedule.conv1_frozen_from}, but"
      " this network has no conv1: set schedule.conv1_frozen_from=0."
    )
  if config.checkpoints_to_keep < 1:
    raise UserError(
      f"checkpoints_to_keep={config.checkpoints_to_keep}: a run goes on from"
      " its newest checkpoint, so keep 1 or more."
    )
  train, validation = _open_splits(config)
  timetable = Timetable(config, len(train))
  schedule = configs.call(
    make_schedule,
    config,
    "schedule",
    total_epochs=config.total_epochs,
    end_epoch=timetable.epoch(timetable.total),
  )
  return Job(
    config,
    network,
    mesh,
    augmentation,
    optimizer,
    schedule,
    train,
    validation,
    timetable,
  )


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
  """The images to train on, and those that play validation.

  With `holdout` these are training images kept apart, and the official
  validation split is left to `alexnet_jax.evaluate`.
  """
  train = sources.open_split(
    config.dataset, config.splits.train, config.data_dir
  )
  if train.num_classes != config.num_classes:
    raise UserError(
      f"num_classes={config.num_classes}, but {config.dataset} has"
      f" {train.num_classes} classes: set"
      f" --config.num_classes={train.num_classes}."
    )
  if config.holdout:
    return sources.hold_out(train, config.holdout, config.seed)
  return train, sources.open_split(
    config.dataset, config.splits.validation, config.data_dir
  )


def greeting(job: Job, start: int) -> str:
  """What is going to happen from step `start` on, and what to expect."""
  config, train = job.config, job.train
  chance = math.log(config.num_classes)
  played_by = (
    f"{len(job.validation):,} training images held out"
    if config.holdout
    else f"the {len(job.validation):,} images of the split"
    f" {config.splits.validation!r}"
  )
  begun = f", resumed after step {start:,}" if start else ""
  return (
    f"{config.dataset}: {len(train):,} training images; validation is"
    f" {played_by}\n"
    f"mesh {sharding.describe_mesh(job.mesh)}; {job.timetable.total:,} steps of"
    f" {config.batch_size} images{begun}; a batch may span two epochs\n"
    f"ln({config.num_classes}) = {chance:.3f} is the loss of guessing: it"
    " starts a little above that and may stay near it for a while"
  )


def check_data(saved: dict[str, str], job: Job) -> None:
  """Refuses to go on with other images than the run began with.

  Args:
    saved: what `metadata` said of the images.
    job: the present one.

  Raises:
    UserError: they are others.
  """
  now = _data(job)
  for split in now:
    if saved[split] != now[split]:
      raise UserError(
        f"the {split} images are not those this run began with: they were"
        f" {saved[split]}, now {now[split]}. Bring that data set back"
        " (data_dir), or start a new run with another --workdir."
      )


def _data(job: Job) -> dict[str, str]:
  return {
    "train": job.train.fingerprint,
    "validation": job.validation.fingerprint,
  }


def metadata(job: Job, schedule: Schedule) -> dict[str, Any]:
  """What a checkpoint says beside its arrays; the position in the data is its
  step, see pipeline."""
  return {
    "config": configs.to_json(job.config),
    "data": _data(job),
    "mesh": dict(job.mesh.shape),
    "schedule": dataclasses.asdict(schedule),
    "versions": provenance.versions(),
    "git_commit": provenance.git_commit(),
  }
