"""Means over windows of a training curve, and when it leaves its plateau."""

import math
import statistics
from collections.abc import Sequence

PLATEAU_WINDOW = 100  # steps whose mean loss counts
PLATEAU_MARGIN = 0.05  # below ln(classes), the loss of guessing


def running_mean(values: Sequence[float], window: int) -> list[float]:
  """The mean of the last `window` values, from the window-th value on."""
  return [
    statistics.fmean(values[end - window : end])
    for end in range(window, len(values) + 1)
  ]


def images_to_leave_plateau(
  losses: Sequence[float],
  batch_size: int,
  num_classes: int,
  window: int = PLATEAU_WINDOW,
) -> int | None:
  """Images trained on when a running mean first falls below the plateau.

  Args:
    losses: of every step from the first.
    batch_size: images a step.
    num_classes: the plateau is at ln(num_classes), less `PLATEAU_MARGIN`.
    window: steps of the running mean.

  Returns:
    None if the mean stays above. The least possible number is
    `window * batch_size`.
  """
  bound = math.log(num_classes) - PLATEAU_MARGIN
  for steps, loss in enumerate(running_mean(losses, window), window):
    if loss < bound:
      return steps * batch_size
  return None
