"""Weights to and from the layout of PyTorch and Caffe, as safetensors.

  python -m alexnet_jax.weights export --workdir=DIR --output=FILE
      [--channels=rgb|bgr]
  python -m alexnet_jax.weights import --workdir=DIR --input=FILE
      [--channels=rgb|bgr]

That layout has one tower with grouped convolutions. `conv2.weight` is
[256,48,5,5]: outputs, inputs of a group, rows, columns; tower 0's outputs come
first, and the layers that read their own tower have groups=2. `fc6.weight` is
[4096,9216], its columns in the order channel, row, column. Caffe's conv1 reads
blue, green, red: --channels=bgr.

Import needs a run in DIR with a checkpoint (a training of one step will do). It
saves the weights as a new checkpoint with a velocity of zero; the same training
command then goes on from there.
"""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.runtime import command
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import WorkdirLock, write_atomic
from alexnet_jax.training import step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.runs import load_config

Arrays = dict[str, np.ndarray]


def to_grouped(net: AlexNet, network: Network, channels: str = "rgb") -> Arrays:
  """The parameters as one tower with grouped convolutions has them.

  Args:
    net: all towers, on any mesh.
    network: what `net` was made from.
    channels: "rgb", or "bgr" for a conv1 that reads blue first.

  Returns:
    `conv1.weight`, `conv1.bias`, ..., `fc8.bias`, f32; the shapes of
    convolutions are [towers*F,C,K,K], of fully connected layers
    [towers*F,inputs], of fc8 [num_classes,towers*inputs].

  Raises:
    UserError: the network has local layers.
  """
  arrays = {}
  for name, maps in _inputs(network).items():
    layer = getattr(net.towers, name)
    kernel = np.asarray(layer.kernel[...])  # [towers, ...]
    if name.startswith("conv"):
      weight = kernel.transpose(0, 4, 3, 1, 2)  # [T,F,C,K,K]
    else:
      weight = kernel.reshape(len(kernel), *maps, -1).transpose(0, 4, 3, 1, 2)
    if name == "fc8":  # the classes' scores are a sum over towers
      weight = np.concatenate([*weight.reshape(*weight.shape[:2], -1)], axis=1)
      arrays["fc8.bias"] = np.asarray(net.fc8_bias[...])
    else:
      weight = weight.reshape(-1, *weight.shape[2:])
      arrays[f"{name}.bias"] = np.asarray(layer.bias[...]).reshape(-1)
    if name.startswith("fc"):
      weight = weight.reshape(len(weight), -1)
    arrays[f"{name}.weight"] = np.ascontiguousarray(weight)
  return _in_order(arrays, channels)


def from_grouped(
  arrays: Mapping[str, np.ndarray], network: Network, channels: str = "rgb"
) -> AlexNet:
  """The inverse of `to_grouped`, bit for bit.

  Raises:
    UserError: names every array that is missing, unknown or misshapen.
  """
  abstract = jax.eval_shape(lambda: AlexNet(network, jax.random.key(0)))
  _check(arrays, abstract, network)
  arrays = _in_order(arrays, channels)
  leaves = {"fc8_bias": arrays["fc8.bias"]}
  towers = network.towers
  for name, maps in _inputs(network).items():
    shape = getattr(abstract.towers, name).kernel.shape
    weight = np.asarray(arrays[f"{name}.weight"])
    if name.startswith("conv"):
      weight = weight.reshape(towers, shape[4], shape[3], *shape[1:3])
    elif name == "fc8":
      height, width, count = maps
      weight = weight.reshape(-1, towers, count, height, width).swapaxes(0, 1)
    else:
      height, width, count = maps
      weight = weight.reshape(towers, -1, count, height, width)
    leaves[f"{name}.kernel"] = weight.transpose(0, 3, 4, 2, 1).reshape(shape)
    if name != "fc8":
      leaves[f"{name}.bias"] = arrays[f"{name}.bias"].reshape(towers, -1)

  def leaf(path, _):
    names = [key.name for key in path if hasattr(key, "name")]
    key = names[0] if names[0] == "fc8_bias" else ".".join(names[1:3])
    return jnp.asarray(leaves[key])

  return jax.tree.map_with_path(leaf, abstract)


def _inputs(network: Network) -> dict[str, tuple[int, int, int]]:
  """What each layer reads, as maps (height, width, count); units are 1 x 1."""
  result = {}
  x = (network.crop_size, network.crop_size, network.channels)
  for name, layer, _, _, outputs in networks.shapes(network):
    if layer.local:
      raise UserError(
        f"{name} is a local layer, for which PyTorch and Caffe have no layout;"
        " this network's weights stay in its checkpoints."
      )
    if name in network.exchanges and name != "fc8":
      x = (*x[:-1], x[-1] * network.towers)
    result[name] = x if len(x) == 3 else (1, 1, *x)
    x = outputs
  return result


