"""The paper's update rule (section 5) and the learning rates over time."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.runtime.command import UserError


class Rates(NamedTuple):
  """The learning rates of one update, f32[] each (section 5: all are equal).

  conv1 has its own because the authors' logs lower and then freeze it.
  """

  weights: Any
  biases: Any
  conv1_weights: Any
  conv1_biases: Any


def momentum_sgd(
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  layer_weight_decay: tuple[tuple[str, float], ...] = (),
  decay_biases: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Momentum with the learning rate inside the velocity, as in section 5:

    v <- momentum * v - weight_decay * rate * w - rate * gradient
    w <- w + v

  (optax.sgd multiplies by the rate on the way out of the velocity, which is
  another rule whenever the rate changes.) Biases are not decayed: `weights.cu`
  of the 2012 source decays weight matrices alone. What has a rate of 0 is
  frozen, as there: it keeps its value, whatever its velocity was.

  The state is the velocity, a tree like the parameters. `update` takes
  `learning_rate` at each call, f32[] or `Rates`, and returns the new velocity
  twice: it is both the update and the state.

  Args:
    momentum: 0.9 in section 5.
    weight_decay: of all layers that `layer_weight_decay` does not name.
    layer_weight_decay: pairs such as ("fc8", 1.0).
    decay_biases: whether biases decay as their layer's weights do.
  """
  if any(isinstance(pair, str | float) for pair in layer_weight_decay):
    raise UserError(
      f"optimizer.layer_weight_decay={layer_weight_decay} is no tuple of pairs:"
      " write (('fc8', 1.0),), with the comma."
    )
  decay_of = dict(layer_weight_decay)

  def init(params):
    leaves = jax.tree.leaves_with_path(params)
    unknown = decay_of.keys() - {_layer(path) for path, _ in leaves}
    if unknown:
      raise UserError(
        f"optimizer.layer_weight_decay names {', '.join(sorted(unknown))},"
        " which this network does not have."
      )
    return jax.tree.map(jnp.zeros_like, params)

  def update(gradients, velocity, params, *, learning_rate, **_):
    def next_velocity(path, v, g, w):
      layer, bias = _layer(path), _is_bias(path)
      decay = decay_of.get(layer, weight_decay)
      rate = _rate(learning_rate, layer, bias)
      step = g if bias and not decay_biases else g + decay * w
      return jnp.where(rate == 0, 0.0, momentum * v - rate * step)

    velocity = jax.tree.map_with_path(
      next_velocity, velocity, gradients, params
    )
    return velocity, velocity

  return optax.GradientTransformationExtraArgs(init, update)


def _rate(rates: Any, layer: str, bias: bool) -> Any:
  """The one of `rates` that moves a layer's bias or weights."""
  if not isinstance(rates, Rates):
    return rates
  if layer == "conv1":
    return rates.conv1_biases if bias else rates.conv1_weights
  return rates.biases if bias else rates.weights


def _is_bias(path: tuple[Any, ...]) -> bool:
  """Whether the path of a parameter, such as .towers.conv1.bias, ends so."""
  return "bias" in str(path[-2].name)


def _layer(path: tuple[Any, ...]) -> str:
  """ "conv1" of .towers.conv1.bias, "fc8" of .fc8_bias."""
  names = [str(key.name) for key in path if hasattr(key, "name")]
  return "fc8" if names[0] == "fc8_bias" else names[1]


@dataclasses.dataclass(kw_only=True)
class Schedule:
  """Learning rates over time; how often they drop is the subclass's.

  Attributes:
    learning_rate: of weights, at the start.
    bias_learning_rate: of biases, at the start.
    bias_drops: "all": biases follow each drop of the weights; "once": they are
      divided by 10 at the first (dexp: at half time); "never".
    conv1_frozen_from: epoch from which conv1 stays as it is; 0: never.
  """

  SEEN: ClassVar[tuple[str, ...]] = ()  # fields that change in training

  learning_rate: float = 1e-2
  bias_learning_rate: float = 1e-2
  bias_drops: str = "all"
  conv1_frozen_from: float = 0.0

  def rate(self, epoch: float) -> float:
    """The learning rate of weights `epoch` epochs after the start."""
    return self.learning_rate / self._divisor(epoch)

  def rates(self, epoch: float) -> Rates:
    """All learning rates, f32[]."""
    biases = self.bias_learning_rate
    if self.bias_drops == "all":
      biases /= self._divisor(epoch)
    elif self.bias_drops == "once" and self._biases_dropped(epoch):
      biases /= 10
    conv1_moves = not self.conv1_frozen_from or epoch < self.conv1_frozen_from
    conv1 = self.learning_rate / self._conv1_divisor(epoch)
    rates = (
      self.rate(epoch),
      biases,
      conv1 * conv1_moves,
      biases * conv1_moves,
    )
    return Rates(*map(np.float32, rates))

  def observe(self, error: float) -> None:
    """Takes note of one evaluation's validation error."""

  def resumed(self, saved: dict[str, Any]) -> "Schedule":
    """This schedule, having seen what one that was saved had seen.

    Args:
      saved: `dataclasses.asdict` of a schedule; what it was configured with
        does not count, for `total_epochs` may have changed.
    """
    return dataclasses.replace(self, **{k: saved[k] for k in self.SEEN})

  def _divisor(self, epoch: float) -> float:
    raise NotImplementedError

  def _biases_dropped(self, epoch: float) -> bool:
    return self._divisor(epoch) > 1

  def _conv1_divisor(self, epoch: float) -> float:
    return self._divisor(epoch)


