"""Runs of a tiny network on the tiny dataset.

A `place` is a folder with the dataset, which `sample_data.write_tiny` writes,
the runs and a cache.
"""

import contextlib
import json
import os
import subprocess
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from sample_data import ROOT, write_tiny

from alexnet_jax.model import sharding
from alexnet_jax.runtime import config as configs
from alexnet_jax.training import step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.loop import train_and_evaluate
from alexnet_jax.training.runs import load_config

# Keys of metrics.jsonl that depend on the clock.
TIMES = ("seconds", "images_per_second", "data_wait_fraction")

# 1/32 of the width, 64 pixels, batches of 8 of the 40 training images.
CHANGES = {
  "dataset": "tiny",
  "num_classes": 3,
  "batch_size": 8,
  "image_size": 72,
  "network.crop_size": 64,
  "network.width": 1 / 32,
  "log_every_steps": 1,
  "schedule.learning_rate": 0.01,
  "schedule.bias_learning_rate": 0.01,
  "report_at_end": False,
  "mesh.data": 1,
  "mesh.model": 2,
}


def flags(place, workdir, *overrides):
  """The flags of `alexnet_jax.main` for such a run."""
  return [
    "--config=configs/quickstart.py",
    f"--workdir={place / workdir}",
    f"--config.data_dir={place}",
    *(f"--config.{key}={value}" for key, value in CHANGES.items()),
    *overrides,
  ]


def command(place, module, *arguments):
  """Runs a command as a user would; returns the finished process."""
  return subprocess.run(
    [sys.executable, "-m", f"alexnet_jax.{module}", *arguments],
    cwd=ROOT,
    env=os.environ | {"XDG_CACHE_HOME": str(place / "cache")},
    capture_output=True,
    text=True,
    timeout=300,
  )


def train(
  place,
  workdir,
  should_stop=lambda: False,
  on_metrics=lambda: None,
  **changes,
):
  """Trains in this process; `changes` are keys such as batch_size."""
  config = configs.load(str(ROOT / "configs" / "quickstart.py"))
  config.update_from_flattened_dict(
    CHANGES | {"data_dir": str(place)} | changes
  )
  workdir = str(place / workdir)
  return train_and_evaluate(config, workdir, should_stop, on_metrics)


@contextlib.contextmanager
def place(folder):
  """Makes a folder a place: writes the dataset; runs share caches there."""
  write_tiny(folder)
  with (
    pytest.MonkeyPatch.context() as patch,
    compiling_once(folder / "compiled"),
  ):
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    yield folder


@contextlib.contextmanager
def compiling_once(folder):
  """Runs in this process share their compiled programs, through `folder`."""
  options = {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_disable_most_optimizations": True,  # compiles in half of the time
  }
  before = {name: jax.config.values[name] for name in options}
  try:
    for name, value in options.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


def lines(place, workdir):
  """metrics.jsonl without what depends on the clock."""
  text = (place / workdir / "metrics.jsonl").read_text()
  return [
    {key: value for key, value in json.loads(line).items() if key not in TIMES}
    for line in text.splitlines()
  ]


def arrays(place, workdir, mesh_shape=(1, 2)):
  """Everything that the newest checkpoint holds, as NumPy arrays."""
  recipe = Recipe.from_config(load_config(str(place / workdir)))
  abstract = step.abstract_state(
    recipe.network, recipe.optimizer, sharding.make_mesh(*mesh_shape)
  )
  checkpoints = Checkpoints(str(place / workdir / "checkpoints"))
  values, _ = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  return jax.device_get(values)
