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

from alexnet_jax.data import pipeline, sources
from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.data.pixels import Pixels
from alexnet_jax.data.sources import Source
from alexnet_jax.model import alexnet, sharding
from alexnet_jax.model import network as networks
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import layer_counts, shapes
from alexnet_jax.model.sharding import BATCH, REPLICATED
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import provenance, values
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import host_crops, step, streams
from alexnet_jax.training import schedule as schedules
from alexnet_jax.training.optimizer import make_optimizer
from alexnet_jax.training.schedule import Schedule, make_schedule
from alexnet_jax.training.timetable import Timetable


class Recipe(NamedTuple):
  """What the compiled programs depend on, apart from the mesh.

  Training, audit, benchmarks and sweeps compile the programs made here.
  """

  network: Network
  batch_size: int  # B, global
  image_size: int = 256  # S, side of the stored images in pixels
  augmentation: Augmentation = Augmentation()  # of the training images
  optimizer: optax.GradientTransformation = make_optimizer()
  pixels: Pixels = Pixels()
  random_streams: str = streams.SEPARATE

  @classmethod
  def from_config(
    cls, config: Mapping[str, Any], batch_size: int = 0
  ) -> "Recipe":
    """The recipe of a configuration in plain dictionaries, as in config.json.

    `batch_size` replaces that of the configuration, unless it is 0.

    Raises:
      UserError: a value is not valid, or the network cannot be built.
    """
    values.check(config)
    network = networks.from_dict(config["network"], config["num_classes"])
    shapes(network)  # checks it, before a mesh is made for its towers
    return cls(
      network,
      batch_size or config["batch_size"],
      config["image_size"],
      configs.call(Augmentation, config, "augmentation"),
      configs.call(make_optimizer, config, "optimizer"),
      make_pixels(config),
      config["random_streams"],
    )

  def sent_size(self, mesh: Mesh) -> int:
    """Side of the images that the devices receive: of the crops, if enough."""
    crops = host_crops.are_sent(self.augmentation, mesh)
    return self.network.crop_size if crops else self.image_size

  def crops(self, seed: int, mesh: Mesh) -> pipeline.Crops | None:
    """The parts of the training images that are sent; None: all of them."""
    if self.sent_size(mesh) == self.image_size:
      return None
    return host_crops.training_crops(
      self.augmentation,
      self.image_size,
      self.network.crop_size,
      self.random_streams,
      seed,
    )

  def centre_crops(self, mesh: Mesh) -> pipeline.Crops | None:
    """The same of the images of an evaluation of one view."""
    if self.sent_size(mesh) == self.image_size:
      return None
    return pipeline.Crops.centred(self.image_size, self.network.crop_size)

  def check_memory(self, mesh: Mesh) -> None:
    """Raises UserError if this cannot fit in the memory of the mesh.

    Counts what is certainly there at the same time: weights, gradients and
    velocity once, the pixels and the inputs of a batch.
    """
    network = self.network
    weights = 3 * layer_counts(network)["totals"]["parameter_bytes"]
    # uint8 and float32
    pixels = self.sent_size(mesh) ** 2 + 4 * network.crop_size**2
    images = 3 * pixels * self.batch_size
    present = sharding.memory(mesh)
    if present and weights + images > present:
      raise UserError(
        f"a batch of {self.batch_size:,} images of {self.image_size} x"
        f" {self.image_size} pixels needs at least {images / 1e9:,.1f} GB, and"
        f" this network with its gradients {weights / 1e9:,.1f} GB, but the"
        f" devices have {present / 1e9:,.1f} GB. Choose a smaller batch_size,"
        " image_size, num_classes or network.width."
      )

  def train_step(self, mesh: Mesh) -> Callable[..., Any]:
    """The training step; it is compiled when first called."""
    return step.make_train_step(
      self.network, self.augmentation, self.optimizer, mesh
    )

  def predict(self, mesh: Mesh) -> Callable[..., jax.Array]:
    """The prediction from one view; it is compiled when first called."""
    return step.make_predict(self.network, 1, mesh)

  def abstract_arguments(self, mesh: Mesh) -> tuple[Any, ...]:
    """The training step's arguments as shapes, dtypes and shardings.

    State, batch, statistics, random streams and learning rate. The devices of
    `mesh` need not be attached to this machine.
    """

    def array(shape, dtype, spec=REPLICATED):
      place = NamedSharding(mesh, spec)
      return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    count, side = self.batch_size, (self.image_size, self.image_size, 3)
    sent = (count, *[self.sent_size(mesh)] * 2, 3)
    integers = array((count,), jnp.int32, BATCH)
    batch = {
      "image": array(sent, jnp.uint8, BATCH),
      "weight": array((count,), jnp.float32, BATCH),
    } | dict.fromkeys(("label", "index", "epoch"), integers)
    statistics = ImageStatistics(
      array(side, jnp.float32), array((3, 3), jnp.float32), self.pixels
    )
    random = jax.tree.map(
      lambda key: array((), key.dtype),
      jax.eval_shape(lambda: streams.make_streams(self.random_streams, 0)),
    )
    state = step.abstract_state(self.network, self.optimizer, mesh)
    return state, batch, statistics, random, array((), jnp.float32)

  def random_arguments(self, mesh: Mesh) -> tuple[Any, ...]:
    """Values for the same arguments: initial weights, random images and labels.

    They are the same on every mesh.
    """
    count, side = self.batch_size, (self.image_size, self.image_size, 3)
    sent = (count, *[self.sent_size(mesh)] * 2, 3)
    random = np.random.default_rng(0)
    batch = {
      "image": random.integers(0, 256, sent, np.uint8),
      "label": random.integers(0, self.network.num_classes, count, np.int32),
      "index": np.arange(count, dtype=np.int32),
      "epoch": np.zeros(count, np.int32),
      "weight": np.ones(count, np.float32),
    }
    statistics = ImageStatistics(
      np.full(side, 127.5, np.float32), np.eye(3, dtype=np.float32), self.pixels
    )
    keys = streams.make_streams(self.random_streams, 0)
    values = [batch, statistics, keys, np.float32(1e-3)]
    specs = [BATCH, REPLICATED, REPLICATED, REPLICATED]
    state = step.init_state(self.network, self.optimizer, 0, mesh)
    return state, *sharding.place(values, specs, mesh)


