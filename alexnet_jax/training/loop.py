"""The training loop: what happens at every step of a run."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.data import pipeline
from alexnet_jax.model import sharding
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import processes, status
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import WorkdirLock
from alexnet_jax.runtime.progress import waiting
from alexnet_jax.runtime.status import StatusWriter
from alexnet_jax.runtime.watch import Stopped, Watch, resume_hint
from alexnet_jax.training import (
  diagnostics,
  evaluation,
  metrics,
  predictions,
  run_config,
  runs,
  step,
)
from alexnet_jax.training import start as starts
from alexnet_jax.training.divergence import check_finite
from alexnet_jax.training.early_stopping import EarlyStopping
from alexnet_jax.training.job import Job, make_job
from alexnet_jax.training.kernel_history import KernelHistory
from alexnet_jax.training.progress import EVALUATING, TrainingProgress
from alexnet_jax.training.run_batches import RunBatches
from alexnet_jax.training.run_data import RunData
from alexnet_jax.training.start import Start


def train_and_evaluate(
  config: ConfigDict,
  workdir: str,
  should_stop: Callable[[], bool] = lambda: False,
  on_metrics: Callable[[], None] = lambda: None,
) -> bool:
  """Trains a network, from wherever the run in `workdir` stands.

  After SIGTERM or SIGINT the run saves and returns: at the next batch, so
  within one step, one batch of the evaluation or one compilation, and a save.
  However a run ends, the same call continues it, and the result is that of one
  uninterrupted run; status.json says how it ended.

  Args:
    config: the configuration, locked.
    workdir: used by this run alone; created when the first file is written.
    should_stop: called after every checkpoint; if True, the run stops there.
    on_metrics: called after every line of metrics.jsonl, such as to draw it.

  Returns:
    False after a signal, True at the end of the run or of `should_stop`.

  Raises:
    UserError: a mistake in configuration, data or workdir, before anything is
      written; or a failure during the run, such as a full disk.
    Diverged: numbers that are not finite; a kind of UserError.
  """
  any_process = None if processes.is_single_process() else processes.any_process
  with (
    Watch(config.stall_minutes, any_process) as watch,
    processes.main_process_folder(workdir) as output_dir,
  ):
    config = run_config.with_kept_values(workdir, config)
    run_config.check_config(workdir, configs.to_json(config))
    runs.check_checkpoints(workdir)
    watch.phase("opening the data")
    with waiting("opening the data"):
      job = make_job(config)
    finished, start = True, None
    if config.start_from and runs.newest_step(workdir) < 0:
      watch.phase("reading start_from")
      with waiting("reading start_from"):
        start = starts.read(configs.to_json(config), job.mesh)
    reason = runs.stopped_early(workdir, config.early_stopping)
    if reason or runs.is_finished(workdir, job.timetable.last_step):
      steps = f"finished after {runs.newest_step(workdir)} steps"
      print(f"{workdir}: {steps}" + (f" ({reason})" if reason else ""))
    else:
      newest = max(runs.newest_step(workdir), 0)
      progress = TrainingProgress(
        job.timetable, config.num_classes, len(job.validation)
      )
      with (
        WorkdirLock(output_dir, required=False) as lock,
        StatusWriter(output_dir, newest, lock.held) as attempt,
        progress,
      ):
        if attempt.last:
          print(attempt.last)
        watch.attempt = attempt
        loop = TrainingLoop(
          job, workdir, output_dir, watch, progress, start, on_metrics
        )
        finished = loop.run(should_stop)
        if not finished:
          attempt.end(status.STOPPED, watch.reason)
        elif loop.stopped_early:
          attempt.end(status.FINISHED, loop.stopped_early)
        elif attempt.step < job.timetable.last_step:
          attempt.end(status.STOPPED, "stopped by the program that started it")
    if finished:
      metrics.print_table(metrics.read(workdir))
    return finished


class StepInFlight(NamedTuple):
  """A step that the devices have received and may not have finished."""

  number: int  # steps done once it has finished
  learning_rate: float  # of the weights
  batch: step.Batch  # without the images
  results: dict[str, Any]  # of the training step beside the state, on devices


class TrainingLoop:
  """A run in progress; `run` shows the whole life of a step.

  Every process of a run executes the same lines. All of them write the
  checkpoints in `workdir`, each its own part. Everything else goes to
  `output_dir`, which is `workdir` in one process and temporary in the others.
  """

  def __init__(
    self,
    job: Job,
    workdir: str,
    output_dir: str,
    watch: Watch,
    progress: TrainingProgress,
    start: Start | None = None,
    on_metrics: Callable[[], None] = lambda: None,
  ):
    """Restores the run from its newest checkpoint, or initialises it.

    `start` has the trained weights that a run without a checkpoint begins with.
    """
    config = job.config
    self._job, self._watch, self._output_dir = job, watch, output_dir
    self._progress = progress
    self._in_flight: collections.deque[StepInFlight] = collections.deque()
    self._stopwatch = metrics.Stopwatch(config.batch_size)
    self._plateau = diagnostics.PlateauDetector(config.num_classes)

    is_new = runs.newest_step(workdir) < 0
    self._enter_phase(
      "initialising the network" if is_new else "reading the checkpoint"
    )
    self._checkpoints = runs.open_checkpoints(
      workdir, config.checkpoints_to_keep
    )
    start = self._restore(start)
    self._step = int(self._state.step)
    watch.step_restored(self._step)
    data = RunData.read(workdir, config)
    if data:
      job.check_data({"train": data.fingerprint})

    run_config.write_config(output_dir, configs.to_json(config))
    self._writer = metrics.MetricsWriter(output_dir, on_metrics)
    self._writer.resume(self._step, self._evaluation_due)
    self._kernels = KernelHistory(output_dir, self._step)
    self._progress.resume(self._step)
    self._progress.print_line(job.summary(self._step))
    if self._rate_jump:
      self._progress.print_line(self._rate_jump)
    if start:
      self._progress.print_line(start.summary(configs.to_json(config)))

    self._enter_phase("computing the statistics of the training images")
    mesh = job.mesh
    if data is None:
      data = RunData.compute(config, job.train, workdir)
      if start and start.mean_image is not None:
        data = data.with_mean_image(start.mean_image)
      runs.write_data(output_dir, data)
    self._statistics = data.image_statistics(config, mesh)
    self._train_step = job.recipe.train_step(mesh)
    self._predict = job.recipe.predict(mesh)
    self._streams = step.make_streams(config.random_streams, config.seed, mesh)
    self._images = RunBatches(job)
    (batch,) = self._on_devices(self._images.diagnostic())
    self._diagnostics = diagnostics.Diagnostics(
      job.recipe.network, mesh, batch, self._statistics
    )
    self._batches = self._on_devices(
      self._images.training(self._step, self._left_out)
    )

  @property
  def stopped_early(self) -> str:
    """Why the run ends before its last step; "" if it does not."""
    return self._early_stopping.reason

  def run(self, should_stop: Callable[[], bool]) -> bool:
    """Trains to the end, a signal (returns False) or `should_stop`."""
    timetable = self._job.timetable
    try:
      if self._evaluation_due:
        self._checkpoints.note(self._step, self._evaluate())
      if self._step == 0:
        self._keep_kernels()
      self._enter_phase("compiling the training step")
      while self._step < timetable.last_step and not self.stopped_early:
        self._start_step(self._next_batch())
        logs = timetable.logs(self._step)
        saves = timetable.saves(self._step)
        # The devices receive the next step before the host waits for this
        # one, unless the host needs the results in between.
        results = self._settle(keep_in_flight=0 if logs or saves else 1)
        if logs:
          self._log(results)
        if timetable.ends_epoch(self._step):
          self._keep_kernels()
        error = None
        if timetable.evaluates(self._step):
          error = self._evaluate()
        if saves:
          self._save(error)
          if should_stop():
            break
      self._checkpoints.wait()
      runs.note_checkpoint(self._output_dir)
      if self.stopped_early:
        self._progress.print_line(
          f"finished after {self._step} steps ({self.stopped_early})"
        )
        self._progress.phase("finished")
      return True
    except Stopped:
      self._settle(keep_in_flight=0)
      self._save()
      self._checkpoints.wait()
      runs.note_checkpoint(self._output_dir)
      print(f"stopped after step {self._step}; it is saved. {resume_hint()}")
      return False
    finally:
      self._checkpoints.close()
      self._writer.close()

  def _next_batch(self) -> step.Batch:
    with self._stopwatch.waiting():
      return next(self._batches)

  def _start_step(self, batch: step.Batch) -> None:
    """Sends one training step to the devices, and does not wait for it."""
    epoch = self._job.timetable.epoch(self._step)
    rate, rates = self._schedule.rate(epoch), self._schedule.rates(epoch)
    self._state, results = self._train_step(
      self._state, batch, self._statistics, self._streams, rates
    )
    self._step += 1
    rest = {name: x for name, x in batch.items() if name != "image"}
    self._in_flight.append(StepInFlight(self._step, rate, rest, results))

  def _settle(self, keep_in_flight: int) -> dict[str, float]:
    """Waits for the oldest steps in flight until so many are left.

    Returns learning rate, loss and errors of the last one waited for; raises
    Diverged if its loss or a parameter is not finite.
    """
    values: dict[str, float] = {}
    while len(self._in_flight) > keep_in_flight:
      done = self._in_flight.popleft()
      results = sharding.fetch(done.results)
      finite = results.pop("finite")
      values = {name: float(value) for name, value in results.items()}
      check_finite(values["loss"], finite, done.number, done.learning_rate)
      num_examples = int(values.pop("num_examples"))
      if missing := self._job.config.batch_size - num_examples:
        self._undecodable += missing
        self._leave_out(done.batch)
      values = {"learning_rate": done.learning_rate, **values}
      self._plateau.add_loss(values["loss"])
      self._watch.step_finished(done.number)
      self._stopwatch.step_finished()
      self._progress.step_finished(done.number, values["loss"])
    return values

  def _leave_out(self, batch: step.Batch) -> None:
    """Adds the undecodable images of a batch to those left out of the run.

    Raises UserError if all processes together leave out more than
    `max_undecodable`. A process alone stops earlier, in the pipeline.
    """
    index, weight = sharding.fetch((batch["index"], batch["weight"]))
    left_out = processes.gather(np.where(weight == 0, index, -1))
    self._left_out |= set(left_out[left_out >= 0].tolist())
    count, limit = len(self._left_out), self._job.config.max_undecodable
    if count > limit:
      raise UserError(pipeline.too_many_undecodable(count, limit))

  def _log(self, results: dict[str, float]) -> None:
    """Writes a training line, with diagnostics where they are due."""
    timetable = self._job.timetable
    speed = self._stopwatch.read()
    measured = {}
    if timetable.diagnoses(self._step):
      state = self._state
      measured = self._diagnostics(state.net, state.optimizer_state)
      self._plateau.add_spread(measured["score_spread"])
      self._stopwatch.pause()
    self._writer.write(
      self._step,
      timetable.epoch(self._step),
      "train",
      **results,
      undecodable=self._undecodable,
      **speed,
      **measured,
    )
    runs.note_checkpoint(self._output_dir)
    self._undecodable = 0
    self._progress.report(speed, self._plateau.message())

  def _evaluate(self) -> float:
    """Evaluates the validation images; returns the top-1 error."""
    # A signal can interrupt it; the resumed run then evaluates again.
    self._evaluation_due = True
    self._enter_phase(EVALUATING)
    job, net = self._job, self._state.net
    recorder = predictions.Recorder(job.mesh)
    errors = evaluation.evaluate(
      [lambda images: self._predict(net, images, self._statistics)],
      self._progress.evaluating(self._on_devices(self._images.evaluation())),
      job.mesh,
      len(job.validation),
      job.config.max_undecodable,
      observe=recorder.add,
    )
    predictions.write(
      self._output_dir,
      recorder.predictions(),
      self._step,
      job.validation.fingerprint,
    )
    self._progress.evaluated(errors["top1_error"])
    self._evaluation_due = False
    self._schedule.observe(errors["top1_error"])
    self._early_stopping.observe(errors["top1_error"])
    epoch = job.timetable.epoch(self._step)
    self._writer.write(self._step, epoch, "validation", views=1, **errors)
    self._progress.print_line(
      f"epoch {epoch:.4g}: validation top-1 error"
      f" {errors['top1_error']:.2%}, top-5 {errors['top5_error']:.2%},"
      f" loss {errors['loss']:.4f}"
    )
    return errors["top1_error"]

  def _keep_kernels(self) -> None:
    """Adds conv1's kernels to the run's `kernels.npz`, if it has a conv1."""
    conv1 = self._job.recipe.network.conv1
    if conv1 is not None and not conv1.local:
      epoch = int(self._job.timetable.epoch(self._step))
      kernels = self._state.net.towers.conv1.kernel[...]
      self._kernels.add(self._step, epoch, kernels)

  def _save(self, validation_error: float | None = None) -> None:
    """Begins to write a checkpoint of all that `_restore` reads."""
    self._enter_phase("saving")
    metadata = self._job.metadata(self._schedule) | {
      "evaluation_due": self._evaluation_due,
      "undecodable": self._undecodable,
      "left_out": sorted(self._left_out),
      "early_stopping": self._early_stopping.state(),
    }
    self._checkpoints.save(
      self._step, step.to_dict(self._state), metadata, validation_error
    )
    self._stopwatch.pause()

  def _restore(self, start: Start | None) -> Start | None:
    """Reads everything that changes during training, or initialises it.

    Returns the trained weights that the run begins with, if it begins.
    """
    job, config = self._job, self._job.config
    recipe, mesh = job.recipe, job.mesh
    abstract = step.abstract_state(recipe.network, recipe.optimizer, mesh)
    restored = self._checkpoints.restore(step.to_dict(abstract))
    arrays, saved = restored or (None, {})
    # A signal came before the evaluation, or the end is now at this step.
    is_end = bool(restored) and int(arrays["step"]) >= job.timetable.last_step
    self._evaluation_due: bool = is_end or saved.get("evaluation_due", False)
    # Images that could not be decoded, since the last training line and in all.
    self._undecodable: int = saved.get("undecodable", 0)
    self._left_out = set(saved.get("left_out", ()))
    self._early_stopping = EarlyStopping(
      config.early_stopping, **saved.get("early_stopping", {})
    )
    self._schedule, self._rate_jump = job.schedule, ""
    if restored:
      job.check_data(saved["data"])
      self._state = step.from_dict(arrays, abstract)
      epoch = job.timetable.epoch(int(self._state.step))
      self._schedule = job.schedule.resumed(saved["schedule"], epoch)
      self._rate_jump = self._schedule.jump(saved["schedule"], epoch)
      return None
    self._state = step.init_state(
      recipe.network, recipe.optimizer, config.seed, mesh
    )
    if config.start_from:
      # They are read already, unless every checkpoint was found damaged now.
      start = start or starts.read(configs.to_json(config), mesh)
      net = start.copy_layers(self._state.net, config.start_layers)
      self._state = self._state._replace(net=net)
    return start

  def _on_devices(
    self, host_batches: Iterable[dict[str, np.ndarray]]
  ) -> Iterator[step.Batch]:
    """The same batches on the devices; a signal can stop the run at each."""
    places = sharding.batch_sharding(self._job.mesh)
    batches = pipeline.to_device(host_batches, places)
    return self._watch.guard(batches, "waiting for images")

  def _enter_phase(self, name: str) -> None:
    """Shows, and tells the watch, what the run does now."""
    self._progress.phase(name)
    self._watch.phase(name)
