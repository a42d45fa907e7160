"""The sizes of a network's layers: what each reads and hands on, and costs."""

import dataclasses
import math
from typing import Any, NamedTuple

from alexnet_jax.model import network as networks
from alexnet_jax.model.network import LAYERS, Layer, Network
from alexnet_jax.runtime import values
from alexnet_jax.runtime.command import UserError


class Shape(NamedTuple):
  """The sizes of one layer of one tower.

  Attributes:
    name: one of LAYERS.
    layer: with its features multiplied by the network's width.
    inputs: (height, width, maps) of what a convolution reads, else (units,).
    convolved: of the layer's output, before pooling.
    outputs: of the output after the steps that follow the layer.
  """

  name: str
  layer: Layer
  inputs: tuple[int, ...]
  convolved: tuple[int, ...]
  outputs: tuple[int, ...]


def shapes(network: Network) -> list[Shape]:
  """The sizes of all layers that `network` has, first to last.

  Raises:
    UserError: sizes that do not fit each other; names the layer and the key.
  """
  _check_values(network)
  present = [name for name in LAYERS if getattr(network, name) is not None]
  _check_exchanges(network, present)
  x = (network.crop_size, network.crop_size, network.channels)
  result = []
  for name in present:
    layer = getattr(network, name)
    if name != "fc8":
      features = max(1, round(layer.features * network.width))
      layer = dataclasses.replace(layer, features=features)
      if name in network.exchanges:
        x = (*x[:-1], x[-1] * network.towers)
    if problem := _problem(layer, x):
      raise UserError(f"network.{name} is not a valid layer: {problem}.")
    shape = _shape(name, layer, x, network)
    if min(*shape.convolved, *shape.outputs) < 1:
      raise UserError(
        f"network.crop_size={network.crop_size} is too small for this network:"
        f" {name} reads maps of {x[0]} x {x[1]}, which its kernel of size"
        f" {layer.size} and its pooling do not fit. Choose a larger crop_size."
      )
    result.append(shape)
    x = shape.outputs
  return result


def _shape(
  name: str, layer: Layer, x: tuple[int, ...], network: Network
) -> Shape:
  """The sizes of a layer that reads activations of size `x`."""
  if not layer.size:
    units = (layer.features,)
    return Shape(name, layer, (math.prod(x),), units, units)
  side = (x[0] + sum(layer.padding) - layer.size) // layer.stride + 1
  pooled = side
  window = network.pool_size, network.pool_stride, network.pool_overhang
  for step in layer.then:
    if step in ("pool", "avg_pool"):
      pooled = count_windows(pooled, *window)
    elif step == "global_avg_pool":
      pooled = 1
  convolved, outputs = [(n, n, layer.features) for n in (side, pooled)]
  return Shape(name, layer, x, convolved, outputs)


def count_windows(length: int, size: int, stride: int, overhang: bool) -> int:
  """The number of pooling windows along an axis; below 1 if none fits.

  With `overhang` the last one may extend beyond the edge, but it begins inside
  of the map, as with PyTorch's `ceil_mode`.
  """
  if overhang:
    return 1 + min(-(-(length - size) // stride), (length - 1) // stride)
  return 1 + (length - size) // stride


def layer_counts(network: Network) -> dict[str, Any]:
  """Parameters, multiply-adds and bytes, computed from the sizes alone.

  Returns:
    `layers`, a list of dicts, and `totals`, their sums over the last four keys:
      name, towers: the layer, and the number of towers; all are counted.
      output_shape: of one tower, before pooling.
      exchange: whether the layer reads the activations of all towers.
      parameters: of the layer and of the steps that follow it.
      macs: multiply-adds of the forward pass of one image.
      parameter_bytes: of the parameters in float32.
      activation_bytes: of one image's outputs before pooling, in float32.

  Raises:
    UserError: as `shapes`.
  """
  layers = [_count(shape, network) for shape in shapes(network)]
  summed = ("parameters", "macs", "parameter_bytes", "activation_bytes")
  totals = {key: sum(layer[key] for layer in layers) for key in summed}
  return {"layers": layers, "totals": totals}


def _count(shape: Shape, network: Network) -> dict[str, Any]:
  name, layer, inputs, convolved, _ = shape
  inputs_per_output = (layer.size or 1) ** 2 * inputs[-1] // layer.groups
  kernels = math.prod(convolved) if layer.local else layer.features
  parameters = kernels * (inputs_per_output + (layer.bias is not None))
  for step in layer.then:
    parameters += layer.features * networks.STEP_PARAMETERS.get(step, 0)
  parameters *= network.towers
  if name == "fc8":
    parameters += network.num_classes  # one bias for all towers
  outputs = network.towers * math.prod(convolved)
  return {
    "name": name,
    "output_shape": list(convolved),
    "towers": network.towers,
    "exchange": name in network.exchanges,
    "parameters": parameters,
    "macs": outputs * inputs_per_output,
    "parameter_bytes": 4 * parameters,  # of float32
    "activation_bytes": 4 * outputs,
  }


def _check_values(network: Network) -> None:
  """Raises UserError if a value makes no sense, whatever the layers are."""
  values.check(networks.to_dict(network), "network")
  for key, dtypes in (
    ("exchange_dtype", networks.EXCHANGE_DTYPES),
    ("compute_dtype", networks.COMPUTE_DTYPES),
    ("precision", networks.PRECISIONS),
  ):
    if (value := getattr(network, key)) not in dtypes:
      raise UserError(
        f"network.{key} must be one of {', '.join(dtypes)} (got {value!r})."
      )


def _problem(layer: Layer, x: tuple[int, ...]) -> str:
  """What is wrong with a layer that reads activations of size `x`, or ""."""
  steps = networks.STEPS + networks.MAP_STEPS
  for step in layer.then:
    if step not in steps:
      return f"unknown step {step!r} in then; valid are {', '.join(steps)}"
    if step in networks.STEP_PARAMETERS and layer.then.count(step) > 1:
      return f"{step!r} can follow it once only (got then={layer.then})"
    if step in networks.MAP_STEPS and not layer.size:
      return f"the step {step!r} needs maps, so a convolution (size > 0)"
  if not layer.size:
    if (layer.stride, layer.padding, layer.groups) != (1, (0, 0), 1):
      return "stride, padding and groups need a convolution (size > 0)"
    return "local needs a convolution (size > 0)" if layer.local else ""
  if max(layer.padding) >= layer.size:
    return (
      f"padding={layer.padding} is not below its size {layer.size}, so it has"
      " outputs that read padding only"
    )
  if len(x) < 3:
    return "a convolution cannot follow a fully connected layer"
  if layer.local and layer.groups > 1:
    return f"a local layer cannot have groups (got groups={layer.groups})"
  if x[-1] % layer.groups or layer.features % layer.groups:
    return (
      f"groups={layer.groups} must divide both its {x[-1]} input maps and its"
      f" {layer.features} features"
    )
  return ""


def _check_exchanges(network: Network, present: list[str]) -> None:
  if network.towers == 1 and network.exchanges:
    raise UserError(
      "a single tower cannot exchange activations; set network.exchanges=()"
      f" (got {network.exchanges})."
    )
  possible = [name for name in networks.EXCHANGES if name in present]
  for name in network.exchanges:
    if name not in possible:
      raise UserError(
        f"network.exchanges contains {name!r}; the towers of this network can"
        f" exchange before {', '.join(possible)}."
      )
  if network.towers > 1 and "fc8" not in network.exchanges:
    raise UserError(
      f"network.exchanges must contain 'fc8' (got {network.exchanges}): the"
      f" class scores are the sum over all {network.towers} towers."
    )