@dataclasses.dataclass(kw_only=True)
class Piecewise(Schedule):
  """Rates that drop at given epochs.

  Attributes:
    boundaries: epochs at which the weights' rate is divided by `factor`.
    factor: 10, but for dexp.
    conv1_boundaries: the same for conv1's weights; None: no others.
    bias_boundary: when biases that drop once do; None: at the first boundary.
  """

  boundaries: tuple[float, ...] = (25.0, 51.0, 79.0)
  factor: float = 10.0
  conv1_boundaries: tuple[float, ...] | None = None
  bias_boundary: float | None = None

  def _divisor(self, epoch):
    return self.factor ** sum(epoch >= b for b in self.boundaries)

  def _biases_dropped(self, epoch):
    if self.bias_boundary is None:
      return super()._biases_dropped(epoch)
    return epoch >= self.bias_boundary

  def _conv1_divisor(self, epoch):
    if self.conv1_boundaries is None:
      return self._divisor(epoch)
    return self.factor ** sum(epoch >= b for b in self.conv1_boundaries)


@dataclasses.dataclass(kw_only=True)
class Plateau(Schedule):
  """The paper's own rule: divide by 10 when the validation error stops falling.

  "Stops" is ours to define: no new best for `patience` evaluations. After
  `drops` divisions the rate stays. The fields that change are what a checkpoint
  keeps (`dataclasses.asdict`).

  Attributes:
    patience: evaluations without a new best error before a division.
    drops: divisions in all; the paper made three.
    best_error: the least validation error so far.
    waited: evaluations since then, or since the last division.
    dropped: divisions so far.
  """

  SEEN = ("best_error", "waited", "dropped")

  patience: int = 3
  drops: int = 3
  best_error: float = 1.0
  waited: int = 0
  dropped: int = 0

  def _divisor(self, epoch):
    del epoch  # only errors count
    return 10.0**self.dropped

  def observe(self, error: float) -> None:
    """Takes note of one evaluation's validation error."""
    if error < self.best_error:
      self.best_error, self.waited = error, 0
      return
    self.waited += 1
    if self.waited >= self.patience and self.dropped < self.drops:
      self.dropped, self.waited = self.dropped + 1, 0


# Epochs at which the authors lowered the rates by hand, from their notes on net
# #145: all weights, and conv1's, which the last drop reached earlier.
_LOGS = {
  "log145_2012": ((25.0, 51.0, 79.0), (25.0, 51.0, 67.0)),  # ILSVRC-2012
  "log145_2010": ((23.0, 51.0, 78.0), (23.0, 51.0, 68.0)),  # Table 1
}
_NAMES = ("piecewise", "plateau", "dexp", *_LOGS)


def make_schedule(
  *,
  name: str,
  boundaries: tuple[float, ...],
  patience: int,
  drops: int,
  total_epochs: float,
  **common: Any,
) -> Schedule:
  """The schedule of a configuration's `schedule` group.

  Args:
    name: "piecewise" (reads `boundaries`), "plateau" (reads `patience` and
      `drops`), "log145_2012" or "log145_2010" (recorded epochs of 90), "dexp"
      (net #170's: four equal quarters of `total_epochs`, a factor of 250
      between the first and the last).
    **common: the fields of `Schedule`.

  Raises:
    UserError: an unknown name or rule.
  """
  if common.get("bias_drops", "all") not in ("all", "once", "never"):
    raise UserError(
      f"schedule.bias_drops={common['bias_drops']!r}: say 'all', 'once' or"
      " 'never'."
    )
  if name == "piecewise":
    return Piecewise(boundaries=tuple(boundaries), **common)
  if name == "plateau":
    return Plateau(patience=patience, drops=drops, **common)
  if name == "dexp":
    return Piecewise(
      boundaries=tuple(total_epochs * quarter / 4 for quarter in (1, 2, 3)),
      factor=250 ** (1 / 3),
      bias_boundary=total_epochs / 2,
      **common,
    )
  if name in _LOGS:
    boundaries, conv1 = _LOGS[name]
    return Piecewise(boundaries=boundaries, conv1_boundaries=conv1, **common)
  raise UserError(f"schedule.name={name!r}: say one of {', '.join(_NAMES)}.")
