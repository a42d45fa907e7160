"""Training: from a configuration to a workdir."""

import collections
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.data import pipeline
from alexnet_jax.model import sharding
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import processes
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import WorkdirLock
from alexnet_jax.runtime.watch import Stopped, Watch, resume_hint
from alexnet_jax.training import metrics, runs, step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.diagnostics import Diagnostics, Verdict, num_images
from alexnet_jax.training.evaluation import evaluate, image_statistics
from alexnet_jax.training.job import (
  Job,
  check_data,
  greeting,
  make_job,
  metadata,
)
from alexnet_jax.training.timetable import Stopwatch


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
      config.stall_minutes,
      None if processes.is_single_process() else processes.any_process,
    ) as watch,
    processes.main_process_folder(workdir) as notes,
  ):
    runs.check_config(workdir, configs.to_json(config))
    watch.phase("opening the data")
    job = make_job(config)
    through = True
    if runs.is_finished(workdir, job.timetable.total):
      print(f"{workdir}: finished after {job.timetable.total} steps")
    else:
      with WorkdirLock(notes):
        through = _train(job, workdir, notes, watch, enough)
    if through:
      metrics.print_table(metrics.read(workdir))
    return through


def _train(
  job: Job,
  workdir: str,
  notes: str,
  watch: Watch,
  enough: Callable[[], bool],
) -> bool:
  """Trains; says whether to the end, or until a signal asked to stop.

  Of several processes all write the checkpoints in `workdir`, each its part,
  and all else goes into `notes`, which is `workdir` in one of them.
  """
  config, network, mesh = job.config, job.network, job.mesh
  schedule, timetable = job.schedule, job.timetable

  watch.phase("reading the checkpoint")
  abstract = step.abstract_state(network, job.optimizer, mesh)
  checkpoints = Checkpoints(
    f"{workdir}/checkpoints", config.checkpoints_to_keep
  )
  restored = checkpoints.restore(step.to_dict(abstract))
  evaluation_due, undecodable, left_out = False, 0, set()
  if restored:
    arrays, saved = restored
    check_data(saved["data"], job)
    state = step.from_dict(arrays, abstract)
    schedule = schedule.resumed(saved["schedule"])
    evaluation_due = saved["evaluation_due"]
    undecodable = saved["undecodable"]
    left_out = set(saved.get("left_out", ()))  # absent in older ones
  else:
    state = step.init_state(network, job.optimizer, config.seed, mesh)
    if config.start_from:
      runs.init_from_run(
        state.net, config.start_from, config.start_layers, mesh
      )
  done = int(state.step)

  runs.write_config(notes, configs.to_json(config))
  writer = metrics.MetricsWriter(notes)
  writer.resume(done, evaluation_due)
  progress = metrics.Progress(timetable.total, config.batch_size)
  progress.say(greeting(job, done))
  if restored:
    jump = schedule.jump(saved["schedule"], timetable.epoch(done))
    if jump:
      progress.say(jump)
  watch.phase("computing the statistics of the training images")
  statistics = image_statistics(
    job.train,
    config.image_size,
    mesh,
    mean_size=network.crop_size if config.centre_mean else 0,
  )
  train_step = step.make_train_step(
    network, job.augmentation, job.optimizer, mesh
  )
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
    batches = pipeline.to_device(host_batches, sharding.batch_sharding(mesh))
    return watch.guard(batches, "waiting for images")

  def validate() -> float:
    """Writes what the validation images say; returns the top-1 error."""
    progress.phase("evaluating")
    watch.phase("evaluating")
    epoch = timetable.epoch(done)
    errors = evaluate(
      [lambda images: predict(state.net, images, statistics)],
      on_device(pipeline.evaluation_batches(job.validation, **options)),
      mesh,
      len(job.validation),
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
    beside = metadata(job, schedule) | {
      "evaluation_due": evaluation_due,
      "undecodable": undecodable,  # since the last training line
      "left_out": sorted(left_out),  # which images, ever
    }
    checkpoints.save(done, step.to_dict(state), beside, validation_error)

  first = pipeline.evaluation_batches(
    job.train, **options | {"batch_size": num_images(mesh)}
  )
  (looked_at,) = on_device(itertools.islice(first, 1))
  diagnose = Diagnostics(network, mesh, looked_at, statistics)
  verdict = Verdict(config.num_classes)
  batches = on_device(
    pipeline.train_batches(
      job.train,
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
      watch.step_finished()
      stopwatch.step_ends()
      progress.advance(number)
    return results

  try:
    with progress:
      if evaluation_due:  # stopped by a signal before its end
        checkpoints.note(done, validate())
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
            inside = diagnose(state.net, state.optimizer_state)
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
    print(f"stopped after step {done}; it is saved. {resume_hint()}")
    return False
  finally:
    checkpoints.close()
    writer.close()


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
