"""The paper's update rule (section 5) and the learning rates over time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.command import UserError


def momentum_sgd(
  momentum: float = 0.9, weight_decay: float = 5e-4
) -> optax.GradientTransformationExtraArgs:
  """Momentum with the learning rate inside the velocity, as in section 5:

    v <- momentum * v - weight_decay * rate * w - rate * gradient
    w <- w + v

  (optax.sgd multiplies by the rate on the way out of the velocity, which is
  another rule whenever the rate changes.) Biases are not decayed: `weights.cu`
  of the 2012 source decays weight matrices alone.

  The state is the velocity, a tree like the parameters. `update` takes
  `learning_rate`, f32[], at each call, and returns the new velocity twice: it
  is both the update and the state.
  """

  def init(params):
    return jax.tree.map(jnp.zeros_like, params)

  def update(gradients, velocity, params, *, learning_rate, **_):
    def next_velocity(path, v, g, w):
      step = g if _is_bias(path) else g + weight_decay * w
      return momentum * v - learning_rate * step

    velocity = jax.tree.map_with_path(
      next_velocity, velocity, gradients, params
    )
    return velocity, velocity

  return optax.GradientTransformationExtraArgs(init, update)


def _is_bias(path: tuple[Any, ...]) -> bool:
  """Whether the path of a parameter, such as .towers.conv1.bias, ends so."""
  return "bias" in str(path[-2].name)


@dataclasses.dataclass(frozen=True)
class Piecewise:
  """A rate that is divided by 10 at given epochs.

  Attributes:
    learning_rate: at the start.
    boundaries: epochs; from each on the rate is a tenth of what it was.
  """

  learning_rate: float = 1e-2
  boundaries: tuple[float, ...] = (25, 51, 79)

  def rate(self, epoch: float) -> float:
    """The learning rate `epoch` epochs after the start."""
    return self.learning_rate / 10 ** sum(epoch >= b for b in self.boundaries)

  def observe(self, error: float) -> None:
    """Nothing: the validation error does not matter."""


@dataclasses.dataclass
class Plateau:
  """The paper's own rule: divide by 10 when the validation error stops falling.

  "Stops" is ours to define: no new best for `patience` evaluations. After
  `drops` divisions the rate stays. The fields that change are what a checkpoint
  keeps (`dataclasses.asdict`).

  Attributes:
    learning_rate: at the start.
    patience: evaluations without a new best error before a division.
    drops: divisions in all; the paper made three.
    best_error: the least validation error so far.
    waited: evaluations since then, or since the last division.
    dropped: divisions so far.
  """

  learning_rate: float = 1e-2
  patience: int = 3
  drops: int = 3
  best_error: float = 1.0
  waited: int = 0
  dropped: int = 0

  def rate(self, epoch: float) -> float:
    """The present learning rate."""
    del epoch  # only errors count
    return self.learning_rate / 10**self.dropped

  def observe(self, error: float) -> None:
    """Takes note of one evaluation's validation error."""
    if error < self.best_error:
      self.best_error, self.waited = error, 0
      return
    self.waited += 1
    if self.waited >= self.patience and self.dropped < self.drops:
      self.dropped, self.waited = self.dropped + 1, 0


def make_schedule(
  *,
  name: str,
  learning_rate: float,
  boundaries: tuple[float, ...],
  patience: int,
  drops: int,
) -> Piecewise | Plateau:
  """The schedule of a configuration's `schedule` group.

  Raises:
    UserError: an unknown name.
  """
  if name == "piecewise":
    return Piecewise(learning_rate, tuple(boundaries))
  if name == "plateau":
    return Plateau(learning_rate, patience, drops)
  raise UserError(f"schedule.name={name!r}: say 'piecewise' or 'plateau'.")
