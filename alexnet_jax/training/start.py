"""The trained weights that a run begins with (`start_from`)."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.model import alexnet, sharding
from alexnet_jax.model import network as networks
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime import paths
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs, weights_file
from alexnet_jax.training.optimizer import layer_of


class Start(NamedTuple):
  """Trained weights, and what their training tells of them."""

  source: str  # where they are from, for people: "runs/a, checkpoint 300"
  net: AlexNet  # all parameters
  # As in config.json; None of a file of another program.
  config: dict[str, Any] | None
  mean_image: np.ndarray | None  # f32[S,S,3]; None if none is subtracted

  def copy_layers(self, net: AlexNet, names: Sequence[str]) -> AlexNet:
    """`net` with the parameters of some layers replaced by these.

    The authors did so for their pre-trained networks (Table 2, "CNN*", and
    `initw.py` of the 2012 source): the convolutional layers were copied, the
    others began from random weights. Whatever belongs to a layer is copied,
    batch normalisation and its running averages too; stride, padding and steps
    stay those of `net`.

    Args:
      net: initial parameters, on the mesh of these.
      names: layers, such as "conv1"; one that these weights do not have keeps
        its initial parameters.

    Raises:
      UserError: `net` has no such layer, or a layer has another shape here; or
        these weights have none of the layers.
    """
    if unknown := set(names) - _layers(net):
      raise UserError(
        f"start_layers names {', '.join(sorted(unknown))}, but this network has"
        " no such layer."
      )
    if not set(names) & _layers(self.net):
      raise UserError(
        f"{self.source} has none of start_layers={tuple(names)}; it has"
        f" {', '.join(sorted(_layers(self.net)))}."
      )
    theirs = dict(jax.tree.leaves_with_path(self.net))

    def choose(path, mine):
      found, layer = theirs.get(path), layer_of(path)
      if layer not in names or found is None:
        return mine
      if found.shape == mine.shape:
        return found
      if layer == "fc8" and found.shape[:-1] == mine.shape[:-1]:
        raise UserError(
          f"fc8 of {self.source} has {found.shape[-1]} classes, this network"
          f" has {mine.shape[-1]}. Remove fc8 from start_layers; it then begins"
          " with random weights."
        )
      raise UserError(
        f"{layer} has shape {found.shape} in {self.source} and {mine.shape}"
        " here. Use the configuration with which it was trained"
        " (configs/finetune.py:NAME takes the network of configs/NAME.py), or"
        f" remove {layer} from start_layers."
      )

    return jax.tree.map_with_path(choose, net)

  def differences(
    self, config: Mapping[str, Any], groups: Sequence[str]
  ) -> list[str]:
    """Keys that differ from the training of these weights, if it is known."""
    if self.config is None:
      return []
    theirs, here = (
      dict(configs.flatten({group: one[group] for group in groups}))
      for one in (self.config, config)
    )
    return [
      f"{key} was {theirs.get(key)!r} there and is {value!r} here"
      for key, value in here.items()
      if theirs.get(key) != value
    ]

  def summary(self, config: Mapping[str, Any]) -> str:
    """What a run with this configuration takes from here, in a few lines."""
    names = config["start_layers"]
    copied = [name for name in names if name in _layers(self.net)]
    lines = [f"starts from {self.source}: {', '.join(copied)}"]
    if missing := [name for name in names if name not in copied]:
      lines[0] += f" (it has no {', '.join(missing)})"
    lines[0] += "; the other layers have initial weights"
    of = "this dataset"
    if self.mean_image is not None and config["start_mean_image"]:
      of = self.source
    if not config["pixels"]["mean"]:
      lines.append(f"mean image: that of {of}")
    lines += self.differences(config, ("network", "centre_mean", "pixels"))
    for layer, factor in config["optimizer"]["layer_rates"]:
      rate = f"{factor:g} times the learning rate" if factor else "frozen"
      lines.append(f"{layer}: {rate}")
    return "\n".join(lines)


def read(config: Mapping[str, Any], mesh: Mesh) -> Start:
  """Reads what `start_from` names, onto `mesh`.

  Args:
    config: of the run that begins, as in config.json.
    mesh: of that run.

  Raises:
    UserError: it is neither a run nor a file of weights, or has no such
      checkpoint; it has not the layers that `copy_layers` needs; or, with
      `start_mean_image`, it expects other pixels than `config`, or its mean
      image is missing or of another size.
  """
  path = paths.local_path(config["start_from"], "start_from")
  if not os.path.exists(path):
    raise UserError(
      f"start_from={path} does not exist. Set --config.start_from to the"
      " directory of a run or to a file of weights."
    )
  reader = _read_file if os.path.isfile(path) else _read_run
  start = reader(path, config, mesh)
  network = networks.from_dict(config["network"], config["num_classes"])
  start.copy_layers(alexnet.abstract_net(network), config["start_layers"])
  different = start.differences(config, ("centre_mean", "pixels"))
  if different and config["start_mean_image"]:
    raise UserError(
      f"{start.source} expects other pixels: {'; '.join(different)}. Set the"
      " values of its training, or start_mean_image=False to change them."
    )
  return start


def _read_run(workdir: str, config: Mapping[str, Any], mesh: Mesh) -> Start:
  which = config["start_checkpoint"]
  try:
    theirs = runs.load_config(workdir)
  except UserError as error:
    raise UserError(f"start_from={workdir}: {error}") from None
  state, metadata = runs.load_state(workdir, mesh, checkpoint=which)
  source = f"{workdir}, checkpoint {int(state.step)}"
  mean = None
  if config["start_mean_image"] and not theirs["pixels"]["mean"]:
    data = runs.load_data(workdir, theirs, metadata=metadata)
    mean = data.statistics.mean_image
    _check_size(mean, config, source)
  return Start(source, state.net, theirs, mean)


def _read_file(path: str, config: Mapping[str, Any], mesh: Mesh) -> Start:
  weights = weights_file.read(path)
  if config["start_checkpoint"] != "newest":
    raise UserError(
      f"start_checkpoint={config['start_checkpoint']} chooses a checkpoint of a"
      f" run, but {path} is a file of weights. Leave it out."
    )
  # A file of another program has the network of this run, apart from its
  # number of classes.
  classes = np.size(weights.arrays.get("fc8.bias", ())) or config["num_classes"]
  theirs = weights.config or {**config, "num_classes": classes}
  mean = None
  if config["start_mean_image"] and not theirs["pixels"]["mean"]:
    mean = weights.run_data(theirs).statistics.mean_image
    _check_size(mean, config, path)
  net = weights.net(theirs)
  net = sharding.place(net, alexnet.param_specs(net), mesh)
  return Start(path, net, weights.config, mean)


def _check_size(mean, config, source) -> None:
  size = config["image_size"]
  if len(mean) != size:
    raise UserError(
      f"the mean image of {source} has {len(mean)} pixels a side, but"
      f" image_size={size}. Set --config.image_size={len(mean)}, or"
      " --config.start_mean_image=False to subtract that of this dataset."
    )


def _layers(net: AlexNet) -> set[str]:
  return {layer_of(path) for path, _ in jax.tree.leaves_with_path(net)}
