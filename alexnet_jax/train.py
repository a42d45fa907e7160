"""Training: from a configuration to a workdir."""

import collections
import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import (
  cluster,
  datasets,
  input_pipeline,
  metrics,
  provenance,
  sharding,
  step,
)
from alexnet_jax import config as configs
from alexnet_jax import network as networks
from alexnet_jax.augment import Augmentation
from alexnet_jax.checkpoint import Checkpoints, latest_step
from alexnet_jax.command import UserError
from alexnet_jax.datasets import Source
from alexnet_jax.diagnostics import Diagnostics, Verdict, num_images
from alexnet_jax.evaluate import evaluate, image_statistics
from alexnet_jax.files import write_whole
from alexnet_jax.lock import WorkdirLock
from alexnet_jax.network import Network
from alexnet_jax.optimizer import (
  Piecewise,
  Plateau,
  make_schedule,
  momentum_sgd,
)
from alexnet_jax.timetable import Stopwatch, Timetable
from alexnet_jax.transfer import begin_with
from alexnet_jax.watch import Stopped, Watch, how_to_go_on


class _Job(NamedTuple):
  """What a configuration asks for, checked before anything is written."""

  network: Network
  mesh: Mesh
  schedule: Piecewise | Plateau
  train: Source
  validation: Source
  timetable: Timetable


def train_and_evaluate(
  config: ConfigDict,
  workdir: str,
  enough: Callable[[], bool] = lambda: False,
) -> bool:
  """Trains as `config` says, from where `workdir` stands to the end.

  SIGTERM and SIGINT save and leave: at the next batch, that is within a step,
  a batch of the evaluation or a compilation, and the time of a save. However a
  run ends, the same call goes on, and the outcome is that of one whole run.

  Args:
    config: of configs/, locked.
    workdir: of this run alone; created when the first thing is written.
    enough: asked after every checkpoint; True leaves the run as it stands, and
      the next call goes on.

  Returns:
    False after a signal, True at the end or when it was enough.

  Raises:
    UserError: a mistake in configuration, data or workdir, before anything is
      written; or a run that went wrong: numbers not finite, a full disk.
  """
  with (
    Watch(
      config.stall_minutes, None if cluster.alone() else cluster.anyone
    ) as watch,
    cluster.own_folder(workdir) as notes,
  ):
    _check_workdir(workdir, config)
    watch.phase("opening the data")
    job = _make_job(config)
    through = True
    if _is_finished(workdir, job.timetable.total):
      print(f"{workdir}: finished after {job.timetable.total} steps")
    else:
      with WorkdirLock(notes):
        through = _train(job, config, workdir, notes, watch, enough)
    if through:
      metrics.print_table(metrics.read(workdir))
    return through


def _make_job(config: ConfigDict) -> _Job:
  network = networks.from_dict(config.network.to_dict(), config.num_classes)
  mesh = sharding.make_mesh(
    config.mesh.data, config.mesh.model, towers=network.towers
  )
  sharding.check_batch_size(config.batch_size, mesh)
  schedule = configs.call(
    make_schedule, config, "schedule", total_epochs=config.total_epochs
  )
  configs.call(momentum_sgd, config, "optimizer")
  configs.call(Augmentation, config, "augmentation").check(
    config.batch_size // mesh.shape[sharding.DATA],
    config.image_size,
    network.crop_size,
  )
  if config.schedule.conv1_frozen_from and network.conv1 is None:
    raise UserError(
      f"schedule.conv1_frozen_from={config.schedule.conv1_frozen_from}, but"
      " this network has no conv1: set schedule.conv1_frozen_from=0."
    )
  train, validation = _open_splits(config)
  timetable = Timetable(config, len(train))
  return _Job(network, mesh, schedule, train, validation, timetable)


