"""The parameters in the layout of PyTorch and Caffe, and back.

That layout has one tower with grouped convolutions. `conv2.weight` is
[256,48,5,5]: outputs, inputs of a group, rows, columns; tower 0's outputs come
first, and layers that read only their own tower have groups=2. `fc6.weight` is
[4096,9216], its columns in the order channel, row, column.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.model.alexnet import AlexNet, abstract_net
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import shapes
from alexnet_jax.runtime.command import UserError

Arrays = dict[str, np.ndarray]


def to_grouped(
  net: AlexNet, network: Network, reverse_colours: bool = False
) -> Arrays:
  """The parameters of all towers as those of one tower.

  Args:
    net: all towers, on any mesh.
    network: the network that `net` is.
    reverse_colours: reverse what the first layer reads, RGB or BGR.

  Returns:
    `conv1.weight`, `conv1.bias`, ..., `fc8.bias`, f32. Weights of convolutions
    have the shape [towers*F,C,K,K], of fully connected layers
    [towers*F,inputs], of fc8 [num_classes,towers*inputs]. All else has one
    value per output: biases and batch normalisation's `conv1.batch_norm.scale`,
    `.offset`, `.mean` and `.variance` (PyTorch: weight, bias, running_mean,
    running_var).

  Raises:
    UserError: the network has local layers.
  """
  inputs = _inputs(network)
  arrays = {}
  for path, leaf in jax.tree.leaves_with_path(net):
    layer, kind = _name(path)
    value = np.asarray(leaf)  # [towers,...] except fc8's bias
    if kind == "weight":
      value = _to_weight(value, layer, inputs[layer])
    else:
      value = value.reshape(-1)
    arrays[f"{layer}.{kind}"] = np.ascontiguousarray(value)
  return _reversed(arrays, network) if reverse_colours else arrays


def from_grouped(
  arrays: Mapping[str, np.ndarray],
  network: Network,
  reverse_colours: bool = False,
  name_of: Callable[[str], str] = str,
) -> AlexNet:
  """The inverse of `to_grouped`, bit for bit.

  Args:
    arrays: as of `to_grouped`.
    network: the network that they belong to.
    reverse_colours: as of `to_grouped`.
    name_of: what an array is called in error messages.

  Raises:
    UserError: names every array that is missing, unknown, misshapen or has
      values that are not finite.
  """
  inputs, abstract = _inputs(network), abstract_net(network)
  _check(arrays, abstract, network, name_of)
  if reverse_colours:
    arrays = _reversed(arrays, network)

  def leaf(path, like):
    layer, kind = _name(path)
    value = arrays[f"{layer}.{kind}"]
    if kind == "weight":
      value = _to_kernel(value, layer, inputs[layer], like.shape)
    return jnp.asarray(value.reshape(like.shape))

  return jax.tree.map_with_path(leaf, abstract)


def _name(path: tuple[Any, ...]) -> tuple[str, str]:
  """("conv1", "weight") for .towers.conv1.kernel; ("fc8", "bias") for fc8's."""
  names = [str(key.name) for key in path[:-1]]
  if names == ["fc8_bias"]:
    return "fc8", "bias"
  _, layer, *names = names  # such as ["batch_norm", "scale"]
  kind = ".".join(names)
  return layer, "weight" if kind == "kernel" else kind


def _to_weight(kernel, layer, maps):
  """[towers,K,K,C,F] or [towers,inputs,F] -> [towers*F,C,K,K] or 2-D."""
  towers = len(kernel)
  if layer.startswith("fc"):
    kernel = kernel.reshape(towers, *maps, -1)
  weight = kernel.transpose(0, 4, 3, 1, 2)
  if layer == "fc8":  # each tower scores all classes: its inputs are columns
    weight = weight.swapaxes(0, 1)
  else:
    weight = weight.reshape(-1, *weight.shape[2:])
  return weight.reshape(len(weight), -1) if layer.startswith("fc") else weight


def _to_kernel(weight, layer, maps, shape):
  """The inverse of `_to_weight`; `shape` is the kernel's."""
  height, width, count = maps if layer.startswith("fc") else shape[1:4]
  towers = shape[0]
  if layer == "fc8":
    weight = weight.reshape(-1, towers, count, height, width).swapaxes(0, 1)
  else:
    weight = weight.reshape(towers, -1, count, height, width)
  return weight.transpose(0, 3, 4, 2, 1)


def _inputs(network: Network) -> dict[str, tuple[int, int, int]]:
  """Each layer's input as (height, width, maps); units count as 1 x 1 maps."""
  result, height, width = {}, network.crop_size, network.crop_size
  for name, layer, inputs, _, outputs in shapes(network):
    if layer.local:
      raise UserError(
        f"{name} is a local layer; PyTorch and Caffe have no layout for it, so"
        " the weights of this network cannot be exported or imported."
      )
    result[name] = (height, width, math.prod(inputs) // (height * width))
    height, width = outputs[:2] if len(outputs) == 3 else (1, 1)
  return result


def _reversed(arrays: Mapping[str, np.ndarray], network: Network) -> Arrays:
  """`arrays` with the input channels of the first layer reversed."""
  first, layer, *_ = shapes(network)[0]
  if layer.groups > 1:
    raise UserError(
      f"{first} reads the colours in {layer.groups} groups, so their order"
      " cannot be reversed."
    )
  name, maps = f"{first}.weight", _inputs(network)[first][-1]
  weight = arrays[name]
  by_map = weight.reshape(len(weight), maps, -1)[:, ::-1]
  return {**arrays, name: np.ascontiguousarray(by_map).reshape(weight.shape)}


def _check(arrays, abstract: AlexNet, network: Network, name_of) -> None:
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
  expected = to_grouped(zeros, network)
  names = {name_of(name): name for name in expected}
  problems = [
    f"{theirs} is missing"
    for theirs, name in names.items()
    if name not in arrays
  ]
  for name, array in arrays.items():
    theirs = name_of(name)
    if name not in expected:
      near = difflib.get_close_matches(theirs, names, n=1, cutoff=0.0)
      problems.append(f"{theirs} is unknown (the nearest name is {near[0]})")
      continue
    shape, wanted = list(array.shape), list(expected[name].shape)
    if shape != wanted:
      problems.append(f"{theirs} has shape {shape}, expected {wanted}")
    if array.dtype != np.float32:
      problems.append(f"{theirs} has type {array.dtype}, expected float32")
    elif wrong := array.size - np.count_nonzero(np.isfinite(array)):
      what = "value that is" if wrong == 1 else "values that are"
      problems.append(f"{theirs} has {wrong:,} {what} not finite")
  if problems:
    hint, scores = "", arrays.get("fc8.bias", np.zeros(0))
    if scores.ndim == 1 and 0 < len(scores) != network.num_classes:
      hint = (
        f" They have {len(scores)} classes and the network has"
        f" {network.num_classes} (num_classes)."
      )
    raise UserError(
      f"the weights do not fit this network: {'; '.join(problems)}.{hint}"
    )
