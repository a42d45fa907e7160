"""A network as data: one line a layer. The defaults are Figure 2.

Sizes are one tower's. `exchanges` names the layers that read all towers; all
others read their own tower alone.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from alexnet_jax.runtime.command import UserError


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer of a tower: a convolution, or fully connected if `size` is 0.

  Attributes:
    features: kernels or units of one tower.
    size, stride, padding, groups: of the convolution; padding is (before,
      after), the same in both directions.
    local: each place has kernels of its own (the CIFAR nets of cuda-convnet).
    std: standard deviation of the initial weights (section 5).
    bias: initial bias (section 5); None: the layer has none.
    then: what follows, in this order: words of STEPS.
  """

  features: int
  size: int = 0
  stride: int = 1
  padding: tuple[int, int] = (0, 0)
  groups: int = 1
  local: bool = False
  std: float = 0.01
  bias: float | None = 0.0
  then: tuple[str, ...] = ("relu",)


@dataclasses.dataclass(frozen=True)
class Network:
  """Two towers of eight layers (section 3.5); every default is the paper's.

  Attributes:
    towers: how many towers there are.
    width: multiplies the features of each layer but the last.
    crop_size, channels: the input is f32[B,crop_size,crop_size,channels].
    exchanges: the layers before which the towers exchange what they have (for
      fc8: after which their class scores are summed).
    exchange_dtype: in which what they exchange travels, one of
      EXCHANGE_DTYPES; the authors tried half precision on their network #170.
    compute_dtype: of maps, units and products, one of COMPUTE_DTYPES. The
      parameters, their update, normalisation sums and softmax are float32
      whatever it says.
    conv6: only in the network pre-trained on all of ImageNet (section 6).
    lrn_k, lrn_n, lrn_alpha, lrn_beta: section 3.3; alpha multiplies the sum of
      squares as printed (the 2012 source, Caffe and PyTorch divide it by n).
    within_map_k, ...: the same over n x n places of one map; alpha multiplies
      the sum. Not in the paper; the 2012 source has it after conv2.
    pool_size, pool_stride: of max-pooling (section 3.4) and average pooling.
    pool_overhang: whether the last window may hang over the edge (2012 source,
      Caffe) or only whole windows count (PyTorch).
    dropout_inverted: scale up in training instead of down in evaluation (Caffe,
      PyTorch); another network unless fc7 and fc8 are rescaled.
    fc8_std: standard deviation of fc8's initial weights.
  """

  num_classes: int = 1000
  towers: int = 2
  width: float = 1.0
  crop_size: int = 224
  channels: int = 3
  exchanges: tuple[str, ...] = ("conv3", "fc6", "fc7", "fc8")
  exchange_dtype: str = "float32"
  compute_dtype: str = "float32"

  # 224 x 224 x 3; the 55th kernel position hangs over the edge by 3 pixels.
  conv1: Layer | None = Layer(
    48, size=11, stride=4, padding=(0, 3), then=("relu", "lrn", "pool")
  )
  # 27 x 27 x 48, its own tower's
  conv2: Layer | None = Layer(
    128, size=5, padding=(2, 2), bias=1.0, then=("relu", "lrn", "pool")
  )
  # 13 x 13 x 256, both towers'
  conv3: Layer | None = Layer(192, size=3, padding=(1, 1))
  # 13 x 13 x 192, its own
  conv4: Layer | None = Layer(192, size=3, padding=(1, 1), bias=1.0)
  # 13 x 13 x 192, its own
  conv5: Layer | None = Layer(
    128, size=3, padding=(1, 1), bias=1.0, then=("relu", "pool")
  )
  conv6: Layer | None = None
  # 6 x 6 x 256, both
  fc6: Layer | None = Layer(2048, bias=1.0, then=("relu", "dropout"))
  # 4096, both
  fc7: Layer | None = Layer(2048, bias=1.0, then=("relu", "dropout"))

  lrn_k: float = 2.0
  lrn_n: int = 5
  lrn_alpha: float = 1e-4
  lrn_beta: float = 0.75
  within_map_k: float = 1.0
  within_map_n: int = 5
  within_map_alpha: float = 1e-3 / 25
  within_map_beta: float = 0.75
  pool_size: int = 3
  pool_stride: int = 2
  pool_overhang: bool = True
  dropout_rate: float = 0.5
  dropout_inverted: bool = False

  @property
  def fc8(self) -> Layer:
    """The class scores, from a tower's own units (section 3.5).

    Row-parallel: each tower scores every class from its half of the units, and
    the towers' scores are summed. The bias, added once, belongs to no tower.
    """
    return Layer(self.num_classes, std=self.fc8_std, bias=None, then=())

  fc8_std: float = 0.01

  # The constants above as the functions of `layers` name them.
  @property
  def lrn(self) -> dict[str, Any]:
    return self._constants("lrn", "k", "n", "alpha", "beta")

  @property
  def within_map(self) -> dict[str, Any]:
    return self._constants("within_map", "k", "n", "alpha", "beta")

  @property
  def pooling(self) -> dict[str, Any]:
    return self._constants("pool", "size", "stride", "overhang")

  @property
  def dropout(self) -> dict[str, Any]:
    return self._constants("dropout", "rate", "inverted")

  def _constants(self, group: str, *names: str) -> dict[str, Any]:
    return {name: getattr(self, f"{group}_{name}") for name in names}


