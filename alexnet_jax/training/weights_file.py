"""A file of weights: its arrays, and what it says about their network.

Files that `weights export` wrote carry the configuration, the mean image and
the class names. Those of other programs carry arrays alone.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from alexnet_jax.data import class_words
from alexnet_jax.data.pixel_statistics import Statistics
from alexnet_jax.data.pixels import ORDERS
from alexnet_jax.model import network as networks
from alexnet_jax.model import published
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.grouped import Arrays, from_grouped, to_grouped
from alexnet_jax.model.published import Layout
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.training import framework_files
from alexnet_jax.training.job import Recipe, make_pixels
from alexnet_jax.training.run_data import RunData

# Of files that carry their network: the name of the tensor beside the weights.
MEAN_IMAGE = "mean_image"
PYTORCH, CAFFE = (".pth", ".pt", ".bin"), (".caffemodel",)
FORMATS = ("safetensors", "onnx")  # that are written; their names end so

# The configurations of published weights, by program.
_USUAL = {
  "alexnet_jax": "configs/NAME.py, the configuration of their training",
  "torchvision": "configs/torchvision.py",
  "caffe": "configs/caffe_alexnet.py or configs/caffenet.py",
}


class Weights(NamedTuple):
  """The content of a file."""

  path: str
  layout: Layout  # whose names and order of colours the file has
  arrays: dict[str, np.ndarray]  # under the names of `grouped`
  # The rest is empty in the files of other programs.
  order: str = ""  # in which the first layer reads the colours
  config: dict[str, Any] | None = None  # as in config.json
  mean_image: np.ndarray | None = None  # f32[S,S,3] RGB
  dataset: str = ""  # of the training, and the fingerprint of its images
  fingerprint: str = ""
  classes: tuple[str, ...] = ()
  step: int = 0  # the number of steps of training

  def configuration(
    self, config: Mapping[str, Any] | str | None
  ) -> dict[str, Any]:
    """The configuration of the network, as in config.json.

    Args:
      config: the one to use, or the name of its file; None: that in the file.

    Raises:
      UserError: there is none, or the configuration file is wrong.
    """
    if isinstance(config, str):
      config = configs.load(config)
    if isinstance(config, ConfigDict):
      return configs.to_json(config)
    if config or self.config:
      return dict(config or self.config)
    raise UserError(
      f"{self.path} does not tell of which network its weights are: pass"
      f" --config={_USUAL[self.layout.program]}."
    )

  def class_names(self, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in the order of the scores, or their numbers.

    A thousand classes of another program are those of ILSVRC-2012: torchvision
    and Caffe number them in the order of their WordNet ids, as tfds does.
    """
    if self.classes:
      return self.classes
    if self.has_class_names(config):
      return tuple(class_words.imagenet_words())
    return tuple(map(str, range(config["num_classes"])))

  def has_class_names(self, config: Mapping[str, Any]) -> bool:
    """Whether the names of the classes are known."""
    published_thousand = (
      self.layout is not published.OURS and config["num_classes"] == 1000
    )
    return bool(self.classes) or published_thousand

  def net(self, config: Mapping[str, Any]) -> AlexNet:
    """The parameters, for the network of a configuration.

    The first layer's colours are put in the configuration's order. A file that
    does not tell its order is taken to have that of the configuration.

    Raises:
      UserError: the arrays do not fit the network.
    """
    network = networks.from_dict(config["network"], config["num_classes"])
    wanted = config["pixels"]["order"]
    order = self.order or self.layout.order or wanted
    reverse = order != wanted
    try:
      return from_grouped(self.arrays, network, reverse, self.layout.theirs)
    except UserError as error:
      program, hint = self.layout.program, ""
      if self.layout is not published.OURS:
        hint = f" The names are those of {program}: see {_USUAL[program]}."
      raise UserError(f"{self.path}: {error}{hint}") from None

  def run_data(self, config: Mapping[str, Any]) -> RunData:
    """The classes, and the mean image if the configuration subtracts one.

    Raises:
      UserError: the file has no mean image of this size.
    """
    mean, size = self.mean_image, config["image_size"]
    statistics = None
    if not config["pixels"]["mean"]:
      if mean is None:
        raise UserError(
          f"{self.path} has no mean image, which this configuration subtracts."
          " Add it: python -m alexnet_jax.weights import --input=FILE"
          " --config=FILE --mean_image=FILE --output=NEW (Caffe's"
          " imagenet_mean.binaryproto). Or subtract a value for each channel:"
          " --config.pixels.mean='(123.0, 117.0, 104.0)'."
        )
      if mean.shape != (size, size, 3):
        raise UserError(
          f"the mean image of {self.path} has {len(mean)} pixels a side, but"
          f" image_size is {size}."
        )
      # Evaluation has no lighting, so it needs no components.
      statistics = Statistics(mean, np.zeros(3), np.eye(3), 0)
    names = self.class_names(config)
    return RunData(self.dataset, self.fingerprint, names, statistics)


