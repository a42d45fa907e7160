"""AlexNet: two towers that exchange activations at four of eight layers.

This is Figure 2 of the paper. A tower is what one GPU held in 2012:

  layer   what a tower reads         what it hands on
  conv1   the image, 224 x 224 x 3   27 x 27 x 48   ReLU, LRN, max-pooling
  conv2   its own 27 x 27 x 48       13 x 13 x 128  ReLU, LRN, max-pooling
  conv3   BOTH: 13 x 13 x 256        13 x 13 x 192  ReLU
  conv4   its own 13 x 13 x 192      13 x 13 x 192  ReLU
  conv5   its own 13 x 13 x 192      6 x 6 x 128    ReLU, max-pooling
  fc6     BOTH: 6 x 6 x 256          2048           ReLU, dropout
  fc7     BOTH: 4096                 2048           ReLU, dropout
  fc8     its own 2048               1000           summed over both towers

`network.py` holds these sizes as data, `layers.py` the layers, and
`sharding.py` the exchange.
"""

import operator

import jax
import jax.numpy as jnp
from flax import nnx

from alexnet_jax.model import kernels, layers, sharding
from alexnet_jax.model.network import LAYERS, Network
from alexnet_jax.model.shapes import shapes
from alexnet_jax.model.sharding import exchange, exchange_sum


class Tower(nnx.Module):
  """One GPU's half of the network: the layers `conv1` to `fc8` of `network`.

  In the paper these are Conv(3, 48), Conv(48, 128), Conv(256, 192),
  Conv(192, 192), Conv(192, 128), Linear(9216, 2048), Linear(4096, 2048) and
  Linear(2048, 1000). A layer with twice as many inputs as the layer before it
  has outputs reads both towers.
  """

  def __init__(self, network: Network, key: jax.Array):
    """Draws the initial weights from `key`, key<fry>[]."""
    self.network = network
    keys = jax.random.split(key, len(LAYERS))
    for name, layer, inputs, _, _ in shapes(network):
      layer_key = keys[LAYERS.index(name)]
      module = layers.make_layer(inputs, layer, network, layer_key)
      setattr(self, name, module)

  def finish(
    self, name: str, x: jax.Array, keys: jax.Array | None
  ) -> jax.Array:
    """Runs the steps that follow a layer, such as ReLU and pooling.

    Args:
      name: of the layer, such as "conv1".
      x: f32[B,H,W,features] or f32[B,features], the layer's result.
      keys: key<fry>[B], this tower's randomness; None in evaluation.

    Returns:
      f32[B,H',W',features], or f32[B,features] if it is fully connected.
    """
    return layers.apply_steps(
      getattr(self.network, name).then,
      x,
      layer=getattr(self, name),
      network=self.network,
      keys=fold_in(keys, LAYERS.index(name)),
    )


class AlexNet(nnx.Module):
  """All towers, stacked: every array of `towers` has a leading tower axis.

  Attributes:
    towers: a `Tower` whose arrays are f32[towers, ...].
    fc8_bias: f32[num_classes], the one parameter that belongs to no tower.
  """

  def __init__(self, network: Network, key: jax.Array):
    """Draws the initial weights from `key`, key<fry>[]."""
    # A tower's weights depend on its index, not on the mesh.
    self.towers = jax.vmap(
      lambda index: Tower(network, jax.random.fold_in(key, index))
    )(jnp.arange(network.towers, dtype=jnp.int32))
    self.fc8_bias = nnx.Param(jnp.zeros(network.num_classes, jnp.float32))

  def __call__(
    self, images: jax.Array, keys: jax.Array | None = None
  ) -> jax.Array:
    """The class scores, on one device and without a mesh; see `forward`.

    It can be differentiated in both modes and to any order, with `jax.grad` of
    a function of the model too, and works under `jax.jit`, `jax.vmap` and
    `jax.checkpoint`.

    Args:
      images: f32[B,S,S,3], RGB crops of S = `network.crop_size` pixels with
        values from 0 to 255, from which the mean image has been subtracted.
      keys: key<fry>[B], each example's randomness in training (dropout); None
        in evaluation.

    Returns:
      f32[B,num_classes]; their softmax is the class probabilities.
    """
    return forward(self, images, keys)


def abstract_net(network: Network) -> AlexNet:
  """The network's shapes and dtypes; no values are computed."""
  return jax.eval_shape(lambda: AlexNet(network, jax.random.key(0)))


def param_specs(net: AlexNet) -> AlexNet:
  """Where parameters lie on the mesh: towers over "model", fc8's bias on all.

  Also for other trees of the same structure, such as the optimiser's velocity.
  """

  def spec(path, _):
    is_bias = path[0].name == "fc8_bias"
    return sharding.REPLICATED if is_bias else sharding.TOWERS

  return jax.tree.map_with_path(spec, net)


def forward(
  net: AlexNet, images: jax.Array, keys: jax.Array | None = None
) -> jax.Array:
  """The class scores of this device's images.

  Written for one device, and run by `sharding.on_each_device` on every device
  of a mesh. `net` then holds the towers of this device: one or both. Outside of
  a mesh it holds all of them. In training, running averages (of batch
  normalisation) are updated in `net`.

  Args:
    net: this device's towers.
    images: f32[B,224,224,3], centred.
    keys: key<fry>[B], each example's randomness; None in evaluation.

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
  """What each layer of this device's towers hands on; arguments as `forward`.

  Returns:
    By layer, a list with the output of each tower of this device, f32[B,...]
    (or `compute_dtype`), after ReLU, normalisation, pooling and dropout. The
    output of fc8 is the tower's own class scores, always f32. Under `jax.jit`,
    those that the caller does not use cost nothing.
  """
  network = net.towers.network
  towers = split_towers(net.towers)
  # Each example's key is made different for each tower.
  first = sharding.first_tower(len(towers))
  tower_keys = [fold_in(keys, first + i) for i in range(len(towers))]
  if network.compute_dtype != "float32":
    images = images.astype(network.compute_dtype)  # all layers follow
  outputs = {}
  x = [images] * len(towers)  # what each tower reads
  for name in (shape.name for shape in shapes(network)):
    with jax.named_scope(name):
      # The exchange at fc8 comes after it: `forward` sums the scores.
      if name in network.exchanges and name != "fc8":
        maps_of_all_towers = exchange(x, network.exchange_dtype)
        x = [maps_of_all_towers] * len(towers)
      y = layers.apply_layers([getattr(tower, name) for tower in towers], x)
      x = [
        tower.finish(name, y[i], tower_keys[i])
        for i, tower in enumerate(towers)
      ]
    outputs[name] = x
  outputs["fc8"] = [kernels.at_least_float32(scores) for scores in x]
  if keys is not None:  # training has updated the averages of each tower
    averages = [running_averages(tower) for tower in towers]
    nnx.update(net.towers, jax.tree.map(lambda *x: jnp.stack(x), *averages))
  return outputs


def running_averages(module: nnx.Module) -> nnx.State:
  """The part of a module that training replaces at every step (may be empty).

  `nnx.update(module, averages)` is the inverse.
  """
  return nnx.state(module, nnx.BatchStat)


def split_towers(stacked: Tower) -> list[Tower]:
  """The towers of this device, from arrays with a leading tower axis."""
  count = jax.tree.leaves(stacked)[0].shape[0]
  return [jax.tree.map(operator.itemgetter(i), stacked) for i in range(count)]


def fold_in(keys: jax.Array | None, number: jax.Array | int):
  """Folds one number into each example's key; None stays None."""
  if keys is None:
    return None
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