def from_dict(values: Mapping[str, Any], num_classes: int) -> Network:
  """The network of a configuration's `network` group (or its JSON).

  A layer with no features is no layer.

  Raises:
    UserError: a layer names a step that does not exist, or there is a key
      that means nothing.
  """
  _check_keys("network", values, Network)
  fields: dict[str, Any] = {"num_classes": num_classes}
  for name, value in values.items():
    if isinstance(value, Mapping):
      _check_keys(f"network.{name}", value, Layer)
      value = {key: _tuple(item) for key, item in value.items()}
      value = Layer(**value) if value["features"] else None
      for step in value.then if value else ():
        if step not in STEPS + MAP_STEPS:
          raise UserError(
            f"network.{name}.then names {step!r}; the steps that can follow a"
            f" layer are {', '.join(STEPS + MAP_STEPS)}."
          )
    fields[name] = _tuple(value)
  return Network(**fields)


def _check_keys(group: str, values: Mapping[str, Any], kind: type) -> None:
  known = {field.name for field in dataclasses.fields(kind)}
  if unknown := sorted(values.keys() - known):
    raise UserError(
      f"{group}.{unknown[0]} means nothing; the keys of {group} are those of"
      " configs/paper.py."
    )


def _tuple(value: Any) -> Any:
  return tuple(value) if isinstance(value, list | tuple) else value


class Shape(NamedTuple):
  """A layer of one tower with what goes in and what comes out of it.

  `inputs` is (height, width, maps) before a convolution, (units,) else;
  `convolved` is the output before pooling; `outputs` the output after it.
  """

  name: str
  layer: Layer
  inputs: tuple[int, ...]
  convolved: tuple[int, ...]
  outputs: tuple[int, ...]


# What can follow a layer; the second line only where there are maps.
STEPS = ("relu", "tanh", "sigmoid", "dropout")
MAP_STEPS = ("lrn", "within_map_norm", "pool", "avg_pool")
# Where towers can exchange: the lines of `model.activations`.
EXCHANGES = ("conv3", "conv4", "conv6", "fc6", "fc7", "fc8")
EXCHANGE_DTYPES = ("float32", "bfloat16", "float16")
COMPUTE_DTYPES = ("float32", "bfloat16")
LAYERS = (
  "conv1",
  "conv2",
  "conv3",
  "conv4",
  "conv5",
  "conv6",
  "fc6",
  "fc7",
  "fc8",
)