def _train(
  job: _Job,
  config: ConfigDict,
  workdir: str,
  notes: str,
  watch: Watch,
  enough: Callable[[], bool],
) -> bool:
  """Trains; says whether to the end, or until a signal asked to stop.

  Of several processes all write the checkpoints in `workdir`, each its part,
  and all else goes into `notes`, which is `workdir` in one of them.
  """
  network, mesh, schedule, train, validation, timetable = job
  optimizer = momentum_sgd(**config.optimizer)
  augmentation = Augmentation(**config.augmentation)

  watch.phase("reading the checkpoint")
  abstract = step.abstract_state(network, mesh)
  checkpoints = Checkpoints(
    f"{workdir}/checkpoints", config.checkpoints_to_keep
  )
  restored = checkpoints.restore(step.to_dict(abstract))
  evaluation_due, undecodable, left_out = False, 0, set()
  if restored:
    arrays, metadata = restored
    _check_data(metadata["data"], job)
    state = step.from_dict(arrays, abstract)
    schedule = schedule.resumed(metadata["schedule"])
    evaluation_due = metadata["evaluation_due"]
    undecodable = metadata["undecodable"]
    left_out = set(metadata.get("left_out", ()))  # absent in older ones
  else:
    state = step.init_state(network, optimizer, config.seed, mesh)
    if config.start_from:
      begin_with(state.net, config.start_from, config.start_layers, mesh)
  done = int(state.step)

  _write_config(notes, config)
  writer = metrics.MetricsWriter(notes)
  writer.resume(done, evaluation_due)
  progress = metrics.Progress(timetable.total, config.batch_size)
  progress.say(_greeting(config, job, done))
  watch.phase("computing the statistics of the training images")
  statistics = image_statistics(
    train,
    config.image_size,
    mesh,
    mean_size=network.crop_size if config.centre_mean else 0,
  )
  train_step = step.make_train_step(network, augmentation, optimizer, mesh)
  predict = step.make_predict(network, 1, mesh)
  key = step.make_key(config.seed, mesh)
  options = {
    "batch_size": config.batch_size,
    "size": config.image_size,
    "max_undecodable": config.max_undecodable,
  }
  options["process_index"], options["process_count"] = sharding.process_share(
    mesh
  )

  def on_device(host_batches) -> Iterator[step.Batch]:
    batches = input_pipeline.to_device(
      host_batches, sharding.batch_sharding(mesh)
    )
    return watch.guard(batches, "waiting for images")

  def validate() -> float:
    """Writes what the validation images say; returns the top-1 error."""
    progress.phase("evaluating")
    watch.phase("evaluating")
    epoch = timetable.epoch(done)
    errors = evaluate(
      [lambda images: predict(state.net, images, statistics)],
      on_device(input_pipeline.evaluation_batches(validation, **options)),
      mesh,
      len(validation),
      config.max_undecodable,
    )
    schedule.observe(errors["top1_error"])
    writer.write(done, epoch, "validation", views=1, **errors)
    progress.say(
      f"epoch {epoch:.4g}: validation top-1 error"
      f" {errors['top1_error']:.2%}, top-5 {errors['top5_error']:.2%},"
      f" loss {errors['loss']:.4f}"
    )
    return errors["top1_error"]

  def save(validation_error: float | None = None) -> None:
    watch.phase("saving")
    metadata = _metadata(config, job, schedule)
    metadata["evaluation_due"] = evaluation_due
    metadata["undecodable"] = undecodable  # since the last training line
    metadata["left_out"] = sorted(left_out)  # which images, ever
    checkpoints.save(done, step.to_dict(state), metadata, validation_error)

  first = input_pipeline.evaluation_batches(
    train, **options | {"batch_size": num_images(mesh)}
  )
  (looked_at,) = on_device(itertools.islice(first, 1))
  diagnose = Diagnostics(network, mesh, looked_at, statistics)
  verdict = Verdict(config.num_classes)
  batches = on_device(
    input_pipeline.train_batches(
      train,
      seed=config.seed,
      start_step=done,
      left_out=left_out,
      **options,
    )
  )
  stopwatch = Stopwatch(config.batch_size)
  in_flight: collections.deque[tuple[int, float, Any]] = collections.deque()

  def settle(left: int) -> dict[str, float]:
    """Waits for steps until `left` are in flight; what the last one says."""
    nonlocal undecodable
    results = {}
    while len(in_flight) > left:
      number, rate, results = in_flight.popleft()
      results = sharding.fetch(results)
      _check_finite(results["loss"], results.pop("finite"), number, rate)
      results = {name: float(x) for name, x in results.items()}
      verdict.saw(results["loss"])
      undecodable += config.batch_size - int(results.pop("num_examples"))
      watch.stepped()
      stopwatch.step_ends()
      progress.advance(number)
    return results

  try:
    with progress:
      if evaluation_due:  # stopped by a signal before its end
        validate()
        evaluation_due = False
      progress.phase("compiling")
      watch.phase("compiling the training step")
      while done < timetable.total:
        with stopwatch.waiting():
          batch = next(batches)
        rate = schedule.rate(timetable.epoch(done))
        rates = schedule.rates(timetable.epoch(done))
        state, results = train_step(state, batch, statistics, key, rates)
        done += 1
        in_flight.append((done, rate, results))
        # The devices have the next step before the host waits for this one,
        # unless something is to be done between the two.
        between = timetable.logs(done) or timetable.saves(done)
        results = settle(left=0 if between else 1)
        if timetable.logs(done):
          speed = stopwatch.read()
          inside = {}
          if timetable.diagnoses(done):
            inside = diagnose(state.net, state.velocity)
            verdict.measured(inside["score_spread"])
            stopwatch.pause()
          writer.write(
            done,
            timetable.epoch(done),
            "train",
            learning_rate=rate,
            **results,
            undecodable=undecodable,
            **speed,
            **inside,
          )
          undecodable = 0
          progress.report(
            done,
            results["loss"],
            results["top1_error"],
            **speed,
            verdict=verdict.text(),
          )
        error = None
        if timetable.evaluates(done):
          evaluation_due = True
          error = validate()
          evaluation_due = False
        if timetable.saves(done):
          save(error)
          stopwatch.pause()
          if enough():
            break
    checkpoints.wait()
    return True
  except Stopped:
    settle(left=0)
    save()
    checkpoints.wait()
    print(f"stopped after step {done}; it is saved. {how_to_go_on()}")
    return False
  finally:
    checkpoints.close()
    writer.close()


