"""A run's weights as a safetensors file, in the layout of PyTorch and Caffe."""

import pathlib

import jax
import jax.numpy as jnp
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from alexnet_jax.model import sharding
from alexnet_jax.model.grouped import from_grouped, to_grouped
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import WorkdirLock, write_atomic
from alexnet_jax.training import runs
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.step import TrainState, to_dict


def export_weights(
  workdir: str,
  output: str,
  channels: str = "rgb",
  checkpoint: str = "newest",
) -> int:
  """Writes the weights of one of a run's checkpoints to the file `output`.

  `channels` is the order in which conv1 reads the colours, "rgb" or "bgr";
  `checkpoint` is that of `runs.load_state`. Returns the number of steps after
  which the weights are.

  Raises:
    UserError: no checkpoint, or the layout does not fit the network.
  """
  mesh = _mesh(workdir)
  state, _ = runs.load_state(workdir, mesh, checkpoint=checkpoint)
  grouped = to_grouped(state.net, state.net.towers.network, channels)
  write_atomic(output, save(grouped))
  return int(state.step)


def import_weights(workdir: str, source: str, channels: str = "rgb") -> int:
  """Saves the weights in the file `source` as the newest checkpoint of a run.

  The checkpoint is one step after the present one and has a new optimiser
  state (a velocity of zero). Returns its step. `channels` as `export_weights`.

  Raises:
    UserError: there is no run or checkpoint in `workdir`, or the arrays in
      `source` do not fit its network. Nothing is changed then.
  """
  config = runs.load_config(workdir)
  if not pathlib.Path(source).is_file():
    raise UserError(f"--input={source}: no such file.")
  try:
    arrays = load_file(source)
  except SafetensorError as error:
    raise UserError(f"{source} is not a safetensors file: {error}.") from None
  with WorkdirLock(workdir):
    keep = config["checkpoints_to_keep"]
    checkpoints = runs.open_checkpoints(workdir, keep)
    old, metadata = runs.load_state(workdir, _mesh(workdir), checkpoints)
    net = from_grouped(arrays, old.net.towers.network, channels)
    optimizer = Recipe.from_config(config).optimizer
    now = int(old.step) + 1
    state = TrainState(jnp.asarray(now, jnp.int32), net, optimizer.init(net))
    state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, old))
    checkpoints.save(now, to_dict(state), metadata)
    checkpoints.wait()
    checkpoints.close()
  return now


def _mesh(workdir: str) -> jax.sharding.Mesh:
  """One device, whatever the training used."""
  towers = runs.load_config(workdir)["network"]["towers"]
  return sharding.make_mesh(1, 1, towers=towers)
