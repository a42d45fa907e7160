"""Best checkpoint: that with the lowest validation error, which is kept."""

from collections.abc import Sequence

from orbax.checkpoint import checkpoint_managers as policies


class BestCheckpoint(policies.PreservationPolicy):
  """Keeps the checkpoint with the lowest validation error.

  Orbax's own `BestN` knows only errors that were saved with a checkpoint, but
  an evaluation that a signal interrupts is finished after the save.
  """

  def __init__(self):
    self._errors: dict[int, float] = {}

  def note(self, step: int, error: float | None) -> None:
    if error is not None:
      self._errors[step] = error

  def step(self, steps: Sequence[int]) -> int | None:
    """The best of `steps`, of equally good ones the first; None if unknown."""
    known = sorted(step for step in steps if step in self._errors)
    return min(known, key=self._errors.__getitem__, default=None)

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = self.step(steps)
    return [step == best for step in steps]
