"""Progress of a training: what it does, the time left, whether it learns."""

import collections
import math
import sys
import time
from collections.abc import Iterable, Iterator

from alexnet_jax.runtime.progress import Progress, duration
from alexnet_jax.training.step import Batch
from alexnet_jax.training.timetable import Timetable

EVALUATING = "evaluating"  # a phase
RECENT = 50  # steps whose time and loss are averaged
# Reports that a log shows at once, so that it soon says whether the run learns.
EARLY_REPORTS = 3
# Before the first evaluation: what an image costs there, in training steps. The
# backward pass costs two forward passes.
FORWARD = 1 / 3


class TrainingProgress(Progress):
  """The progress line of a training; use it around the whole of it.

  The time left counts the remaining steps and evaluations. The loss is a mean
  over the last steps, beside that of chance.
  """

  def __init__(
    self, timetable: Timetable, num_classes: int, num_validation: int
  ):
    """Appears on standard output when the context is entered.

    Args:
      timetable: of the run.
      num_classes: of the dataset.
      num_validation: images of an evaluation.
    """
    total = timetable.last_step
    super().__init__("starting", total, unit="steps", output=sys.stdout)
    self._timetable, self._num_validation = timetable, num_validation
    self._chance = math.log(num_classes)
    self._step_seconds = collections.deque[float](maxlen=RECENT)
    self._losses = collections.deque[float](maxlen=RECENT)
    self._phase_began = time.monotonic()
    self._last_step_at: float | None = None
    self._evaluation_seconds: float | None = None
    self._evaluated = 0  # images of the present evaluation
    self._error: float | None = None  # of the last evaluation
    self._speed: dict[str, float] = {}
    self._message = ""
    self._reports = 0

  def __exit__(self, *exception) -> None:
    if self._done == self._total:
      self.phase("finished")  # what a notebook keeps
    super().__exit__(*exception)

  def resume(self, step: int) -> None:
    """Sets the number of steps that were trained before."""
    self._num_done = self._done = step

  def phase(self, name: str) -> None:
    """Shows what the run does when it is not training."""
    self.title, self._phase_began = name, time.monotonic()
    self._last_step_at, self._evaluated = None, 0

  def step_finished(self, step: int, loss: float) -> None:
    """Counts a step, and measures its time if one finished right before."""
    now = time.monotonic()
    if self._last_step_at is not None:
      self._step_seconds.append(now - self._last_step_at)
    self._last_step_at = now
    self._losses.append(loss)
    self._done, self.title = step, "training"

  def report(self, speed: dict[str, float], message: str) -> None:
    """Takes the measured speed, and what is to be said about a plateau."""
    self._speed, self._message = speed, message
    self._reports += 1
    if self._reports <= EARLY_REPORTS:
      self.write_now()

  def evaluating(self, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yields the batches of an evaluation, and counts their images."""
    for batch in batches:
      yield batch
      done = self._evaluated + len(batch["label"])
      # The last batch is filled up.
      self._evaluated = min(done, self._num_validation)

  def evaluated(self, top1_error: float) -> None:
    """Takes the error of the evaluation that has just ended."""
    self._evaluation_seconds = time.monotonic() - self._phase_began
    self._error = top1_error

  def seconds_left(self) -> float | None:
    """Until the end of the run; None before the second step has finished."""
    if not self._step_seconds:
      return None
    timetable = self._timetable
    step = sum(self._step_seconds) / len(self._step_seconds)
    evaluation = self._evaluation_seconds
    if evaluation is None:
      batches = self._num_validation / timetable.batch_size
      evaluation = FORWARD * step * batches
    steps = timetable.last_step - self._done
    evaluations = timetable.evaluations_after(self._done)
    if self.title == EVALUATING:
      evaluations += 1 - self._evaluated / max(self._num_validation, 1)
    return steps * step + evaluations * evaluation

  def details(self) -> list[str]:
    parts = [self._message] if self._message else []
    seconds = self.seconds_left()
    if self.title not in ("training", "finished"):
      parts.append(f"{duration(time.monotonic() - self._phase_began)} so far")
    if self._evaluated:
      parts.append(f"{self._evaluated:,} of {self._num_validation:,} images")
    if seconds is not None and self.title != "finished":
      parts.append(f"{duration(seconds)} left")
    if self._error is not None:
      parts.append(f"validation error {self._error:.1%}")
    if self._losses:
      loss = sum(self._losses) / len(self._losses)
      parts.append(f"loss {loss:.2f} (chance {self._chance:.2f})")
    if self._done:
      epoch, total = map(self._timetable.epoch, (self._done, self._total))
      parts.append(f"epoch {epoch:.2f} of {total:.4g}")
      parts.append(f"step {self._done:,}/{self._total:,}")
    if self._speed.get("images_per_second", math.nan) > 0:  # NaN: none yet
      parts.append(f"{self._speed['images_per_second']:,.0f} images/s")
      wait = self._speed["data_wait_fraction"]
      parts.append(f"{wait:.0%} of the time without images")
    return parts
