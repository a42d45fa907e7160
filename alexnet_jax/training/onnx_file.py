"""ONNX files: a trained network as a graph, from pixels to probabilities.

The graph reads images as they are stored. The centre crop, the subtraction of
the mean image and the scale are nodes of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_jax.data.augment import GREY
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.grouped import Arrays
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import Shape, count_windows, shapes
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import weights_file
from alexnet_jax.training.run_data import RunData

# An old set with every operator used here, so that old runtimes read the file
# too, and the version of the format that came with it.
OPSET, IR_VERSION = 17, 8
MAX_BYTES = 2**31 - 1  # of a file, because it is one Protocol Buffers message
WEIGHTS = ("weight", "bias")  # of a layer, as `grouped` calls them


def to_bytes(
  net: AlexNet,
  *,
  config: Mapping[str, Any],
  order: str,
  data: RunData,
  step: int,
) -> bytes:
  """The network in evaluation as an ONNX file, from pixels to probabilities.

  The input is `images`, uint8[batch,S,S,3], of which the graph reads the centre
  crop. The outputs are `scores`, f32[batch,num_classes], and `probabilities`,
  their softmax. All is computed in float32, whatever `compute_dtype`,
  `exchange_dtype` and `precision` are. The parameters have the names and shapes
  of `grouped`; the metadata are those of `weights_file.make_metadata`.

  Args:
    net: all towers.
    config: of the run, as in config.json.
    order: of the input's colours, "rgb" or "bgr".
    data: the classes, and the mean image if `config` subtracts one.
    step: the number of steps of training.

  Raises:
    UserError: the network has a layer or step that cannot be exported, or more
      than 2 GiB of parameters.
  """
  arrays, mean_image, scale = weights_file.arrays_in_order(
    net, config, order, data
  )
  size = sum(array.nbytes for array in (*arrays.values(), mean_image))
  if size > MAX_BYTES:
    raise UserError(
      f"these weights have {size / 2**30:.1f} GiB, and an ONNX file holds at"
      " most 2 GiB. Export them with --format=safetensors."
    )
  network, side = net.towers.network, config["image_size"]
  graph = _Graph(network, arrays)
  x = graph.centre("images", mean_image, scale, order)
  graph.add("Identity", graph.scores(x), output="scores")
  graph.add("Softmax", "scores", output="probabilities", axis=-1)
  images = helper.make_tensor_value_info(
    "images",
    TensorProto.UINT8,
    ["batch", side, side, 3],
    f"Pictures rescaled to {side} x {side} pixels: rows, columns,"
    f" {order.upper()} from 0 to 255.",
  )
  outputs = [
    helper.make_tensor_value_info(
      name, TensorProto.FLOAT, ["batch", network.num_classes], meaning
    )
    for name, meaning in (
      ("scores", "One for each of the metadata's classes, before softmax."),
      ("probabilities", "The softmax of the scores."),
    )
  ]
  model = helper.make_model(
    helper.make_graph(
      graph.nodes, "alexnet", [images], outputs, graph.constants
    ),
    opset_imports=[helper.make_opsetid("", OPSET)],
    ir_version=IR_VERSION,
    producer_name="alexnet_jax",
  )
  metadata = weights_file.make_metadata(config, order, data, step)
  helper.set_model_props(model, metadata)
  return model.SerializeToString()


class _Graph:
  """The nodes of a graph in their order, and its constants.

  A value has the name of its node, such as "conv1/relu". Activations are
  f32[batch,maps,rows,columns] or f32[batch,units], those of all towers
  together, tower 0's first.
  """

  def __init__(self, network: Network, arrays: Arrays):
    self.nodes: list[onnx.NodeProto] = []
    self.constants: list[TensorProto] = []
    self._network, self._towers = network, network.towers
    self._arrays = arrays

  def add(self, kind: str, *inputs: str, output: str, **attributes: Any) -> str:
    """Adds a node with one output; returns the name of both."""
    node = helper.make_node(kind, inputs, [output], output, **attributes)
    self.nodes.append(node)
    return output

  def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
    array = np.asarray(value, dtype)
    self.constants.append(numpy_helper.from_array(array, name))
    return name

  def centre(
    self, x: str, mean_image: np.ndarray, scale: np.ndarray, order: str
  ) -> str:
    """uint8[batch,S,S,3] -> the first layer's f32[batch,channels,c,c]."""
    crop = self._network.crop_size
    start = (mean_image.shape[-1] - crop) // 2
    bounds = ([start] * 2, [start + crop] * 2, [1, 2])
    names = ("crop.starts", "crop.ends", "crop.axes")
    bounds = (
      self.constant(*pair, np.int64) for pair in zip(names, bounds, strict=True)
    )
    x = self.add("Slice", x, *bounds, output="crop")
    x = self.add("Cast", x, output="crop/float", to=TensorProto.FLOAT)
    x = self.add("Transpose", x, output="crop/maps", perm=[0, 3, 1, 2])
    mean = mean_image[:, start : start + crop, start : start + crop]
    x = self.add("Sub", x, self.constant("mean_image", mean), output="centred")
    if np.any(scale != 1):
      scale = self.constant("scale", np.reshape(scale, (3, 1, 1)))
      x = self.add("Div", x, scale, output="scaled")
    if self._network.channels == 1:
      weights = np.reshape(GREY, (1, 3, 1, 1))
      weights = weights[:, ::-1] if order == "bgr" else weights
      weights = self.constant("grey.weight", weights)
      x = self.add("Conv", x, weights, output="grey")
    return x

  def scores(self, x: str) -> str:
    """The class scores, from the input of the first layer."""
    is_shared = True  # whether all towers read all of x, as they do the image
    for shape in shapes(self._network):
      if shape.name in self._network.exchanges and shape.name != "fc8":
        if is_shared:  # the first layer
          x = self._copies(x, f"{shape.name}/exchange")
        is_shared = True
      x = self._layer(x, shape, is_shared or shape.name == "fc8")
      x = self._steps(x, shape)
      is_shared = self._towers == 1
    return x

  def _layer(self, x: str, shape: Shape, is_shared: bool) -> str:
    name, layer = shape.name, shape.layer
    weight, bias = (self._arrays[f"{name}.{kind}"] for kind in WEIGHTS)
    if layer.size:
      groups = layer.groups
      if is_shared and groups > 1 and self._towers > 1:
        x, is_shared = self._copies(x, f"{name}/copies"), False
      before, after = layer.padding
      return self.add(
        "Conv",
        x,
        self.constant(f"{name}.weight", weight),
        self.constant(f"{name}.bias", bias),
        output=name,
        group=groups if is_shared else groups * self._towers,
        strides=[layer.stride] * 2,
        pads=[before, before, after, after],
      )
    x = self.add("Flatten", x, output=f"{name}/inputs")
    towers = 1 if is_shared else self._towers
    parts = zip(np.split(weight, towers), np.split(bias, towers), strict=True)

    def product(x: str, output: str) -> str:
      weights = (
        self.constant(f"{output}.{kind}", array)
        for kind, array in zip(WEIGHTS, next(parts), strict=True)
      )
      return self.add("Gemm", x, *weights, output=output, transB=1)

    return self._each_part(x, name, towers, product)

  def _steps(self, x: str, shape: Shape) -> str:
    """The steps that follow a layer."""
    side = shape.convolved[0]  # of the maps
    for number, step in enumerate(shape.layer.then):
      earlier = shape.layer.then[:number].count(step)
      name = f"{shape.name}/{step}{earlier + 1 if earlier else ''}"
      x = self._step(x, step, name, shape, side)
      if step in ("pool", "avg_pool"):
        side = self._count_windows(side)
    return x

  def _step(self, x: str, step: str, name: str, shape: Shape, side: int) -> str:
    """As `layers.apply_step` in evaluation, on maps of `side` x `side`."""
    network = self._network
    match step:
      case "relu" | "tanh" | "sigmoid":
        return self.add(step.capitalize(), x, output=name)
      case "lrn":
        return self._local_response_norm(x, name, shape.layer.features)
      case "within_map_norm":
        return self._within_map_norm(x, name)
      case "pool":
        return self.add("MaxPool", x, output=name, **self._windows(side))
      case "avg_pool":  # of the positions inside the map
        return self.add("AveragePool", x, output=name, **self._windows(side))
      case "global_avg_pool":
        return self.add("GlobalAveragePool", x, output=name)
      case "dropout" | "dropout_mean":
        if network.dropout_inverted:
          return x
        kept = self.constant(f"{name}.kept", 1 - network.dropout_rate)
        return self.add("Mul", x, kept, output=name)
      case "batch_norm":
        parameters = (
          self.constant(key, self._arrays[key])
          for kind in ("scale", "offset", "mean", "variance")
          for key in [f"{shape.name}.batch_norm.{kind}"]
        )
        epsilon = network.batch_norm_epsilon
        return self.add(
          "BatchNormalization", x, *parameters, output=name, epsilon=epsilon
        )
    raise UserError(
      f"the step {step!r} of {shape.name} cannot be exported to ONNX; add its"
      " nodes to alexnet_jax/training/onnx_file.py."
    )

  def _local_response_norm(self, x: str, name: str, maps: int) -> str:
    """Section 3.3, inside each tower of `maps` maps."""
    network, n = self._network, self._network.lrn_n
    k, alpha, beta = network.lrn_k, network.lrn_alpha, network.lrn_beta
    if n % 2:

      def norm(x: str, output: str) -> str:
        # ONNX divides alpha by n, the paper does not.
        return self.add(
          "LRN", x, output=output, size=n, alpha=alpha * n, beta=beta, bias=k
        )

      return self._each_part(x, name, self._towers, norm)
    # onnxruntime refuses an even number of neighbours. Their sum is a
    # convolution of 1 x 1 whose kernels are 1 at the maps from -n/2 to n/2 - 1.
    offsets = np.arange(maps)[np.newaxis] - np.arange(maps)[:, np.newaxis]
    window = (-(n // 2) <= offsets) & (offsets < n - n // 2)
    kernel = np.tile(window, (self._towers, 1))[..., np.newaxis, np.newaxis]
    squares = self.add("Mul", x, x, output=f"{name}/squares")
    kernel = self.constant(f"{name}.neighbours", kernel)
    sums = self.add(
      "Conv", squares, kernel, output=f"{name}/sums", group=self._towers
    )
    return self._divide_by_power(x, sums, name, k, alpha, beta)

  def _within_map_norm(self, x: str, name: str) -> str:
    """As `layers.within_map_norm`: over n x n positions of the same map."""
    network, n = self._network, self._network.within_map_n
    squares = self.add("Mul", x, x, output=f"{name}/squares")
    means = self.add(
      "AveragePool",
      squares,
      output=f"{name}/means",
      kernel_shape=[n, n],
      pads=[n // 2] * 2 + [n - 1 - n // 2] * 2,
      count_include_pad=1,  # so they are the sums divided by n * n
    )
    alpha, beta = network.within_map_alpha * n * n, network.within_map_beta
    k = network.within_map_k
    return self._divide_by_power(x, means, name, k, alpha, beta)

  def _divide_by_power(self, x, sums, name, k, alpha, beta) -> str:
    """x * (k + alpha * sums)^-beta."""
    constants = {"alpha": alpha, "k": k, "power": -beta}
    a, b, c = (self.constant(f"{name}.{n}", v) for n, v in constants.items())
    y = self.add("Mul", sums, a, output=f"{name}/scaled")
    y = self.add("Add", y, b, output=f"{name}/shifted")
    y = self.add("Pow", y, c, output=f"{name}/factor")
    return self.add("Mul", x, y, output=name)

  def _count_windows(self, side: int) -> int:
    network = self._network
    return count_windows(
      side, network.pool_size, network.pool_stride, network.pool_overhang
    )

  def _windows(self, side: int) -> dict[str, Any]:
    """The attributes of pooling windows, of which the last may overhang."""
    size, stride = self._network.pool_size, self._network.pool_stride
    end = stride * (self._count_windows(side) - 1) + size
    beyond = max(0, end - side)
    return {
      "kernel_shape": [size] * 2,
      "strides": [stride] * 2,
      "pads": [0, 0, beyond, beyond],
    }

  def _copies(self, x: str, name: str) -> str:
    """`x` once for each tower, one after the other."""
    return self.add("Concat", *[x] * self._towers, output=name, axis=1)

  def _each_part(
    self, x: str, name: str, parts: int, node: Callable[[str, str], str]
  ) -> str:
    """Splits x into equal parts, adds a node for each, and joins them.

    `node` adds one to an input, under a name, and returns that name.
    """
    if parts == 1:
      return node(x, name)
    inputs = [f"{name}/tower{i}/input" for i in range(parts)]
    self.nodes.append(
      helper.make_node("Split", [x], inputs, f"{name}/split", axis=1)
    )
    outputs = [node(y, f"{name}/tower{i}") for i, y in enumerate(inputs)]
    return self.add("Concat", *outputs, output=name, axis=1)