def shapes(network: Network) -> list[Shape]:
  """The layers that `network` has, first to last, with one tower's shapes.

  Raises:
    UserError: the network cannot be laid out; the message says where and why.
  """
  present = [name for name in LAYERS if getattr(network, name) is not None]
  _check_sizes(network)
  _check_exchanges(network, present)
  if network.channels not in (1, 3):
    raise UserError(
      f"network.channels={network.channels}: images have 3 (RGB) or 1 (grey)."
    )
  x = (network.crop_size, network.crop_size, network.channels)
  result = []
  for name in present:
    layer = getattr(network, name)
    if name != "fc8":
      features = max(1, round(layer.features * network.width))
      layer = dataclasses.replace(layer, features=features)
      if name in network.exchanges:
        x = (*x[:-1], x[-1] * network.towers)
    _check_layer(name, layer, x)
    if layer.size:
      inputs = x
      side = (x[0] + sum(layer.padding) - layer.size) // layer.stride + 1
      convolved = outputs = (side, side, layer.features)
      for step in layer.then:
        if step in ("pool", "avg_pool"):
          side = _pooled(side, network)
          outputs = (side, side, layer.features)
    else:
      inputs = (math.prod(x),)
      convolved = outputs = (layer.features,)
    if min(*convolved, *outputs) < 1:
      raise UserError(
        f"{name} gets maps of {x[0]} x {x[1]}, too small for its kernel of"
        f" {layer.size} and its pooling: the input crop_size="
        f"{network.crop_size} is too small for this network."
      )
    result.append(Shape(name, layer, inputs, convolved, outputs))
    x = outputs
  return result


def _pooled(side: int, network: Network) -> int:
  """Pooling windows along a side; below 1 if not even one fits."""
  windows = (side - network.pool_size) / network.pool_stride + 1
  return math.ceil(windows) if network.pool_overhang else math.floor(windows)


def _check_sizes(network: Network) -> None:
  for key in ("towers", "lrn_n", "within_map_n", "pool_size", "pool_stride"):
    value = getattr(network, key)
    if value < 1:
      raise UserError(f"network.{key}={value}: it is at least 1.")
  if not network.width > 0:
    raise UserError(f"network.width={network.width}: it is more than 0.")
  if not 0 <= network.dropout_rate < 1:
    raise UserError(
      f"network.dropout_rate={network.dropout_rate}: it is at least 0 and less"
      " than 1."
    )


def _check_layer(name: str, layer: Layer, x: tuple[int, ...]) -> None:
  """Raises UserError unless `layer` can read `x`, maps or units."""
  problem = ""
  least = {"size": 0, "stride": 1, "groups": 1}
  small = [key for key in least if getattr(layer, key) < least[key]]
  if small:
    problem = f"{small[0]} is less than {least[small[0]]}"
  elif len(layer.padding) != 2 or not all(
    isinstance(p, int) and p >= 0 for p in layer.padding
  ):
    problem = f"padding={layer.padding} is not two whole numbers from 0 up"
  elif not layer.size:
    unused = [step for step in layer.then if step in MAP_STEPS]
    if unused:
      problem = f"{unused[0]!r} follows it, but it has no maps (size=0)"
    elif (layer.stride, layer.padding, layer.groups) != (1, (0, 0), 1):
      problem = "stride, padding and groups belong to a convolution (size=0)"
    elif layer.local:
      problem = "a local layer needs a kernel (size=0)"
  elif len(x) < 3:
    problem = "a convolution needs maps, and the layer before it has units"
  elif layer.local and layer.groups > 1:
    problem = f"a local layer has one group, not groups={layer.groups}"
  elif x[-1] % layer.groups or layer.features % layer.groups:
    problem = (
      f"groups={layer.groups} divides not both its {x[-1]} input maps and its"
      f" {layer.features} features"
    )
  if problem:
    raise UserError(f"network.{name} cannot be laid out: {problem}.")


def _check_exchanges(network: Network, present: list[str]) -> None:
  if network.towers == 1 and network.exchanges:
    raise UserError(
      f"network.exchanges={network.exchanges}, but one tower has nobody to"
      " exchange with: say network.exchanges=()."
    )
  possible = [name for name in EXCHANGES if name in present]
  for name in network.exchanges:
    if name not in possible:
      raise UserError(
        f"network.exchanges names {name!r}; this network can exchange before"
        f" {', '.join(possible)}."
      )
  for key, known in (
    ("exchange_dtype", EXCHANGE_DTYPES),
    ("compute_dtype", COMPUTE_DTYPES),
  ):
    if getattr(network, key) not in known:
      raise UserError(
        f"network.{key}={getattr(network, key)!r}: say one of"
        f" {', '.join(known)}."
      )
  if network.towers > 1 and "fc8" not in network.exchanges:
    raise UserError(
      "network.exchanges lacks 'fc8': the class scores are the sum of what all"
      f" {network.towers} towers say, so fc8 always reads all of them."
    )
