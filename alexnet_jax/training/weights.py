"""A run's weights to and from a file, in the layout of PyTorch and Caffe."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from alexnet_jax.model import sharding
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import WorkdirLock, write_atomic
from alexnet_jax.training import runs, weights_file
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.step import TrainState, to_dict


def export_weights(
  workdir: str,
  output: str,
  channels: str = "",
  checkpoint: str = "newest",
  format: str = "safetensors",
) -> int:
  """Writes the weights of one of a run's checkpoints to the file `output`.

  The file carries the network, the mean image, the class names and how pixels
  become inputs: see `weights_file.to_bytes` and `onnx_file.to_bytes`.

  Args:
    workdir: of the run.
    output: the file.
    channels: the order in which the file reads the colours, "rgb" or "bgr"; "":
      in a safetensors file that of the run, in an ONNX file "rgb".
    checkpoint: as of `runs.load_state`.
    format: one of `weights_file.FORMATS`.

  Returns:
    The number of steps after which the weights are.

  Raises:
    UserError: no checkpoint; or the layout does not fit the network; or
      `output` has the name of another format; or ONNX is not installed.
  """
  weights_file.check_output(output, format)
  to_bytes = weights_file.to_bytes if format == "safetensors" else _onnx_bytes()
  config = runs.load_config(workdir)
  state, metadata = runs.load_state(
    workdir, _mesh(config), checkpoint=checkpoint
  )
  data = runs.load_data(workdir, config, metadata=metadata)
  own = config["pixels"]["order"] if format == "safetensors" else "rgb"
  step = int(state.step)
  content = to_bytes(
    state.net, config=config, order=channels or own, data=data, step=step
  )
  write_atomic(output, content)
  return step


def import_weights(workdir: str, source: str, channels: str = "") -> int:
  """Saves the weights in the file `source` as the newest checkpoint of a run.

  The checkpoint is one step after the present one and has a new optimiser
  state (a velocity of zero). Returns its step.

  Args:
    workdir: of a run with a checkpoint.
    source: a file that `weights_file.read` reads.
    channels: the order in which the first layer of the file reads the colours,
      "rgb" or "bgr"; "": what the file or its layout says, else that of the
      run.

  Raises:
    UserError: there is no run or checkpoint in `workdir`, or the arrays in
      `source` do not fit its network. Nothing is changed then.
  """
  config = runs.load_config(workdir)
  weights = weights_file.read(source)
  net = weights._replace(order=channels or weights.order).net(config)
  with WorkdirLock(workdir):
    keep = config["checkpoints_to_keep"]
    checkpoints = runs.open_checkpoints(workdir, keep)
    old, metadata = runs.load_state(workdir, _mesh(config), checkpoints)
    optimizer = Recipe.from_config(config).optimizer
    now = int(old.step) + 1
    state = TrainState(jnp.asarray(now, jnp.int32), net, optimizer.init(net))
    state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, old))
    checkpoints.save(now, to_dict(state), metadata)
    checkpoints.wait()
    checkpoints.close()
  return now


def _onnx_bytes() -> Callable[..., bytes]:
  """`onnx_file.to_bytes`, if the library is installed."""
  try:
    from alexnet_jax.training import onnx_file
  except ModuleNotFoundError as error:
    if error.name != "onnx":
      raise
    raise UserError(
      "--format=onnx needs the library ONNX, which is not installed: pip"
      " install -r requirements-onnx.txt (or: pip install onnx)."
    ) from None
  return onnx_file.to_bytes


def _mesh(config) -> jax.sharding.Mesh:
  """One device, whatever the training used."""
  return sharding.make_mesh(1, 1, towers=config["network"]["towers"])