def read(path: str) -> Weights:
  """Reads a file; its ending tells the format.

  .safetensors; .pth, .pt and .bin of PyTorch, if it is installed; .caffemodel.
  float16 and bfloat16 become float32.

  Raises:
    UserError: the file does not exist or is not of its format.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"{path}: no such file.")
  if path.endswith(".onnx"):
    raise UserError(
      f"{path} is an ONNX file, which this program writes and does not read."
      " Export the weights as safetensors as well: python -m"
      " alexnet_jax.weights export --workdir=DIR --output=FILE.safetensors."
    )
  metadata: dict[str, str] = {}
  if path.endswith(PYTORCH):
    arrays = framework_files.read_pytorch(path)
  elif path.endswith(CAFFE):
    arrays = framework_files.read_caffe(path)
  else:
    arrays, metadata = _read_safetensors(path)
  mean_image = arrays.pop(MEAN_IMAGE, None)
  weights = Weights(path, *published.rename(arrays))
  if "config" not in metadata:
    return weights
  try:
    return _with_metadata(weights, metadata, mean_image)
  except (
    UserError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
  ) as error:
    raise UserError(
      f"the metadata of {path} are damaged ({error!r}). Export it again."
    ) from None


def check_output(path: str, format: str = "") -> None:
  """Raises UserError if a file to write has the name of another format.

  Args:
    path: of the file.
    format: one of FORMATS, as --format names it; "": safetensors.
  """
  written = format or "safetensors"
  others = tuple(f".{name}" for name in FORMATS if name != written)
  if path.endswith(PYTORCH + CAFFE + others):
    file, ending = pathlib.Path(path), pathlib.Path(path).suffix
    can_choose = format and ending in others
    hint = f", or set --format={ending[1:]}" if can_choose else ""
    raise UserError(
      f"--output={path} has the name of a {ending} file, but the format written"
      f" is {written}: call it {file.with_suffix('.' + written)}{hint}."
    )


def convert(
  path: str,
  config: Mapping[str, Any] | str | None,
  output: str,
  mean_image: str = "",
  channels: str = "",
) -> None:
  """Writes the weights of a file as one that carries its network.

  Args:
    path: the file to read.
    config: as in `Weights.configuration`.
    output: the safetensors file to write.
    mean_image: file with Caffe's mean image, if the configuration subtracts one
      that `path` does not have.
    channels: the order in which the first layer of the file reads the colours,
      "rgb" or "bgr"; "": what the file, its layout or the configuration says.

  Raises:
    UserError: a file is damaged or missing, or does not fit the network; or
      `output` has the name of another format.
  """
  check_output(output)
  weights = read(path)
  weights = weights._replace(order=channels or weights.order)
  config = weights.configuration(config)
  if mean_image:
    mean = framework_files.read_mean_image(mean_image)
    weights = weights._replace(mean_image=mean)
  net, order = weights.net(config), config["pixels"]["order"]
  content = to_bytes(
    net,
    config=config,
    order=order,
    data=weights.run_data(config),
    step=weights.step,
  )
  write_atomic(output, content)


def to_bytes(
  net: AlexNet,
  *,
  config: Mapping[str, Any],
  order: str,
  data: RunData,
  step: int,
) -> bytes:
  """A safetensors file that carries its network.

  Besides the arrays of `grouped` it has `mean_image` f32[3,S,S], in the order
  of the colours in which the first layer reads them, and as metadata texts:
  `scale` (by which inputs are divided, for each channel) and those of
  `make_metadata`.

  Args:
    net: all towers.
    config: of the run, as in config.json.
    order: of the colours, "rgb" or "bgr".
    data: the classes, and the mean image if `config` subtracts one.
    step: the number of steps of training.
  """
  arrays, mean, scale = arrays_in_order(net, config, order, data)
  texts = make_metadata(config, order, data, step)
  texts |= {"format": "pt", "scale": json.dumps(scale.tolist())}
  return save({**arrays, MEAN_IMAGE: mean}, texts)


def arrays_in_order(
  net: AlexNet, config: Mapping[str, Any], order: str, data: RunData
) -> tuple[Arrays, np.ndarray, np.ndarray]:
  """The arrays of a file whose input has its colours in `order`.

  Returns:
    The arrays of `grouped`; the mean image, f32[3,S,S]; and the scale, f64[3].
    The input is (pixel - mean image) / scale.
  """
  pixels = make_pixels(config)
  reverse_colours = order != pixels.order
  arrays = to_grouped(net, net.towers.network, reverse_colours)
  scale = pixels.divisor * np.array(pixels.deviation or (1.0, 1.0, 1.0))
  if pixels.mean:
    mean = pixels.mean_image(config["image_size"])
  else:
    mean = data.statistics.mean_image
  colours = slice(None, None, -1 if order == "bgr" else 1)
  mean = mean.transpose(2, 0, 1)[colours]
  return arrays, np.ascontiguousarray(mean, np.float32), scale[colours]


def make_metadata(
  config: Mapping[str, Any], order: str, data: RunData, step: int
) -> dict[str, str]:
  """What a file says about its network, as texts.

  `channels` ("rgb" or "bgr"), `classes` and `words` (JSON: their names in the
  dataset and readable ones), `dataset`, `fingerprint`, `step`, and `config`
  (JSON).
  """
  # Places on the machine that trained the network are left out.
  config = {**config, "data_dir": "", "start_from": ""}
  return {
    "channels": order,
    "classes": json.dumps(list(data.classes)),
    "words": json.dumps(class_words.in_words(data.classes, data.dataset)),
    "dataset": data.dataset,
    "fingerprint": data.fingerprint,
    "step": str(step),
    "config": json.dumps(config),
  }


def _with_metadata(
  weights: Weights, metadata: dict[str, str], mean_image: np.ndarray
) -> Weights:
  """Adds what `to_bytes` wrote; raises ValueError and others if it is not."""
  config = configs.upgrade(json.loads(metadata["config"]))
  classes = tuple(map(str, json.loads(metadata["classes"])))
  order, size = metadata["channels"], config["image_size"]
  Recipe.from_config(config)  # checks it
  if order not in ORDERS:
    raise ValueError(f"channels={order}")
  if len(classes) != config["num_classes"]:
    raise ValueError(f"{len(classes)} classes")
  if mean_image is None or mean_image.shape != (3, size, size):
    raise ValueError("no mean image of this size")
  if not np.isfinite(mean_image).all():
    raise ValueError("the mean image has values that are not finite")
  mean_image = mean_image[::-1] if order == "bgr" else mean_image
  return weights._replace(
    order=order,
    config=config,
    mean_image=np.ascontiguousarray(mean_image.transpose(1, 2, 0)),
    dataset=metadata["dataset"],
    fingerprint=metadata["fingerprint"],
    classes=classes,
    step=int(metadata["step"]),
  )


def _read_safetensors(
  path: str,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  try:
    with safe_open(path, framework="np") as file:
      arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
      metadata = file.metadata() or {}
  except SafetensorError as error:
    raise UserError(f"{path} is not a safetensors file: {error}.") from None
  half = (np.float16, ml_dtypes.bfloat16)
  for name, array in arrays.items():
    if array.dtype in half:
      arrays[name] = array.astype(np.float32)
  return arrays, metadata