def _is_finished(workdir: str, total: int) -> bool:
  """Whether the last checkpoint and the last evaluation are there."""
  return latest_step(f"{workdir}/checkpoints") >= total and any(
    line["split"] == "validation" and line["step"] >= total
    for line in metrics.read(workdir)
  )


def _check_workdir(workdir: str, config: ConfigDict) -> None:
  """Refuses a workdir of another configuration."""
  path = pathlib.Path(workdir, "config.json")
  if not path.exists():
    return
  try:
    saved = json.loads(path.read_text())
  except ValueError:
    raise UserError(
      f"{path} is damaged: it is no JSON. Put the configuration of this run"
      " back (every checkpoint's metadata hold it), or choose another"
      " --workdir."
    ) from None
  configs.check_resume(saved, configs.to_json(config))


def _check_data(saved: dict[str, str], job: _Job) -> None:
  """Refuses to go on with other images than the run began with."""
  now = _data(job)
  for split in now:
    if saved[split] != now[split]:
      raise UserError(
        f"the {split} images are not those this run began with: they were"
        f" {saved[split]}, now {now[split]}. Bring that data set back"
        " (data_dir), or start a new run with another --workdir."
      )


def _data(job: _Job) -> dict[str, str]:
  return {
    "train": job.train.fingerprint,
    "validation": job.validation.fingerprint,
  }


def _write_config(workdir: str, config: ConfigDict) -> None:
  path = pathlib.Path(workdir, "config.json")
  text = json.dumps(configs.to_json(config), indent=2) + "\n"
  if not path.exists() or path.read_text() != text:
    try:
      write_whole(path, text)
    except OSError as error:
      raise UserError(
        f"{path} cannot be written ({error.strerror}). Make room there, or"
        " choose another --workdir."
      ) from None


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


def _greeting(config: ConfigDict, job: _Job, start: int) -> str:
  """What is going to happen, and what to expect of the loss."""
  _, mesh, _, train, validation, timetable = job
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


def _check_finite(
  loss: float, finite: dict[str, np.ndarray], done: int, rate: float
) -> None:
  """Stops when a number goes wrong.

  Args:
    loss: of the batch.
    finite: of the parameters after the update, `step.all_finite`.
    done: number of the step.
    rate: its learning rate.
  """
  wrong = [name for name, towers in finite.items() if not towers.all()]
  if math.isfinite(loss) and not wrong:
    return
  what = f"the loss is {loss}"
  if math.isfinite(loss):
    what = f"parameters are not finite ({', '.join(wrong)})"
  elif wrong:
    what += f", and so parameters are no longer finite ({', '.join(wrong)})"
  raise UserError(
    f"{what} at step {done} (learning rate {rate:g}). The last checkpoint is"
    " untouched. Try a lower schedule.learning_rate or another seed in a new"
    " --workdir, or check the images with `python -m alexnet_jax.prepare"
    " --check`."
  )


def _metadata(
  config: ConfigDict, job: _Job, schedule: Piecewise | Plateau
) -> dict[str, Any]:
  """What a checkpoint says beside its arrays; the position in the data is its
  step, see input_pipeline."""
  return {
    "config": configs.to_json(config),
    "data": _data(job),
    "mesh": dict(job.mesh.shape),
    "schedule": dataclasses.asdict(schedule),
    "versions": provenance.versions(),
    "git_commit": provenance.git_commit(),
  }