def _in_order(arrays: Mapping[str, np.ndarray], channels: str) -> Arrays:
  """`arrays`, conv1's input channels reversed for "bgr"; its own inverse."""
  arrays = dict(arrays)
  first = next(name for name in networks.LAYERS if f"{name}.weight" in arrays)
  if channels == "bgr":
    weight = arrays[f"{first}.weight"]
    arrays[f"{first}.weight"] = np.ascontiguousarray(weight[:, ::-1])
  return arrays


def _check(arrays, abstract: AlexNet, network: Network) -> None:
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
  wanted = {
    name: array.shape for name, array in to_grouped(zeros, network).items()
  }
  problems = [
    *(f"{name} is missing" for name in wanted if name not in arrays),
    *(f"{name} is unknown" for name in arrays if name not in wanted),
    *(
      f"{name} is {list(arrays[name].shape)}, not {list(shape)}"
      for name, shape in wanted.items()
      if name in arrays and arrays[name].shape != shape
    ),
    *(
      f"{name} holds {arrays[name].dtype}, not float32"
      for name in wanted
      if name in arrays and arrays[name].dtype != np.float32
    ),
  ]
  if problems:
    raise UserError(
      "these are not the weights of this network: " + "; ".join(problems) + "."
    )


def _restore(config, checkpoints: Checkpoints, workdir: str):
  network = networks.from_dict(config["network"], config["num_classes"])
  optimizer = momentum_sgd(**config["optimizer"])
  mesh = sharding.make_mesh(1, 1, towers=network.towers)
  abstract = step.abstract_state(network, optimizer, mesh)
  restored = checkpoints.restore(step.to_dict(abstract))
  if restored is None:
    raise UserError(
      f"{workdir} holds no checkpoint yet; train for a step first"
      " (--config.total_steps=1)."
    )
  return network, abstract, *restored


def export_weights(workdir: str, output: str, channels: str = "rgb") -> None:
  """Writes the weights of a run's newest checkpoint to `output`.

  Raises:
    UserError: there is no checkpoint, or the network has no such layout.
  """
  checkpoints = Checkpoints(f"{workdir}/checkpoints", read_only=True)
  network, abstract, values, _ = _restore(
    load_config(workdir), checkpoints, workdir
  )
  checkpoints.close()
  net = step.from_dict(values, abstract).net
  write_atomic(output, save(to_grouped(net, network, channels)))
  print(f"wrote {output}: the weights after step {int(values['step'])}")


def import_weights(workdir: str, source: str, channels: str = "rgb") -> None:
  """Saves the weights in `source` as the newest checkpoint of a run.

  Raises:
    UserError: there is no run or checkpoint in `workdir`, or `source` holds
      other arrays than its network wants; nothing is changed then.
  """
  config = load_config(workdir)
  if not pathlib.Path(source).is_file():
    raise UserError(f"--input={source}: there is no such file.")
  try:
    arrays = load_file(source)
  except SafetensorError as error:
    raise UserError(f"{source} is no safetensors file: {error}.") from None
  with WorkdirLock(workdir):
    checkpoints = Checkpoints(
      f"{workdir}/checkpoints", config["checkpoints_to_keep"]
    )
    network, abstract, values, metadata = _restore(config, checkpoints, workdir)
    net = from_grouped(arrays, network, channels)
    now = int(values["step"]) + 1
    state = step.TrainState(
      jnp.asarray(now, jnp.int32),
      net,
      momentum_sgd(**config["optimizer"]).init(net),
    )
    state = jax.device_put(
      state, jax.tree.map(lambda leaf: leaf.sharding, abstract)
    )
    checkpoints.save(now, step.to_dict(state), metadata)
    checkpoints.wait()
    checkpoints.close()
  print(f"{workdir}: the weights of {source} are its checkpoint {now}")


def main(what: str) -> None:
  flag = flags.FLAGS
  if not flag.workdir:
    raise UserError("--workdir is missing: it names the run.")
  name = "output" if what == "export" else "input"
  if not flag[name].value:
    raise UserError(f"--{name} is missing: it names the safetensors file.")
  act = export_weights if what == "export" else import_weights
  act(flag.workdir, flag[name].value, flag.channels)


if __name__ == "__main__":
  flags.DEFINE_string("workdir", "", "of the run")
  flags.DEFINE_string("output", "", "export: the file to write")
  flags.DEFINE_string("input", "", "import: the file to read")
  flags.DEFINE_enum("channels", "rgb", ["rgb", "bgr"], "order conv1 reads them")
  command.run(main, "export", "import")
