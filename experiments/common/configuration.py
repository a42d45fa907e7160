"""The configuration of one run of an experiment."""

from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.model import network as networks
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from experiments.common.experiment import Experiment, Options, Run

# A few seconds on the embedded images: enough to run every line of the
# experiment, not enough to measure anything.
QUICK = {
  "dataset": "patterns/10",
  "data_dir": "",
  "num_classes": 10,
  "splits.train": "train[:256]",
  "splits.validation": "validation[:64]",
  "splits.test": "validation[:64]",
  "holdout": 0,
  "image_size": 72,
  "network.crop_size": 64,
  "network.width": 1 / 16,
  "batch_size": 32,
  "mesh.data": 1,  # the same on any number of devices
  "total_steps": 8,  # one epoch
  "log_every_steps": 1,
  "diagnose_every_lines": 0,
  "checkpoint_every_steps": 0,
}


def configure(
  experiment: Experiment, run: Run, seed: int, options: Options
) -> ConfigDict:
  """The configuration of a run with one seed.

  The overrides of the run come first, then those of `--quick`, then those of
  the command line, then the run's `fixed` ones and its factors. A
  `total_epochs` of the command line also scales the epochs at which the
  schedule changes. Initial weights of a narrow network are scaled as `narrow`
  says.

  Raises:
    UserError: an override of the command line names no key, or has a value
      that the key does not accept.
  """
  config = configs.load(run.config)
  overrides = {"seed": seed + run.add_to_seed, **run.overrides}
  if options.quick:
    overrides |= QUICK | dict(experiment.quick.overrides)
  for key, value in overrides.items():
    _set(config, key, _fill_in(value, run, seed, options))
  planned_epochs = config.total_epochs
  for key, value in options.overrides.items():
    value = _fill_in(value, run, seed, options)
    try:
      _set(config, key, value)
    except (KeyError, TypeError, ValueError):
      raise UserError(
        f"--set={key}={value}: {run.config} has no such key, or the key does"
        " not accept this value. configs/paper.py lists the valid keys."
      ) from None
  if not options.quick:
    for key, value in run.fixed.items():
      _set(config, key, value)
  if config.total_epochs != planned_epochs:
    _scale_schedule(config, config.total_epochs / planned_epochs)
  config.schedule.learning_rate *= run.rate
  config.schedule.bias_learning_rate *= run.rate
  if run.length != 1:
    config.total_epochs = round(config.total_epochs * run.length)
    _scale_schedule(config, run.length)
  if run.scale_weights:
    narrow(config)
  return config


def narrow(config: ConfigDict) -> None:
  """Scales the initial weights of a network narrower than the paper's.

  Narrow layers have fewer inputs. Their deviation is divided by the square
  root of `network.width`, so that the variance of what a unit receives is that
  of the full network. The first layer reads three channels at any width and
  keeps its own. `config` is changed in place.
  """
  if config.network.width < 1:
    scale = config.network.width**0.5
    present = [n for n in networks.LAYERS[:-1] if config.network[n].features]
    for name in present[1:]:
      config.network[name].std /= scale
    config.network.fc8_std /= scale


def _fill_in(text: Any, run: Run, seed: int, options: Options) -> Any:
  """Replaces {output}, {run} and {seed} in a string."""
  if not isinstance(text, str):
    return text
  values = {"output": options.output, "run": run.name, "seed": str(seed)}
  for name, value in values.items():
    text = text.replace(f"{{{name}}}", value)
  return text


def _set(config: ConfigDict, key: str, value: Any) -> None:
  """Sets a dotted key; JSON's numbers and lists become floats and tuples."""
  *groups, name = key.split(".")
  for group in groups:
    config = config[group]
  old = config[name]
  convert = isinstance(old, float | tuple)
  config[name] = type(old)(value) if convert else value


def _scale_schedule(config: ConfigDict, share: float) -> None:
  """Scales every epoch at which the recipe changes."""
  config.schedule.boundaries = tuple(
    epoch * share for epoch in config.schedule.boundaries
  )
  config.schedule.conv1_frozen_from *= share
  config.schedule.warmup_epochs *= share
  config.augmentation.lighting_until *= share