def make_pixels(config: Mapping[str, Any]) -> Pixels:
  """The `pixels` group of a configuration, also of config.json's lists.

  Raises:
    UserError: a wrong key or value.
  """
  pixels = configs.call(Pixels, config, "pixels")
  pixels = dataclasses.replace(
    pixels, mean=tuple(pixels.mean), deviation=tuple(pixels.deviation)
  )
  pixels.check(config["network"]["channels"])
  return pixels


class Job(NamedTuple):
  """A training, ready to start."""

  config: ConfigDict
  recipe: Recipe
  mesh: Mesh
  schedule: Schedule  # its state changes during training
  train: Source
  validation: Source  # the images that training is evaluated on
  timetable: Timetable

  def summary(self, start_step: int) -> str:
    """What the run will do from `start_step` on, in a few lines."""
    config, count = self.config, f"{len(self.validation):,}"
    validation = f"the {count} images of the split {config.splits.validation!r}"
    if config.holdout:
      validation = f"{count} training images held out"
    resumed = f", resumed after step {start_step:,}" if start_step else ""
    chance = math.log(config.num_classes)
    note = rescaling_note(config, self.train)
    return (
      f"{config.dataset}: {len(self.train):,} training images; validation on"
      f" {validation}\n"
      f"mesh {sharding.describe_mesh(self.mesh)};"
      f" {self.timetable.last_step:,} steps of {config.batch_size}"
      f" images{resumed}; a batch may span two epochs\n"
      f"{_arithmetic(config.network)}\n"
      f"{self._loading()}{self._source_of_pixels()}\n"
      f"chance-level loss is ln({config.num_classes}) = {chance:.3f}; expect to"
      " start just above it and possibly stay there for a while"
      + (f"\n{note}" if note else "")
    )

  def _loading(self) -> pipeline.Loading:
    """How this process loads its part of the images of each batch."""
    config = self.config
    _, num_processes = sharding.process_share(self.mesh)
    images = config.batch_size // num_processes
    return pipeline.Loading.plan(
      config.input_threads, images * self.recipe.sent_size(self.mesh) ** 2 * 3
    )

  def _source_of_pixels(self) -> str:
    pixels = self.train.pixels
    if pixels is None:
      return ""
    if pixels.size != self.config.image_size:
      return (
        f"; the raw pixels are not used: they have {pixels.size} pixels a side,"
        f" and image_size={self.config.image_size}"
      )
    return "; raw pixels are read instead of JPEGs"

  def check_data(self, saved: Mapping[str, str]) -> None:
    """Raises UserError unless the images are those that the run began with.

    `saved` has fingerprints by part, "train" and "validation".
    """
    present = self._fingerprints()
    for split, fingerprint in saved.items():
      if present[split] != fingerprint:
        raise UserError(
          f"the {split} images have changed since this run began: they were"
          f" {fingerprint}, now they are {present[split]}. Restore that dataset"
          " (data_dir), or start a new run with another --workdir."
        )

  def metadata(self, schedule: Schedule) -> dict[str, Any]:
    """What a checkpoint records beside its arrays, with the present `schedule`.

    The position in the data is not among it: it is the step (data/pipeline).
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

  Raises:
    UserError: as `Recipe.from_config`, or a network key on the command line has
      no effect on the network.
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
  network, schedule = recipe.network, config.schedule
  mesh = sharding.make_mesh(
    config.mesh.data, config.mesh.model, towers=network.towers
  )
  sharding.check_batch_size(config.batch_size, mesh)
  configs.check_overrides(unused_keys(config))
  images = config.batch_size // mesh.shape[sharding.DATA]  # of each device
  recipe.augmentation.check(images, config.image_size, network.crop_size)
  if schedule.conv1_frozen_from and network.conv1 is None:
    raise UserError(
      f"schedule.conv1_frozen_from={schedule.conv1_frozen_from}, but this"
      " network has no conv1. Set schedule.conv1_frozen_from=0."
    )
  recipe.check_memory(mesh)
  # Checks the layers that the optimiser's keys name.
  jax.eval_shape(recipe.optimizer.init, alexnet.abstract_net(network))
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
  if config.early_stopping and not config.eval_every_epochs:
    raise UserError(
      f"early_stopping={config.early_stopping} counts evaluations, but"
      " eval_every_epochs=0 evaluates at the end only. Set eval_every_epochs,"
      " such as 1, or early_stopping=0."
    )
  schedule = timed_schedule(config, timetable)
  return Job(config, recipe, mesh, schedule, train, validation, timetable)


def timed_schedule(config: ConfigDict, timetable: Timetable) -> Schedule:
  """The schedule of a run with this timetable.

  Raises:
    UserError: a wrong key or value, or a schedule that depends on evaluations
      in a run that has none.
  """
  end_epoch = timetable.epoch(timetable.last_step)
  schedule = configs.call(
    make_schedule,
    config,
    "schedule",
    # Not the end of the last step: a quarter of 90 epochs is 22.5.
    total_epochs=end_epoch if config.total_steps else config.total_epochs,
    end_epoch=end_epoch,
    step_epochs=timetable.epoch(1),
  )
  if schedule.observes and not config.eval_every_epochs:
    raise UserError(
      f"schedule.name={config.schedule.name} follows the validation error, but"
      " eval_every_epochs=0 evaluates at the end only, so that the learning"
      " rate would never drop. Set eval_every_epochs, such as 1, or choose"
      " another schedule."
    )
  return schedule


def rescaling_note(config: Mapping[str, Any], source: Source) -> str:
  """A sentence if images were prepared otherwise than `pixels.rescale`."""
  stored, wanted = sources.stored_rescaling(source), config["pixels"]["rescale"]
  if stored in ("", wanted):
    return ""
  return (
    f"pixels.rescale={wanted} has no effect: the images of {source.name} were"
    f" prepared with --rescale={stored}. Prepare them under another --name with"
    f" --rescale={wanted} to train on them as configured."
  )


def unused_keys(config: ConfigDict) -> dict[str, str]:
  """Keys of a configuration that would have no effect, with the reason."""
  network = networks.from_dict(config.network.to_dict(), config.num_classes)
  keys = networks.unused_keys(network)
  keys |= schedules.unused_keys(config.schedule.name)
  if config.pixels.mean:
    keys["centre_mean"] = "pixels.mean is the same at every pixel"
  if not config.start_from:
    starts = ("start_layers", "start_checkpoint", "start_mean_image")
    keys |= dict.fromkeys(starts, "start_from is empty")
  if not (config.augmentation.crop or config.augmentation.flip):
    reason = "augmentation.crop and augmentation.flip are off"
    keys["augmentation.shared_by"] = reason
  return keys


def _arithmetic(network: ConfigDict) -> str:
  """The types of the activations and products, as text for the log."""
  if network.compute_dtype != "float32":
    return f"activations and products in {network.compute_dtype}"
  return {
    "float32": "activations and products in float32",
    "tf32": "activations in float32, products in TF32 where a GPU has it",
    "default": "activations in float32, products as the compiler chooses",
  }[network.precision]


def _open_splits(config: ConfigDict) -> tuple[Source, Source]:
  """The images to train on, and those that training is evaluated on.

  With `holdout` the latter are training images, and the official validation
  split is left to `alexnet_jax.evaluate`.
  """
  dataset, splits, folder = config.dataset, config.splits, config.data_dir
  train = sources.open_split(dataset, splits.train, folder)
  if train.num_classes != config.num_classes:
    raise UserError(
      f"num_classes={config.num_classes}, but {dataset} has {train.num_classes}"
      f" classes. Set --config.num_classes={train.num_classes}."
    )
  if config.holdout:
    seeds = streams.hold_out_seeds(config.random_streams, config.seed)
    return sources.hold_out(train, config.holdout, *seeds)
  return train, sources.open_split(dataset, splits.validation, folder)
