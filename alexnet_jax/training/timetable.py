"""At which steps a run logs, evaluates, saves and ends."""

import dataclasses
import fractions
import math

from alexnet_jax.runtime.command import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timetable:
  """The cadences of a run; every question takes the number of steps done.

  A batch may end one epoch and begin the next, so epoch e ends with the first
  step that completes e passes over the images.

  Raises:
    UserError: the run has no steps.
  """

  num_examples: int  # training images per epoch
  batch_size: int
  total_epochs: float  # length of the run, unless `total_steps` gives it
  total_steps: int = 0
  log_every_steps: int = 1  # steps between two training lines
  # Training lines between two with diagnostics; 0: none.
  diagnose_every_lines: int = 0
  # Epochs between two evaluations; 0: only at the end.
  eval_every_epochs: float = 1
  # Steps between two checkpoints, beside those after each evaluation; 0: none.
  checkpoint_every_steps: int = 0

  def __post_init__(self):
    if not (math.isfinite(self.total_epochs) and self.total_epochs > 0):
      raise UserError(
        f"total_epochs must be greater than 0 (got {self.total_epochs})."
      )
    if self.total_steps < 0:
      raise UserError(
        "total_steps must be at least 1, or 0 to train for total_epochs (got"
        f" {self.total_steps})."
      )

  @property
  def last_step(self) -> int:
    """Number of steps of the whole run."""
    return self.total_steps or self._last_step_of(self.total_epochs)

  def epoch(self, step: int) -> float:
    """Epochs done after `step` steps."""
    return step * self.batch_size / self.num_examples

  def logs(self, step: int) -> bool:
    """Whether a training line is due; always at the first and last step."""
    return step in (1, self.last_step) or step % self._log_every == 0

  def diagnoses(self, step: int) -> bool:
    """Whether the training line of this step includes diagnostics."""
    if not self.diagnose_every_lines:
      return False
    lines, rest = divmod(step, self._log_every)
    return step == 1 or (rest == 0 and lines % self.diagnose_every_lines == 0)

  def evaluates(self, step: int) -> bool:
    """Whether an evaluation is due; always at the last step."""
    if step == self.last_step or not self.eval_every_epochs:
      return step == self.last_step
    return self._periods(step) > self._periods(step - 1)

  def ends_epoch(self, step: int) -> bool:
    """Whether a pass over the images is completed by this step."""
    return math.floor(self.epoch(step)) > math.floor(self.epoch(step - 1))

  def evaluations_after(self, step: int) -> int:
    """Number of evaluations after `step` steps, up to the end of the run."""
    if step >= self.last_step:
      return 0
    if not self.eval_every_epochs:
      return 1
    begun, ended = map(self._periods, (step, self.last_step - 1))
    # The last step always evaluates, and none does so twice.
    return min(ended - begun + 1, self.last_step - step)

  def saves(self, step: int) -> bool:
    """Whether a checkpoint is due; always after an evaluation."""
    every = self.checkpoint_every_steps
    return (every > 0 and step % every == 0) or self.evaluates(step)

  @property
  def _log_every(self) -> int:
    return max(self.log_every_steps, 1)

  def _periods(self, step: int) -> int:
    """How often `eval_every_epochs` has passed after `step` steps."""
    images = _exactly(self.eval_every_epochs) * self.num_examples
    return math.floor(step * self.batch_size / images)

  def _last_step_of(self, epochs: float) -> int:
    images = _exactly(epochs) * self.num_examples
    return math.ceil(images / self.batch_size)


def _exactly(epochs: float) -> fractions.Fraction:
  """0.1 as 1/10: as a float it is a little more, which may cost a step."""
  return fractions.Fraction(repr(epochs))
