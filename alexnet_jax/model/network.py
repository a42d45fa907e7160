"""A network as data: one line per layer. The defaults are Figure 2.

All sizes are those of one tower. `exchanges` names the layers that read the
activations of all towers; every other layer reads its own tower only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alexnet_jax.runtime.command import UserError

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
LAYERS = (*CONVOLUTIONS, "fc6", "fc7", "fc8")
# The layers before which towers can exchange activations (fc8: after which
# their class scores are summed).
EXCHANGES = ("conv3", "conv4", "conv6", "fc6", "fc7", "fc8")
EXCHANGE_DTYPES = ("float32", "bfloat16", "float16")
COMPUTE_DTYPES = ("float32", "bfloat16")
PRECISIONS = ("float32", "tf32", "default")

# The steps that can follow a layer (`Layer.then`).
STEPS = (
  "relu",
  "tanh",
  "sigmoid",
  "dropout",
  "dropout_mean",
  "batch_norm",
)
# Steps that need maps, so they can follow convolutions only.
MAP_STEPS = ("lrn", "within_map_norm", "pool", "avg_pool", "global_avg_pool")
# The steps that use the constants of a network whose names begin so.
STEPS_OF_CONSTANTS = {
  "lrn_": ("lrn",),
  "within_map_": ("within_map_norm",),
  "pool_": ("pool", "avg_pool"),
  "dropout_": ("dropout", "dropout_mean"),
  "batch_norm_": ("batch_norm",),
}
# Steps with parameters of their own (`layers.STEP_MODULES`), and how many of
# them each map or unit has.
STEP_PARAMETERS = {"batch_norm": 2}


@dataclasses.dataclass(frozen=True)
class Layer:
  """One layer of a tower: a convolution, or fully connected if `size` is 0.

  Attributes:
    features: kernels or units of one tower.
    size, stride, padding, groups: of the convolution; padding is (before,
      after), the same for rows and columns.
    local: whether every position has kernels of its own (cuda-convnet).
    std: standard deviation of the initial weights (section 5).
    bias: initial bias (section 5); None: the layer has no bias.
    then: the steps that follow the layer, in order, of STEPS and MAP_STEPS.
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

  These values stand nowhere else: the `network` group of configs/paper.py is
  made from them, and the functions of `layers` and `kernels` have no defaults.
  """

  num_classes: int = 1000
  towers: int = 2  # section 3.2
  width: float = 1.0  # multiplies the features of every layer except fc8
  crop_size: int = 224  # section 4.1; the input is crop_size x crop_size pixels
  channels: int = 3  # RGB; 1: grey
  exchanges: tuple[str, ...] = ("conv3", "fc6", "fc7", "fc8")  # section 3.2
  # What towers send each other, one of EXCHANGE_DTYPES. (The authors tried half
  # precision in their network #170.)
  exchange_dtype: str = "float32"
  # Activations and matrix products, one of COMPUTE_DTYPES. Parameters, their
  # update, normalisation sums and softmax are float32 in any case.
  compute_dtype: str = "float32"
  # How convolutions and matrix products multiply float32 numbers, one of
  # PRECISIONS. A CPU computes all three alike; bfloat16 has one precision.
  # - "float32": with all 24 bits of the significand. An H100 has a seventh of
  #   its TF32 rate then (67 of 495 TFLOP/s), a TPU a sixth of its bfloat16 rate
  #   (six passes).
  # - "tf32": with 11 bits on NVIDIA GPUs from Ampere on; three passes on a TPU.
  # - "default": the compiler's choice, TF32 on those GPUs and one pass with the
  #   8 bits of bfloat16 on a TPU.
  precision: str = "float32"

  # Section 3.5: the layers and their sizes. Section 5: the initial weights are
  # normal with a standard deviation of 0.01; the biases are 1 in conv2, conv4,
  # conv5, fc6 and fc7, and 0 elsewhere. The comments say what a tower reads.
  #
  # 224 x 224 x 3, the image. The last of 55 kernel positions extends beyond the
  # edge by 3 pixels (2012 source).
  conv1: Layer | None = Layer(
    48, size=11, stride=4, padding=(0, 3), then=("relu", "lrn", "pool")
  )
  # 27 x 27 x 48, its own maps
  conv2: Layer | None = Layer(
    128, size=5, padding=(2, 2), bias=1.0, then=("relu", "lrn", "pool")
  )
  # 13 x 13 x 256, the maps of both towers
  conv3: Layer | None = Layer(192, size=3, padding=(1, 1))
  # 13 x 13 x 192, its own
  conv4: Layer | None = Layer(192, size=3, padding=(1, 1), bias=1.0)
  # 13 x 13 x 192, its own
  conv5: Layer | None = Layer(
    128, size=3, padding=(1, 1), bias=1.0, then=("relu", "pool")
  )
  # Section 6: only in the networks pre-trained on ImageNet Fall 2011.
  conv6: Layer | None = None
  # 6 x 6 x 256, of both towers
  fc6: Layer | None = Layer(2048, bias=1.0, then=("relu", "dropout"))
  # 4096, of both towers
  fc7: Layer | None = Layer(2048, bias=1.0, then=("relu", "dropout"))
  # Standard deviation of fc8's initial weights; see the property fc8.
  fc8_std: float = 0.01

  # "lrn", section 3.3. alpha multiplies the sum of squares, as printed; the
  # 2012 source, Caffe and PyTorch divide it by n.
  lrn_k: float = 2.0
  lrn_n: int = 5
  lrn_alpha: float = 1e-4
  lrn_beta: float = 0.75
  # "within_map_norm": the same over n x n positions of one map. Not in the
  # paper; the 2012 source has it after conv2.
  within_map_k: float = 1.0
  within_map_n: int = 5
  within_map_alpha: float = 1e-3 / 25
  within_map_beta: float = 0.75
  # "pool" (max-pooling, section 3.4) and "avg_pool".
  pool_size: int = 3
  pool_stride: int = 2
  # Whether the last window may extend beyond the edge (2012 source, Caffe), or
  # only whole windows count (PyTorch). No difference for the paper's sizes.
  pool_overhang: bool = True
  # "dropout", section 4.2; "dropout_mean": its mean, in training too, so that
  # the layers above read units of the same size without any noise.
  dropout_rate: float = 0.5
  # True: scale up in training instead of down in evaluation (Caffe, PyTorch).
  # With the other constants as they are, this is another network.
  dropout_inverted: bool = False
  # "batch_norm", not in the paper. The momentum is the share of the old value
  # that a running average keeps at each step.
  batch_norm_momentum: float = 0.9
  batch_norm_epsilon: float = 1e-5

  @property
  def fc8(self) -> Layer:
    """The class scores (section 3.5).

    Each tower scores every class from its own units, and the scores of the
    towers are summed. The bias is added once and belongs to no tower.
    """
    return Layer(self.num_classes, std=self.fc8_std, bias=None, then=())


def to_dict(network: Network) -> dict[str, Any]:
  """The `network` group of a configuration; the inverse of `from_dict`.

  `num_classes` is left out: it is a key of the configuration itself. A layer
  that the network does not have becomes one without features.
  """
  values = dataclasses.asdict(network)
  del values["num_classes"]
  no_layer = dataclasses.asdict(Layer(features=0))
  return {k: no_layer if v is None else v for k, v in values.items()}


def from_dict(values: Mapping[str, Any], num_classes: int) -> Network:
  """The network of a configuration's `network` group, also of config.json's.

  A layer with features=0 is left out of the network.

  Raises:
    UserError: an unknown key.
  """
  _check_keys("network", values, Network)
  fields: dict[str, Any] = {"num_classes": num_classes}
  for name, value in values.items():
    if isinstance(value, Mapping):
      _check_keys(f"network.{name}", value, Layer)
      value = {key: _tuple(item) for key, item in value.items()}
      value = Layer(**value) if value["features"] else None
    fields[name] = _tuple(value)
  return Network(**fields)


def unused_keys(network: Network) -> dict[str, str]:
  """Keys of the `network` group that do not affect this network.

  Returns:
    Dotted keys, such as "network.lrn_n", each with the reason.
  """
  reasons = {}
  layers = {name: getattr(network, name) for name in LAYERS}
  steps = {step for layer in layers.values() if layer for step in layer.then}
  for prefix, users in STEPS_OF_CONSTANTS.items():
    if not steps & set(users):
      reason = f"no layer is followed by {' or '.join(map(repr, users))}"
      reasons |= {k: reason for k in vars(network) if k.startswith(prefix)}
  if not network.exchanges:
    reasons["exchange_dtype"] = "network.exchanges is empty"
  for name in (name for name, layer in layers.items() if layer is None):
    for key in vars(Layer(features=0)).keys() - {"features"}:
      reasons[f"{name}.{key}"] = f"network.{name}.features is 0"
  return {f"network.{key}": reason for key, reason in reasons.items()}


def _tuple(value: Any) -> Any:
  return tuple(value) if isinstance(value, list | tuple) else value


def _check_keys(group: str, values: Mapping[str, Any], kind: type) -> None:
  known = {field.name for field in dataclasses.fields(kind)}
  if unknown := sorted(values.keys() - known):
    raise UserError(
      f"unknown key {group}.{unknown[0]}; the class {kind.__name__} in"
      " alexnet_jax/model/network.py lists the valid keys."
    )
