"""Divergence: ends a run whose loss or parameters are not finite numbers."""

import math

import numpy as np

from alexnet_jax.runtime.command import UserError


class Diverged(UserError):
  """The loss or a parameter is not finite."""


def check_finite(
  loss: float, finite: dict[str, np.ndarray], number: int, rate: float
) -> None:
  """Checks the results of a training step.

  Args:
    loss: of the step.
    finite: by layer, whether the updated parameters are finite, bool[towers].
    number: of the step.
    rate: the learning rate of the weights.

  Raises:
    Diverged: the loss or a parameter is not finite.
  """
  wrong = [] if math.isfinite(loss) else [f"the loss is {loss}"]
  names = [name for name, towers in finite.items() if not towers.all()]
  if names:
    wrong.append(f"parameters are not finite ({', '.join(names)})")
  if not wrong:
    return
  raise Diverged(
    f"{' and '.join(wrong)} at step {number} (learning rate {rate:g}). The last"
    " checkpoint is untouched. Try a lower schedule.learning_rate or another"
    " seed in a new --workdir, or check the images with `python -m"
    " alexnet_jax.prepare --check`."
  )
