"""How the text's recipe and the released source's leave the plateau at ln(n).

  python -m experiments.start_of_training --data_dir=DIR [--width=0.125]
      [--steps=300] [--seeds=3] [--quick] [--output=DIR]

Trains `paper.py` and `original2012.py` from their first step, without any
change of the recipe but the width. A narrow layer has fewer inputs, so the
deviation of its initial weights is divided by the square root of the width:
what a unit receives then varies as in the full network. Reported are the loss,
the spread of the class scores between images (dropout off), and how many images
pass until the mean loss of 100 steps is below ln(classes) - 0.05.
"""

import json
import math
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from alexnet_jax.data import pipeline, sources
from alexnet_jax.data.augment import Augmentation, view_images
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet, forward, param_specs
from alexnet_jax.runtime import command, files, processes, provenance
from alexnet_jax.training import step
from alexnet_jax.training.evaluation import image_statistics
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.schedule import make_schedule
from configs import original2012, paper

RECIPES = {"paper": paper, "original2012": original2012}
WINDOW = 100  # steps whose mean loss counts
MARGIN = 0.05  # below ln(classes)


def narrowed(config: ConfigDict, width: float) -> ConfigDict:
  """The configuration at a width, each unit's input varying as at full width.

  Args:
    config: of `configs/`; changed in place.
    width: 1 is the paper's.
  """
  config.network.width = width
  for name in networks.LAYERS[1:-1]:  # conv1 reads three channels at any width
    config.network[name].std /= math.sqrt(width)
  config.network.fc8_std /= math.sqrt(width)
  return config


def images_until_learning(
  losses: list[float], batch_size: int, num_classes: int
) -> int | None:
  """Images seen when the mean of the last 100 losses first shows learning.

  Args:
    losses: of each step from the first.
    batch_size: images a step.
    num_classes: of the data.

  Returns:
    None if it never does.
  """
  threshold = math.log(num_classes) - MARGIN
  for end in range(WINDOW, len(losses) + 1):
    if np.mean(losses[end - WINDOW : end]) < threshold:
      return end * batch_size
  return None


class Recipe:
  """One configuration, compiled once for all seeds."""

  def __init__(self, config: ConfigDict, train, probe_images):
    self.config = config
    self.train = train
    self.mesh = sharding.make_mesh(1, 1)
    self.network = networks.from_dict(
      config.network.to_dict(), config.num_classes
    )
    self.optimizer = momentum_sgd(**config.optimizer)
    self.schedule = make_schedule(
      **config.schedule, total_epochs=config.total_epochs
    )
    self.statistics = image_statistics(
      train,
      config.image_size,
      self.mesh,
      mean_size=config.network.crop_size if config.centre_mean else 0,
    )
    augmentation = Augmentation(**config.augmentation)
    self.step = step.make_train_step(
      self.network, augmentation, self.optimizer, self.mesh
    )
    self.probe = sharding.place(probe_images, sharding.BATCH, self.mesh)
    specs = param_specs(
      jax.eval_shape(lambda: AlexNet(self.network, jax.random.key(0)))
    )
    self.scores = jax.jit(
      sharding.on_each_device(
        self._scores,
        self.mesh,
        (specs, sharding.BATCH, sharding.REPLICATED),
        sharding.BATCH,
      )
    )

  def _scores(self, net, images, statistics):
    x = view_images(images, statistics, 0, self.network.crop_size)
    return forward(net, x)

  def spread(self, net) -> float:
    """Deviation of a class's score between images, over all classes."""
    scores = self.scores(net, self.probe, self.statistics)
    return float(jnp.sqrt(jnp.var(scores, axis=0).mean()))

  def run(self, seed: int, steps: int) -> dict[str, Any]:
    """Trains from the first step until learning shows, at most `steps`."""
    config = self.config
    state = step.init_state(self.network, self.optimizer, seed, self.mesh)
    key = sharding.place(jax.random.key(seed), sharding.REPLICATED, self.mesh)
    batches = pipeline.to_device(
      pipeline.train_batches(
        self.train,
        batch_size=config.batch_size,
        seed=seed,
        start_step=0,
        size=config.image_size,
      ),
      sharding.batch_sharding(self.mesh),
    )
    losses, spreads = [], {0: self.spread(state.net)}
    began = time.monotonic()
    images = None
    for done in range(steps):
      epoch = done * config.batch_size / len(self.train)
      state, metrics = self.step(
        state, next(batches), self.statistics, key, self.schedule.rates(epoch)
      )
      losses.append(float(metrics["loss"]))
      if (done + 1) % WINDOW == 0:
        spreads[done + 1] = self.spread(state.net)
        print(
          f"  seed {seed} step {done + 1}: loss"
          f" {np.mean(losses[-WINDOW:]):.4f}, spread {spreads[done + 1]:.5f}",
          flush=True,
        )
      images = images_until_learning(
        losses, config.batch_size, config.num_classes
      )
      if images:
        break
    spreads[len(losses)] = self.spread(state.net)
    return {
      "seed": seed,
      "first_loss": losses[0] if losses else None,
      "mean_loss_of_each_100_steps": [
        float(np.mean(losses[i : i + WINDOW]))
        for i in range(0, len(losses), WINDOW)
      ],
      "spread_of_scores_at_step": spreads,
      "images_until_learning": images,
      "images_seen": len(losses) * config.batch_size,
      "seconds": time.monotonic() - began,
    }


