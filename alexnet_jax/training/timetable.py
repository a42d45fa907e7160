"""When a run logs, evaluates, saves and ends; and how fast it goes."""

import contextlib
import math
import time
from collections.abc import Iterator

from ml_collections import ConfigDict


class Timetable:
  """What happens after how many steps.

  A batch may end one epoch and begin the next, so the e-th epoch ends with the
  first step that completes e passes over the images.

  Attributes:
    total: steps of the whole run.
  """

  def __init__(self, config: ConfigDict, num_examples: int):
    """Reads the durations and cadences of `config`.

    Args:
      config: the run's configuration.
      num_examples: training images of an epoch.
    """
    self._batch_size = config.batch_size
    self._num_examples = num_examples
    self._log_every = max(config.log_every_steps, 1)
    self._diagnose_every = config.diagnose_every_lines
    self._save_every = config.checkpoint_every_steps
    self._evaluate_every = config.eval_every_epochs
    self.total = config.total_steps or self._end_of(config.total_epochs)

  def epoch(self, step: int) -> float:
    """Epochs done after `step` steps."""
    return step * self._batch_size / self._num_examples

  def logs(self, step: int) -> bool:
    """Whether a training line is due: the first step, the last, and between."""
    return step in (1, self.total) or step % self._log_every == 0

  def diagnoses(self, step: int) -> bool:
    """Whether a training line tells what the network is like inside."""
    if not self._diagnose_every or step % self._log_every:
      return bool(self._diagnose_every) and step == 1
    return step == 1 or step // self._log_every % self._diagnose_every == 0

  def evaluates(self, step: int) -> bool:
    """Whether an evaluation is due: at the end, and after whole epochs."""
    if step == self.total or not self._evaluate_every:
      return step == self.total
    periods = math.floor(self.epoch(step) / self._evaluate_every)
    return periods > 0 and step == self._end_of(periods * self._evaluate_every)

  def saves(self, step: int) -> bool:
    """Whether a checkpoint is due: after evaluations, and in between."""
    periodic = self._save_every and step % self._save_every == 0
    return bool(periodic) or self.evaluates(step)

  def _end_of(self, epochs: float) -> int:
    return math.ceil(epochs * self._num_examples / self._batch_size)


class Stopwatch:
  """Images a second, and the share of the time spent waiting for them.

  The first step after the start or a pause, which compiles or fills queues, is
  left out.
  """

  def __init__(self, batch_size: int):
    """Starts with a pause.

    Args:
      batch_size: images a step.
    """
    self._batch_size = batch_size
    self.pause()

  def pause(self) -> None:
    """Forgets what was measured until the next step has ended."""
    self._began: float | None = None
    self._steps = 0
    self._waited = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Wraps the wait for a batch."""
    began = time.monotonic()
    yield
    self._waited += time.monotonic() - began

  def step_ends(self) -> None:
    """To be told after each step."""
    if self._began is None:
      self._began, self._waited = time.monotonic(), 0.0
    else:
      self._steps += 1

  def read(self) -> dict[str, float]:
    """`images_per_second` and `data_wait_fraction` since the last reading."""
    if self._began is None or not self._steps:
      return {"images_per_second": 0.0, "data_wait_fraction": 0.0}
    seconds = time.monotonic() - self._began
    speed = {
      "images_per_second": self._steps * self._batch_size / seconds,
      "data_wait_fraction": self._waited / seconds,
    }
    self.pause()
    self._began = time.monotonic()
    return speed
