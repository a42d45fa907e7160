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
  decay_biases: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Momentum with the learning rate inside the velocity, as in section 5:

    v <- momentum * v - weight_decay * rate * w - rate * gradient
    w <- w + v

  optax.sgd multiplies by the rate after the velocity, which is another rule
  when the rate changes. As in `weights.cu` of the 2012 source, only kernels are
  decayed, and parameters with a rate of 0 keep their value whatever their
  velocity was. (optax's own parts would need a mask for each rate and each
  layer's decay, and have none that freezes.)

  The state is the velocity, a tree like the parameters. `update` takes
  `learning_rate` at each call, f32[] or `Rates`, and returns the new velocity
  twice, as the update and as the state.

  Args:
    momentum: 0.9 in section 5.
    weight_decay: of all layers that `layer_weight_decay` does not name.
    layer_weight_decay: pairs such as ("fc8", 1.0).
    decay_biases: whether a layer's bias decays as its kernel. Parameters of
      steps after a layer, such as batch normalisation, never decay.

  Raises:
    UserError: `layer_weight_decay` is not a tuple of pairs or, in `init`, names
      a layer that the network does not have.
  """
  if any(isinstance(pair, str | float) for pair in layer_weight_decay):
    raise UserError(
      f"optimizer.layer_weight_decay={layer_weight_decay} is not a tuple of"
      " pairs; write (('fc8', 1.0),), with the comma."
    )
  decay_of = dict(layer_weight_decay)

  def init(params):
    leaves = jax.tree.leaves_with_path(params)
    if unknown := decay_of.keys() - {_layer(path) for path, _ in leaves}:
      raise UserError(
        f"optimizer.layer_weight_decay names {', '.join(sorted(unknown))},"
        " which this network does not have."
      )
    return jax.tree.map(jnp.zeros_like, params)

  def update(gradients, velocity, params, *, learning_rate, **_):
    def next_velocity(path, v, g, w):
      rate = rate_of(learning_rate, path)
      decay = decay_of.get(_layer(path), weight_decay)
      decayed = _is_kernel(path) or (decay_biases and _is_bias(path))
      step = g + decay * w if decayed else g
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
  if _layer(path) == "conv1":
    return rates.conv1_weights if _is_kernel(path) else rates.conv1_biases
  return rates.weights if _is_kernel(path) else rates.biases


def _is_kernel(path: tuple[Any, ...]) -> bool:
  """Whether the path is a kernel's, such as .towers.conv1.kernel.value."""
  return str(path[-2].name) == "kernel"


def _is_bias(path: tuple[Any, ...]) -> bool:
  """Whether the path is a bias's: .towers.conv1.bias.value or .fc8_bias."""
  return str(path[-2].name) in ("bias", "fc8_bias")


def _layer(path: tuple[Any, ...]) -> str:
  """ "conv1" of .towers.conv1.bias, "fc8" of .fc8_bias."""
  names = [str(key.name) for key in path if hasattr(key, "name")]
  return "fc8" if names[0] == "fc8_bias" else names[1]
