"""AlexNet: two towers that talk before conv3 and in the fully connected layers.

Figure 2 of the paper. A tower is what one GPU holds (`conv1a`, ..., `conv1b`,
... in the 2012 source); its sizes, layer by layer, stand in `network.py`.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from alexnet_jax.model import kernels, layers, local
from alexnet_jax.model.network import LAYERS, Network, shapes
from alexnet_jax.model.sharding import (
  MODEL,
  REPLICATED,
  TOWERS,
  exchange,
  exchange_sum,
)


class Tower(nnx.Module):
  """One GPU's half of the network: `conv1` to `conv5`, `fc6` to `fc8`.

  In the paper these are Conv(3, 48), Conv(48, 128), Conv(256, 192),
  Conv(192, 192), Conv(192, 128), Linear(9216, 2048), Linear(4096, 2048) and
  Linear(2048, 1000): where a layer has twice the inputs that its predecessor
  has outputs, it reads both towers.
  """

  def __init__(self, network: Network, key: jax.Array):
    keys = jax.random.split(key, len(LAYERS))
    for name, layer, inputs, _, _ in shapes(network):
      options = {"std": layer.std, "bias": layer.bias}
      options["key"] = keys[LAYERS.index(name)]
      kernel = {"size": layer.size, "stride": layer.stride}
      kernel["padding"] = layer.padding
      if layer.local:
        module = local.LocalConv(inputs, layer.features, **kernel, **options)
      elif layer.size:
        kernel["groups"] = layer.groups
        module = layers.Conv(inputs[-1], layer.features, **kernel, **options)
      else:
        module = layers.Linear(inputs[-1], layer.features, **options)
      setattr(self, name, module)
    self.network = network

  def __call__(
    self, *names: str, x: jax.Array, keys: jax.Array | None
  ) -> jax.Array:
    """Runs the named layers, those that the network has, on `x`."""
    for name in names:
      layer = getattr(self.network, name)
      if layer is None:
        continue
      with jax.named_scope(name):
        x = x if layer.size else x.reshape(x.shape[0], -1)
        x = getattr(self, name)(x)
        for what in layer.then:
          x = self._then(what, x, keys, LAYERS.index(name))
    return x

  def _then(self, what, x, keys, layer_index):
    net = self.network
    match what:
      case "relu":
        return jax.nn.relu(x)
      case "tanh":
        return jnp.tanh(x)
      case "sigmoid":
        return jax.nn.sigmoid(x)
      case "lrn":
        return kernels.local_response_norm(x, **net.lrn)
      case "within_map_norm":
        return layers.within_map_norm(x, **net.within_map)
      case "pool":
        return kernels.max_pool(x, **net.pooling)
      case "avg_pool":
        return layers.avg_pool(x, **net.pooling)
      case "dropout":
        return layers.dropout(x, _fold_in(keys, layer_index), **net.dropout)
    raise ValueError(f"{what!r} is none of network.STEPS")


class AlexNet(nnx.Module):
  """All towers, stacked: each leaf of `towers` has a leading tower axis.

  Attributes:
    towers: a `Tower` whose leaves are f32[towers, ...].
    fc8_bias: f32[num_classes], the one parameter that belongs to no tower.
  """

  def __init__(self, network: Network, key: jax.Array):
    # A tower's weights depend on its index alone, never on the mesh.
    self.towers = jax.vmap(
      lambda index: Tower(network, jax.random.fold_in(key, index))
    )(jnp.arange(network.towers))
    self.fc8_bias = nnx.Param(jnp.zeros(network.num_classes))


def param_specs(net: AlexNet) -> AlexNet:
  """How the parameters lie on the mesh: towers over "model", fc8's bias whole.

  Holds for anything of the same structure, such as the optimiser's velocity.
  """
  return jax.tree.map_with_path(
    lambda path, _: REPLICATED if path[0].name == "fc8_bias" else TOWERS, net
  )


def forward(
  net: AlexNet, images: jax.Array, keys: jax.Array | None = None
) -> jax.Array:
  """The class scores of this device's images; written for one device.

  Runs inside `shard_map`, where `net` holds this device's towers: one of them,
  or both, and the lines are the same.

  Args:
    net: this device's towers.
    images: f32[B,224,224,3], centred.
    keys: key<fry>[B], an example's randomness (dropout); None in evaluation.

  Returns:
    f32[B,num_classes], the same on all devices of the "model" axis.
  """
  scores = activations(net, images, keys)["fc8"]
  with jax.named_scope("fc8"):
    scores = exchange_sum(scores, net.towers.network.exchange_dtype)
    return scores + net.fc8_bias[...].reshape(1, -1)


def activations(
  net: AlexNet, images: jax.Array, keys: jax.Array | None = None
) -> dict[str, list[jax.Array]]:
  """What each layer hands on, a list over this device's towers.

  Arguments as of `forward`. What nobody looks at costs nothing: it is gone
  once compiled.

  Returns:
    For each layer's name, for each tower here, f32[B,...] (or of
    `compute_dtype`) after its ReLU, normalisation, pooling and dropout; for fc8
    the tower's share of the scores, f32.
  """
  network = net.towers.network
  towers = _local_towers(net.towers, keys)
  if network.compute_dtype != "float32":
    images = images.astype(network.compute_dtype)  # and all layers follow
  outputs = {}

  def both(layer, x):
    """What each tower reads at `layer`: both towers', if it is an exchange."""
    if layer not in network.exchanges:
      return x
    with jax.named_scope(layer):
      return [exchange(x, network.exchange_dtype)] * len(x)

  def each(x, *names):
    """Every tower runs its own layers of these names on what it reads."""
    for name in names:
      x = [run(name, x=x) for run, x in zip(towers, x, strict=True)]
      outputs[name] = x
    return x

  x = each([images] * len(towers), "conv1", "conv2")  # each f32[B,13,13,128]
  x = each(both("conv3", x), "conv3")  # f32[B,13,13,256]
  x = each(both("conv4", x), "conv4", "conv5")  # its own; both's if no conv3
  x = each(both("conv6", x), "conv6")  # not in the paper's main network
  x = each(both("fc6", x), "fc6")  # f32[B,6,6,256]
  x = each(both("fc7", x), "fc7")  # f32[B,4096]
  x = each(x, "fc8")  # each f32[B,1000]: the classes, as this tower scores them
  outputs["fc8"] = [kernels.widened(scores) for scores in x]
  return outputs


def _local_towers(stacked, keys):
  """This device's towers, each as a function of (layer names, x)."""
  count = jax.tree.leaves(stacked)[0].shape[0]
  first = lax.axis_index(MODEL) * count
  towers = [jax.tree.map(operator.itemgetter(i), stacked) for i in range(count)]
  return [
    functools.partial(tower, keys=_fold_in(keys, first + i))
    for i, tower in enumerate(towers)
  ]


def _fold_in(keys, number):
  """Folds one number into each example's key; there are none in evaluation."""
  if keys is None:
    return None
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
