"""The paper's update rule (section 5)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.runtime.command import UserError


class Rates(NamedTuple):
  """The learning rates of one update, f32[] each; equal in section 5.

  conv1 has its own because the authors' logs lower it earlier and then freeze
  it. "Weights" are the kernels, "biases" all other parameters.
  """

  weights: Any
  biases: Any
  conv1_weights: Any
  conv1_biases: Any


def momentum_sgd(
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  layer_weight_decay: tuple[tuple[str, float], ...] = (),
  layer_rates: tuple[tuple[str, float], ...] = (),
  decay_biases: bool = False,
  l1: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """Momentum with the learning rate inside the velocity, as in section 5:

    v <- momentum * v - weight_decay * rate * w - rate * gradient
    w <- w + v

  optax.sgd multiplies by the rate after the velocity, which is another rule
  when the rate changes. As in `weights.cu` of the 2012 source, only kernels are
  decayed, and parameters with a rate of 0 keep their value whatever their
  velocity was. (Without that last rule, `optax.add_decayed_weights`, a scaling
  by the rate and `optax.trace` in a chain give the same bits, as a test shows;
  no part of optax stops a velocity when its rate becomes 0.)

  The parameters may be any tree. A leaf is a kernel, or a bias, by its name,
  and the name before it is its layer: {"conv1": {"kernel": ..., "bias": ...}}.
  The state is the velocity, a tree like the parameters. `update` takes
  `learning_rate` at each call, f32[] or `Rates`, and returns the new velocity
  twice, as the update and as the state.

  Args:
    momentum: 0.9 in section 5.
    weight_decay: of all layers that `layer_weight_decay` does not name.
    layer_weight_decay: pairs such as ("fc8", 1.0).
    layer_rates: pairs such as ("conv1", 0.1), factors of the learning rate. A
      layer with factor 0 is frozen: it costs no update, and no gradient where
      all layers before it are frozen too.
    decay_biases: whether a layer's bias decays as its kernel. Parameters of
      steps after a layer, such as batch normalisation, never decay.
    l1: added to the gradient of every kernel, with the sign of each weight; the
      penalty is l1 times the sum of absolute values. Not in the paper.

  Raises:
    UserError: `layer_weight_decay` or `layer_rates` is not a tuple of pairs, or
      a factor is negative; or, in `init`, one names a layer that the
      parameters do not have.
  """
  decay_of = _by_layer("layer_weight_decay", layer_weight_decay)
  factor_of = _by_layer("layer_rates", layer_rates)
  if l1 < 0:
    raise UserError(f"optimizer.l1 must be at least 0 (got {l1}).")
  if min(factor_of.values(), default=0) < 0:
    raise UserError(
      f"optimizer.layer_rates={layer_rates} has a negative factor; write 0 to"
      " freeze a layer."
    )

  def init(params):
    leaves = jax.tree.leaves_with_path(params)
    layers = {layer_of(path) for path, _ in leaves}
    for key, named in (
      ("layer_weight_decay", decay_of),
      ("layer_rates", factor_of),
    ):
      if unknown := named.keys() - layers:
        raise UserError(
          f"optimizer.{key} names {', '.join(sorted(unknown))}, which this"
          " network does not have."
        )
    return jax.tree.map(jnp.zeros_like, params)

  def update(gradients, velocity, params, *, learning_rate, **_):
    def next_velocity(path, v, g, w):
      layer = layer_of(path)
      rate = rate_of(learning_rate, path)
      if layer in factor_of:
        if factor_of[layer] == 0:
          # A constant, so that XLA leaves out gradient and update.
          return jnp.zeros_like(v)
        rate = factor_of[layer] * rate
      decay = decay_of.get(layer, weight_decay)
      decayed = _is_kernel(path) or (decay_biases and _is_bias(path))
      step = g + decay * w if decayed else g
      if l1 and _is_kernel(path):
        step = step + l1 * jnp.sign(w)
      return jnp.where(rate == 0, 0.0, momentum * v - rate * step)

    trees = (velocity, gradients, params)
    velocity = jax.tree.map_with_path(next_velocity, *trees)
    return velocity, velocity

  return optax.GradientTransformationExtraArgs(init, update)


# What a configuration's `optimizer` group makes.
make_optimizer = momentum_sgd


def rate_of(rates: Any, path: tuple[Any, ...]) -> Any:
  """Of `Rates`, or of one rate for all, the rate of the parameter at `path`."""
  if not isinstance(rates, Rates):
    return rates
  if layer_of(path) == "conv1":
    return rates.conv1_weights if _is_kernel(path) else rates.conv1_biases
  return rates.weights if _is_kernel(path) else rates.biases


def layer_of(path: tuple[Any, ...]) -> str:
  """ "conv1" of .towers.conv1.bias.value, "fc8" of .fc8_bias.value."""
  name = _names(path)[0]
  return "fc8" if name == "fc8_bias" else name


def _is_kernel(path: tuple[Any, ...]) -> bool:
  """Whether the path is a kernel's, such as .towers.conv1.kernel.value."""
  return _names(path)[-1] == "kernel"


def _is_bias(path: tuple[Any, ...]) -> bool:
  """Whether the path is a bias's: .towers.conv1.bias.value or .fc8_bias."""
  return _names(path)[-1] in ("bias", "fc8_bias")


def _names(path: tuple[Any, ...]) -> list[str]:
  """["conv1", "bias"] of .towers.conv1.bias.value or ["conv1"]["bias"]."""
  names = jax.tree_util.keystr(path, simple=True, separator="/")
  return names.removeprefix("towers/").removesuffix("/value").split("/")


def _by_layer(
  key: str, pairs: tuple[tuple[str, float], ...]
) -> dict[str, float]:
  """The pairs of a key as a dict; raises UserError if they are not pairs."""
  for pair in pairs:
    match pair:
      case [str(), int() | float()]:
        continue
    raise UserError(
      f"optimizer.{key}={pairs} is not a tuple of pairs of a layer and a"
      " number; write (('fc8', 1.0),), with the comma."
    )
  if len(named := dict(pairs)) < len(pairs):
    raise UserError(f"optimizer.{key}={pairs} names a layer twice.")
  return named
