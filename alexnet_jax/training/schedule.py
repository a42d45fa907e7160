"""Learning rate schedules: how the rates of an update change over a run.

To add one, write a subclass of `Schedule` that defines `scaled` and add its
name to `SCHEDULES`. `Schedule.rates` applies it to biases and to conv1, in the
same way for every schedule.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.optimizer import Rates


@dataclasses.dataclass(kw_only=True)
class Schedule:
  """Learning rates as a function of the epoch; a subclass defines `scaled`.

  Attributes:
    learning_rate: initial rate of the weights.
    bias_learning_rate: initial rate of the biases.
    bias_drops: "all": biases follow every change of the weights' rate; "once":
      their rate is divided by 10 at the first drop (dexp: at half time);
      "never": it is constant.
    conv1_frozen_from: epoch from which conv1 is not updated; 0: never.

  Raises:
    UserError: an invalid value.
  """

  STATE: ClassVar[tuple[str, ...]] = ()  # attributes that change in training
  # Of schedules that drop in steps: whether biases that drop once have dropped
  # after a number of epochs.
  has_dropped: ClassVar[Callable[[Any, float], bool] | None] = None

  learning_rate: float = 1e-2
  bias_learning_rate: float = 1e-2
  bias_drops: str = "all"
  conv1_frozen_from: float = 0.0

  def __post_init__(self):
    if self.bias_drops not in ("all", "once", "never"):
      raise UserError(
        "schedule.bias_drops must be 'all', 'once' or 'never' (got"
        f" {self.bias_drops!r})."
      )
    if self.bias_drops == "once" and self.has_dropped is None:
      raise UserError(
        "schedule.bias_drops='once' needs a schedule that drops in steps; with"
        " this schedule.name use 'all' or 'never'."
      )

  def scaled(self, initial: float, epoch: float) -> float:
    """The learning rate after `epoch` epochs if it begins with `initial`.

    (Not a factor: 0.01 / 10 and 0.01 * 0.1 may round differently, and a run
    that is resumed continues bit for bit.)
    """
    raise NotImplementedError

  def conv1_scaled(self, initial: float, epoch: float) -> float:
    """The same for the weights of conv1; like all others by default."""
    return self.scaled(initial, epoch)

  def rate(self, epoch: float) -> float:
    """The learning rate of weights after `epoch` epochs."""
    return self.scaled(self.learning_rate, epoch)

  def rates(self, epoch: float) -> Rates:
    """All learning rates after `epoch` epochs, f32[]."""
    biases = self.bias_learning_rate
    if self.bias_drops == "all":
      biases = self.scaled(biases, epoch)
    elif self.bias_drops == "once" and self.has_dropped(epoch):
      biases /= 10
    conv1 = self.conv1_scaled(self.learning_rate, epoch), biases
    if self.conv1_frozen_from and epoch >= self.conv1_frozen_from:
      conv1 = 0.0, 0.0
    return Rates(*map(np.float32, (self.rate(epoch), biases, *conv1)))

  def observe(self, error: float) -> None:
    """Receives the validation error (a fraction) after each evaluation."""

  def resumed(self, saved: dict[str, Any]) -> "Schedule":
    """This schedule in the state of a saved one.

    Args:
      saved: `dataclasses.asdict` of the saved schedule. Only the attributes in
        STATE are taken; the others come from the present configuration.
    """
    return dataclasses.replace(self, **{k: saved[k] for k in self.STATE})

  def jump(self, saved: dict[str, Any], epoch: float) -> str:
    """One sentence if the rate jumps on resuming, else "".

    It does where the rate depends on the length of the run ("cosine", "dexp")
    and the run is resumed with another length.

    Args:
      saved: `dataclasses.asdict` of the schedule as it was.
      epoch: epochs done.
    """
    fields = {field.name for field in dataclasses.fields(self)}
    known = {key: value for key, value in saved.items() if key in fields}
    before = dataclasses.replace(self, **known).rate(epoch)
    after = self.rate(epoch)
    if before == after:
      return ""
    return (
      f"the length of the run has changed, and so has its learning rate at"
      f" epoch {epoch:.4g}: it was {before:.3g} and is now {after:.3g}"
    )


@dataclasses.dataclass(kw_only=True)
class Piecewise(Schedule):
  """Rates that are divided by a constant at given epochs.

  Attributes:
    boundaries: epochs at which the rate is divided by `factor`.
    factor: 10 in the paper and in all schedules here except dexp.
    conv1_boundaries: the same for the weights of conv1; None: `boundaries`.
    bias_boundary: epoch at which biases that drop once do; None: the first of
      `boundaries`.
  """

  boundaries: tuple[float, ...] = (25.0, 51.0, 79.0)
  factor: float = 10.0
  conv1_boundaries: tuple[float, ...] | None = None
  bias_boundary: float | None = None

  def scaled(self, initial, epoch):
    return initial / self.factor ** sum(epoch >= b for b in self.boundaries)

  def conv1_scaled(self, initial, epoch):
    if self.conv1_boundaries is None:
      return self.scaled(initial, epoch)
    drops = sum(epoch >= b for b in self.conv1_boundaries)
    return initial / self.factor**drops

  def has_dropped(self, epoch):
    if self.bias_boundary is None:
      return any(epoch >= b for b in self.boundaries)
    return epoch >= self.bias_boundary


@dataclasses.dataclass(kw_only=True)
class Plateau(Schedule):
  """The paper's rule: divide by 10 when the validation error stops improving.

  The paper does not define "stops improving"; here it means no new best error
  in `patience` evaluations. After `drops` divisions the rate stays constant.

  Attributes:
    patience: evaluations without a new best error before a division.
    drops: maximum number of divisions; three in the paper.
    best_error: lowest validation error so far.
    waited: evaluations since then, or since the last division.
    dropped: divisions so far.
  """

  STATE = ("best_error", "waited", "dropped")

  patience: int = 3
  drops: int = 3
  best_error: float = 1.0
  waited: int = 0
  dropped: int = 0

  def scaled(self, initial, epoch):
    del epoch  # only validation errors count
    return initial / 10.0**self.dropped

  def has_dropped(self, epoch):
    del epoch
    return self.dropped > 0

  def observe(self, error: float) -> None:
    if error < self.best_error:
      self.best_error, self.waited = error, 0
      return
    self.waited += 1
    if self.waited >= self.patience and self.dropped < self.drops:
      self.dropped, self.waited = self.dropped + 1, 0


@dataclasses.dataclass(kw_only=True)
class Cosine(Schedule):
  """A linear warm-up from 0, then half a cosine down to 0 at the end.

  (Loshchilov and Hutter, SGDR, 2017, without restarts; warm-up as Goyal et al.,
  Accurate, Large Minibatch SGD, 2017. Not in the paper.)

  The rate is a function of the epoch and of the length of the run. A run that
  is resumed with another `total_epochs` or `total_steps` takes the rates of a
  run of the new length from there on, so the rate of a finished run that is
  extended jumps up from 0; `jump` says so.

  Attributes:
    warmup_epochs: length of the warm-up; 0: none. In a run that ends within
      it, the rate only rises.
    end_epoch: epochs of the whole run.
  """

  warmup_epochs: float = 0.0
  end_epoch: float

  def __post_init__(self):
    super().__post_init__()
    if self.warmup_epochs < 0:
      raise UserError(
        f"schedule.warmup_epochs must be at least 0 (got {self.warmup_epochs})."
      )

  def scaled(self, initial, epoch):
    if epoch < self.warmup_epochs:
      return initial * epoch / self.warmup_epochs
    if epoch >= self.end_epoch:
      return 0.0
    share = (epoch - self.warmup_epochs) / (self.end_epoch - self.warmup_epochs)
    return initial * (1 + math.cos(math.pi * share)) / 2


def dexp(*, total_epochs: float, **common: Any) -> Piecewise:
  """Net #170's schedule ("dexp" in the 2012 source).

  Four equal quarters of `total_epochs` with a factor of 250 between the rates
  of the first and the last; biases that drop once do so at half time.
  """
  return Piecewise(
    boundaries=tuple(total_epochs * quarter / 4 for quarter in (1, 2, 3)),
    factor=250 ** (1 / 3),
    bias_boundary=total_epochs / 2,
    **common,
  )


def log145_2012(**common: Any) -> Piecewise:
  """The drops that the authors made by hand in net #145's ILSVRC-2012 run."""
  return Piecewise(
    boundaries=(25.0, 51.0, 79.0),
    conv1_boundaries=(25.0, 51.0, 67.0),
    **common,
  )


