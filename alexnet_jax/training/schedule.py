"""Learning rate schedules: how the rates of an update change over a run.

To add one, write a subclass of `Schedule` that defines `scaled`, and add its
name to `SCHEDULES`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.optimizer import Rates


@dataclasses.dataclass(kw_only=True)
class Schedule:
  """Learning rates as a function of the epoch; a subclass defines `scaled`.

  Biases and conv1 are treated in the same way by every schedule. A step has the
  rates of the epoch at which its batch begins, also if it spans two epochs.

  Attributes:
    learning_rate, bias_learning_rate: initial rates of weights and of biases.
    bias_drops: "all": biases follow every change of the weights' rate; "once":
      their rate is divided by 10 at the first drop (dexp: at half time);
      "never": it is constant.
    conv1_frozen_from: epoch from which conv1 is not updated; 0: never.

  Raises:
    UserError: an invalid value.
  """

  STATE: ClassVar[tuple[str, ...]] = ()  # attributes that change in training
  observes: ClassVar[bool] = False  # whether validation errors change the rate
  # Whether biases that drop once have done so after a number of epochs; a
  # method of the schedules that drop in steps.
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
    """The learning rate after `epoch` epochs if it begins with `initial`."""
    # Not a factor: 0.01 / 10 and 0.01 * 0.1 may round differently, and a run
    # that is resumed continues bit for bit.
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

  def resumed(self, saved: dict[str, Any], epoch: float) -> "Schedule":
    """This schedule as a run has it that is resumed after `epoch` epochs.

    It has the STATE of `saved`, its `asdict` at that time.
    """
    del epoch
    return dataclasses.replace(self, **{k: saved[k] for k in self.STATE})

  def jump(self, saved: dict[str, Any], epoch: float) -> str:
    """One sentence if the rate jumps on resuming after `epoch` epochs, else "".

    It may when the length of the run has changed since `saved` (`asdict` of
    this schedule) and the rate depends on it ("cosine"; "dexp" if the run is
    shorter now).
    """
    known = {key: saved[key] for key in saved if hasattr(self, key)}
    before = dataclasses.replace(self, **known).rate(epoch)
    after = self.rate(epoch)
    if before == after:
      return ""
    return (
      "the learning rate follows the present length of the run at epoch"
      f" {epoch:.4g}: it was {before:.3g} and is now {after:.3g}"
    )


@dataclasses.dataclass(kw_only=True)
class Piecewise(Schedule):
  """Rates that are divided by a constant at given epochs.

  Attributes:
    boundaries: epochs at which the rate is divided by `factor`.
    factor: 10 in the paper and in all schedules here except dexp.
    conv1_boundaries: the same for the weights of conv1; None: `boundaries`.
    bias_boundary: when biases that drop once do; None: at the first boundary.
  """

  boundaries: tuple[float, ...] = (25.0, 51.0, 79.0)
  factor: float = 10.0
  conv1_boundaries: tuple[float, ...] | None = None
  bias_boundary: float | None = None

  def scaled(self, initial, epoch):
    return initial / self.factor ** sum(epoch >= b for b in self.boundaries)

  def resumed(self, saved, epoch):
    """Drops that were made stay, also if the run is longer now ("dexp")."""

    def kept(old, new):
      return old if old <= epoch else max(new, epoch)

    changes = {
      "boundaries": tuple(map(kept, saved["boundaries"], self.boundaries))
    }
    if self.bias_boundary is not None:
      changes["bias_boundary"] = kept(
        saved["bias_boundary"], self.bias_boundary
      )
    return dataclasses.replace(self, **changes)

  def conv1_scaled(self, initial, epoch):
    if self.conv1_boundaries is None:
      return self.scaled(initial, epoch)
    drops = sum(epoch >= b for b in self.conv1_boundaries)
    return initial / self.factor**drops

  def has_dropped(self, epoch):
    if self.bias_boundary is not None:
      return epoch >= self.bias_boundary
    return any(epoch >= b for b in self.boundaries)


@dataclasses.dataclass(kw_only=True)
class Plateau(Schedule):
  """The paper's rule: divide by 10 when the validation error stops improving.

  Attributes:
    patience: evaluations without a new best error before a division. (The paper
      does not define "stops improving".)
    drops: number of divisions; 3 in the paper. Then the rate is constant.
    best_error: lowest validation error so far.
    waited: evaluations since then, or since the last division.
    dropped: divisions so far.
  """

  STATE = ("best_error", "waited", "dropped")
  observes = True

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
  """A linear warm-up, then half a cosine down to 0 at the end.

  Not in the paper. Loshchilov and Hutter, SGDR, 2017, without restarts; warm-up
  as Goyal et al., Accurate, Large Minibatch SGD, 2017. A run that is resumed
  with another length takes the rates of a run of that length from there on.

  Attributes:
    warmup_epochs: length of the warm-up; 0: none.
    end_epoch: epochs of the whole run. If it ends within the warm-up, the rate
      only rises.
    step_epochs: length of a step. In the warm-up a step has the rate at its
      end: at its beginning that of the first step would be 0. Runs that began
      when it was so go on with it (0).
  """

  warmup_epochs: float = 0.0
  end_epoch: float
  step_epochs: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if self.warmup_epochs < 0:
      raise UserError(
        f"schedule.warmup_epochs must be at least 0 (got {self.warmup_epochs})."
      )

  def scaled(self, initial, epoch):
    if epoch < self.warmup_epochs:
      end = min(epoch + self.step_epochs, self.warmup_epochs)
      return initial * end / self.warmup_epochs
    if epoch >= self.end_epoch:
      return 0.0
    share = (epoch - self.warmup_epochs) / (self.end_epoch - self.warmup_epochs)
    return initial * (1 + math.cos(math.pi * share)) / 2

  def resumed(self, saved, epoch):
    step_epochs = saved.get("step_epochs", 0.0)
    return dataclasses.replace(self, step_epochs=step_epochs)


def dexp(*, total_epochs: float, **common: Any) -> Piecewise:
  """Net #170's schedule ("dexp" in the 2012 source).

  Four equal quarters with a factor of 250 between the rates of the first and
  the last; biases that drop once do so at half time.
  """
  return Piecewise(
    boundaries=tuple(total_epochs * quarter / 4 for quarter in (1, 2, 3)),
    factor=250 ** (1 / 3),
    bias_boundary=total_epochs / 2,
    **common,
  )


# The drops that the authors made by hand in net #145's ILSVRC-2012 run, and in
# its ILSVRC-2010 run (Table 1 of the paper).
log145_2012 = functools.partial(
  Piecewise, boundaries=(25.0, 51.0, 79.0), conv1_boundaries=(25.0, 51.0, 67.0)
)
log145_2010 = functools.partial(
  Piecewise, boundaries=(23.0, 51.0, 78.0), conv1_boundaries=(23.0, 51.0, 68.0)
)

# For each `schedule.name`: what makes it, and which keys it reads beside the
# attributes of `Schedule`.
SCHEDULES: dict[str, tuple[Callable[..., Schedule], tuple[str, ...]]] = {
  "piecewise": (Piecewise, ("boundaries",)),
  "plateau": (Plateau, ("patience", "drops")),
  "dexp": (dexp, ("total_epochs",)),
  "log145_2012": (log145_2012, ()),
  "log145_2010": (log145_2010, ()),
  "cosine": (Cosine, ("warmup_epochs", "end_epoch", "step_epochs")),
}


def make_schedule(*, name: str, **values: Any) -> Schedule:
  """The schedule of a configuration's `schedule` group.

  Args:
    name: one of `SCHEDULES`.
    **values: the group's other keys (those of other schedules are ignored);
      `total_epochs`; `end_epoch`, at which the run ends, by default there; and
      `step_epochs`, the length of a step.

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
  """Keys such as "schedule.patience" that `name` does not use, with reasons."""
  reasons = {}
  for key in {key for _, keys in SCHEDULES.values() for key in keys}:
    users = [other for other, (_, keys) in SCHEDULES.items() if key in keys]
    if name not in users:
      names = " or ".join(map(repr, users))
      reasons[f"schedule.{key}"] = f"only schedule.name={names} uses it"
  return reasons