def main() -> None:
  processes.configure()
  flag = flags.FLAGS
  if flag.quick:
    flag.width, flag.steps, flag.seeds = 1 / 32, 3, 1
  places = ("--data_dir", "--output")
  argv = [a for a in sys.argv[1:] if not a.startswith(places)]
  train = sources.open_split(flag.dataset, "train", flag.data_dir)
  validation = sources.open_split(flag.dataset, "validation", flag.data_dir)
  recipes = {}
  for name in flag.recipes:
    config = narrowed(RECIPES[name].get_config(), flag.width)
    config.num_classes = train.num_classes
    config.batch_size = flag.batch_size
    probe = pipeline.evaluation_batches(
      validation, batch_size=64, size=config.image_size
    )
    recipes[name] = Recipe(config, train, next(iter(probe))["image"])
  path = pathlib.Path(flag.output) / f"start_of_training_{flag.width:g}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  runs = {name: [] for name in recipes}
  invocation = " ".join(["python -m experiments.start_of_training", *argv])
  if path.exists():
    earlier = json.loads(path.read_text())
    if earlier["command"] == invocation:  # interrupted: go on
      runs = earlier["result"]["recipes"]
  for seed in range(flag.seeds):
    for name, recipe in recipes.items():
      if len(runs[name]) > seed:
        continue
      print(f"{name}, width {flag.width:g}, seed {seed}", flush=True)
      runs[name].append(recipe.run(seed, flag.steps))
      record = provenance.record(
        "start of training: paper.py against original2012.py",
        invocation,
        {
          "dataset": flag.dataset,
          "classes": train.num_classes,
          "chance_loss": math.log(train.num_classes),
          "width": flag.width,
          "batch_size": flag.batch_size,
          "recipes": runs,
        },
        seed=list(range(seed + 1)),
      )
      files.write_atomic(path, json.dumps(record, indent=1) + "\n")
  print(f"wrote {path}")


if __name__ == "__main__":
  flags.DEFINE_string("dataset", "imagenette224", "a small set of real images")
  flags.DEFINE_string("data_dir", "", "where tfds keeps it")
  flags.DEFINE_list("recipes", list(RECIPES), "which configurations")
  flags.DEFINE_float("width", 0.125, "1 is the full network")
  flags.DEFINE_integer("steps", 300, "at most so many a run")
  flags.DEFINE_integer("seeds", 3, "runs of each configuration")
  flags.DEFINE_integer("batch_size", 64, "images a step")
  flags.DEFINE_bool("quick", False, "a narrow network for a few steps")
  flags.DEFINE_string("output", "experiments/results", "folder of the JSON")
  command.run(main)
