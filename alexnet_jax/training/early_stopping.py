"""Early stopping: a run ends when its validation error stays above its best."""

import dataclasses


@dataclasses.dataclass
class EarlyStopping:
  """Counts evaluations without a new lowest validation error.

  Not in the paper, which divides the learning rate then (`schedule.Plateau`).

  Attributes:
    patience: the run ends after so many of them; 0: it never ends early.
    best_error: lowest validation error so far; None before the first one.
    waited: evaluations since then.
  """

  patience: int = 0
  best_error: float | None = None
  waited: int = 0

  def observe(self, error: float) -> None:
    """Receives the validation error (a fraction) after each evaluation."""
    if self.best_error is None or error < self.best_error:
      self.best_error, self.waited = error, 0
    else:
      self.waited += 1

  def state(self) -> dict[str, float | int | None]:
    """What a checkpoint keeps, also while `patience` is 0."""
    return {"best_error": self.best_error, "waited": self.waited}

  @property
  def reason(self) -> str:
    """Why the run ends now; "" if it does not."""
    if not 0 < self.patience <= self.waited:
      return ""
    count = f"{self.waited} evaluation{'s'[: self.waited != 1]}"
    return (
      f"early stopping: {count} without a lower validation top-1 error than"
      f" {self.best_error:.2%}"
    )
