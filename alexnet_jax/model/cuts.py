"""Cuts: the network without some of its exchanges, or without a tower.

What a layer reads from another tower enters it through the rows of its kernel
that belong to that tower's maps. With zeros in these rows it computes what it
would if the other tower sent zeros, as ReLUs that are all silent. A cut changes
parameters alone, so the program of the whole network runs the cut one too.
"""

import itertools
from collections.abc import Collection

import jax
import numpy as np

from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import Shape, shapes
from alexnet_jax.runtime.command import UserError


def cut(
  net: AlexNet,
  exchanges: Collection[str] = (),
  towers: Collection[int] = (),
) -> AlexNet:
  """The network whose towers do not get what is cut.

  Args:
    net: all towers, on one device.
    exchanges: layers, such as "conv3", at which each tower reads its own maps
      only. fc8 cannot be among them: without its sum there are no class scores.
    towers: indices of towers whose activations no other tower gets, and whose
      part of the class scores is left out.

  Returns:
    A copy of `net`, which is not changed.

  Raises:
    UserError: the network has no such exchange or tower, or no tower is left.
  """
  network = net.towers.network
  _check(network, exchanges, towers)
  speaks = np.isin(np.arange(network.towers), list(towers), invert=True)
  own = np.eye(network.towers, dtype=bool)
  kept = {"fc8": speaks.reshape(-1, 1, 1)}
  for before, shape in itertools.pairwise(shapes(network)):
    if shape.name in network.exchanges and shape.name != "fc8":
      reads = own if shape.name in exchanges else own | speaks
      kept[shape.name] = reads[:, _senders(before, shape, network)]

  def masked(path, leaf):
    names = [key.name for key in path]
    if names[0] != "towers" or names[2] != "kernel" or names[1] not in kept:
      return leaf
    if kept[names[1]].all():
      return leaf  # the same array, not a copy
    rows = kept[names[1]].astype(np.float32)
    window = (1,) * (leaf.ndim - rows.ndim)
    return leaf * rows.reshape(rows.shape[0], *window, *rows.shape[1:])

  return jax.tree.map_with_path(masked, net)


def _senders(before: Shape, shape: Shape, network: Network) -> np.ndarray:
  """The tower that each weight of a kernel reads: i64[in_features,features].

  Maps are the last axis of what a layer reads, tower 0's first. A fully
  connected layer reads them flattened; with groups, each kernel reads a part.
  """
  maps, groups = before.outputs[-1], shape.layer.groups
  inputs = np.arange(shape.inputs[-1]).reshape(groups, -1).T
  towers = inputs % (maps * network.towers) // maps
  return towers.repeat(shape.layer.features // groups, axis=1)


def _check(network, exchanges, towers) -> None:
  possible = [name for name in network.exchanges if name != "fc8"]
  for name in exchanges:
    if name not in possible:
      names = ", ".join(possible) or "none"
      raise UserError(
        f"the exchange {name!r} cannot be cut; those of this network that can"
        f" are: {names}. (At fc8 the towers' scores are summed.)"
      )
  last = network.towers - 1
  for tower in towers:
    if tower not in range(network.towers):
      raise UserError(
        f"the network has no tower {tower}; its towers are 0 to {last}."
      )
  if len(set(towers)) == network.towers:
    raise UserError("all towers are cut; leave at least one.")
