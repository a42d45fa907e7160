"""Training: from a configuration to a workdir."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax import datasets, input_pipeline, metrics, sharding, step
from alexnet_jax import network as networks
from alexnet_jax.augment import Augmentation
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.command import UserError
from alexnet_jax.datasets import Source
from alexnet_jax.evaluate import evaluate, image_statistics
from alexnet_jax.optimizer import make_schedule, momentum_sgd
from alexnet_jax.timetable import Stopwatch, Timetable


def train_and_evaluate(config: ConfigDict, workdir: str) -> None:
  """Trains as `config` says, from where `workdir` stands to the end.

  Args:
    config: of configs/, locked.
    workdir: of this run alone; created when the first thing is written.

  Raises:
    UserError: a mistake in configuration, data or workdir, before anything is
      written; or a loss that is not finite.
  """
  _check_workdir(workdir, config)
  network = networks.from_dict(config.network.to_dict(), config.num_classes)
  mesh = sharding.make_mesh(
    config.mesh.data, config.mesh.model, towers=network.towers
  )
  sharding.check_batch_size(config.batch_size, mesh)
  schedule = make_schedule(**config.schedule)
  optimizer = momentum_sgd(**config.optimizer)
  augmentation = Augmentation(**config.augmentation)
  train, validation = _open_splits(config)
  timetable = Timetable(config, len(train))

  abstract = step.abstract_state(network, mesh)
  checkpoints = Checkpoints(f"{workdir}/checkpoints")
  restored = checkpoints.restore(step.to_dict(abstract))
  if restored:
    arrays, metadata = restored
    state = step.from_dict(arrays, abstract)
    schedule = dataclasses.replace(schedule, **metadata["schedule"])
  else:
    state = step.init_state(network, optimizer, config.seed, mesh)
  start = int(state.step)
  if start >= timetable.total:
    print(f"{workdir}: finished after {start} steps")
    metrics.print_table(metrics.read(workdir))
    return

  _write_config(workdir, config)
  writer = metrics.MetricsWriter(workdir)
  writer.resume(start)
  progress = metrics.Progress(timetable.total, config.batch_size)
  progress.say(_greeting(config, mesh, train, validation, timetable, start))
  statistics = image_statistics(train, config.image_size, mesh)
  train_step = step.make_train_step(network, augmentation, optimizer, mesh)
  predict = step.make_predict(network, 1, mesh)
  key = sharding.place(jax.random.key(config.seed), sharding.REPLICATED, mesh)
  batches = input_pipeline.to_device(
    input_pipeline.train_batches(
      train,
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=start,
      size=config.image_size,
      max_undecodable=config.max_undecodable,
    ),
    sharding.batch_sharding(mesh),
  )

  def validate(net) -> dict[str, float]:
    host_batches = input_pipeline.evaluation_batches(
      validation,
      batch_size=config.batch_size,
      size=config.image_size,
      max_undecodable=config.max_undecodable,
    )
    return evaluate(
      [lambda images: predict(net, images, statistics)],
      input_pipeline.to_device(host_batches, sharding.batch_sharding(mesh)),
      mesh,
      len(validation),
    )

  stopwatch = Stopwatch(config.batch_size)
  with progress:
    progress.phase("compiling")
    for now in range(start + 1, timetable.total + 1):
      with stopwatch.waiting():
        batch = next(batches)
      rate = schedule.rate(timetable.epoch(now - 1))
      state, results = train_step(
        state, batch, statistics, key, np.float32(rate)
      )
      results = {name: float(x) for name, x in results.items()}
      _check_finite(results["loss"], now, rate)
      stopwatch.step_ends()
      progress.advance(now)
      epoch = timetable.epoch(now)
      if timetable.logs(now):
        speed = stopwatch.read()
        writer.write(
          now, epoch, "train", learning_rate=rate, **results, **speed
        )
        progress.report(now, results["loss"], results["top1_error"], **speed)
      if timetable.evaluates(now):
        progress.phase("evaluating")
        errors = validate(state.net)
        schedule.observe(errors["top1_error"])
        writer.write(now, epoch, "validation", views=1, **errors)
        progress.say(
          f"epoch {epoch:.4g}: validation top-1 error"
          f" {errors['top1_error']:.2%}, top-5 {errors['top5_error']:.2%},"
          f" loss {errors['loss']:.4f}"
        )
      if timetable.saves(now):
        checkpoints.save(
          now, step.to_dict(state), _metadata(config, mesh, schedule)
        )
        stopwatch.pause()
  checkpoints.close()
  writer.close()
  metrics.print_table(metrics.read(workdir))


def _check_workdir(workdir: str, config: ConfigDict) -> None:
  """Refuses a workdir of another configuration."""
  path = pathlib.Path(workdir, "config.json")
  if path.exists():
    configs.check_resume(json.loads(path.read_text()), configs.to_json(config))


def _write_config(workdir: str, config: ConfigDict) -> None:
  path = pathlib.Path(workdir, "config.json")
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(configs.to_json(config), indent=2) + "\n")


def _open_splits(config: ConfigDict) -> tuple[Source, Source]:
  """The images to train on, and those that play validation.

  With `holdout` these are training images kept apart, and the official
  validation split is left to `alexnet_jax.evaluate`.
  """
  train = datasets.open_split(
    config.dataset, config.splits.train, config.data_dir
  )
  if train.num_classes != config.num_classes:
    raise UserError(
      f"num_classes={config.num_classes}, but {config.dataset} has"
      f" {train.num_classes} classes: set"
      f" --config.num_classes={train.num_classes}."
    )
  if config.holdout:
    return datasets.hold_out(train, config.holdout, config.seed)
  return train, datasets.open_split(
    config.dataset, config.splits.validation, config.data_dir
  )


def _greeting(
  config: ConfigDict,
  mesh: Mesh,
  train: Source,
  validation: Source,
  timetable: Timetable,
  start: int,
) -> str:
  """What is going to happen, and what to expect of the loss."""
  chance = math.log(config.num_classes)
  played_by = (
    f"{len(validation):,} training images held out"
    if config.holdout
    else f"the {len(validation):,} images of the split"
    f" {config.splits.validation!r}"
  )
  begun = f", resumed after step {start:,}" if start else ""
  return (
    f"{config.dataset}: {len(train):,} training images; validation is"
    f" {played_by}\n"
    f"mesh {sharding.describe_mesh(mesh)}; {timetable.total:,} steps of"
    f" {config.batch_size} images{begun}; a batch may span two epochs\n"
    f"ln({config.num_classes}) = {chance:.3f} is the loss of guessing: it"
    " starts a little above that and may stay near it for a while"
  )


def _check_finite(loss: float, now: int, rate: float) -> None:
  if not math.isfinite(loss):
    raise UserError(
      f"the loss is {loss} at step {now} (learning rate {rate:g}). The last"
      " checkpoint is untouched. Try a lower schedule.learning_rate, check the"
      " images with `python -m alexnet_jax.prepare --check`, or another seed."
    )


def _metadata(config: ConfigDict, mesh: Mesh, schedule: Any) -> dict[str, Any]:
  return {
    "config": configs.to_json(config),
    "mesh": dict(mesh.shape),
    "schedule": dataclasses.asdict(schedule),
    "versions": {"jax": jax.__version__},
  }