def log145_2010(**common: Any) -> Piecewise:
  """The same of its ILSVRC-2010 run (Table 1 of the paper)."""
  return Piecewise(
    boundaries=(23.0, 51.0, 78.0),
    conv1_boundaries=(23.0, 51.0, 68.0),
    **common,
  )


# For each `schedule.name`: what makes it, and which keys it reads beside the
# attributes of `Schedule`.
SCHEDULES: dict[str, tuple[Callable[..., Schedule], tuple[str, ...]]] = {
  "piecewise": (Piecewise, ("boundaries",)),
  "plateau": (Plateau, ("patience", "drops")),
  "dexp": (dexp, ("total_epochs",)),
  "log145_2012": (log145_2012, ()),
  "log145_2010": (log145_2010, ()),
  "cosine": (Cosine, ("warmup_epochs", "end_epoch")),
}


def make_schedule(*, name: str, **values: Any) -> Schedule:
  """The schedule of a configuration's `schedule` group.

  Args:
    name: one of `SCHEDULES`.
    **values: the group's other keys; `total_epochs`; and `end_epoch`, at which
      the run ends, `total_epochs` by default (`total_steps` may set another
      end). Keys that only other schedules read are ignored.

  Raises:
    UserError: an unknown name or key, or an invalid value.
  """
  if name not in SCHEDULES:
    raise UserError(
      f"schedule.name={name!r} is not a schedule; choose one of"
      f" {', '.join(SCHEDULES)}."
    )
  if "total_epochs" in values:
    values.setdefault("end_epoch", values["total_epochs"])
  make, own = SCHEDULES[name]
  common = {field.name for field in dataclasses.fields(Schedule)}
  known = common.union(*(keys for _, keys in SCHEDULES.values()))
  if unknown := sorted(values.keys() - known):
    raise UserError(
      f"unknown key schedule.{unknown[0]}; configs/paper.py lists the valid"
      " keys."
    )
  return make(**{k: v for k, v in values.items() if k in common or k in own})


def unused_keys(name: str) -> dict[str, str]:
  """Keys of the `schedule` group that the schedule `name` does not use.

  Returns:
    Dotted keys, such as "schedule.patience", each with the reason.
  """
  users: dict[str, list[str]] = {}
  for other, (_, keys) in SCHEDULES.items():
    for key in keys:
      users.setdefault(key, []).append(other)
  return {
    f"schedule.{key}": f"only schedule.name={' or '.join(map(repr, names))}"
    " uses it"
    for key, names in users.items()
    if name not in names
  }
