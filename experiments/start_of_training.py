"""How the text's recipe and the released source's leave the plateau at ln(n).

  python -m experiments.start_of_training --data_dir=DIR [--width=0.125]
      [--steps=300] [--seeds=3] [--quick] [--output=DIR]

Trains `paper.py` and `original2012.py` from their first step, unchanged but for
the width, on a small set of real images. A narrow network's initial weights are
scaled so that the inputs of its units vary as in the full network. Reported are
the loss, the spread of the class scores between images (without dropout), and
the number of images until the mean loss of 100 steps is below
ln(classes) - 0.05, which is 100 batches at the least. Writes
`start_of_training_WIDTH.json`; the same command continues an interrupted one.
`--quick` trains a very narrow network for three steps.
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
from alexnet_jax.data.augment import view_images
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet, forward, param_specs
from alexnet_jax.runtime import command, files, paths, processes, provenance
from alexnet_jax.runtime import config as configs
from alexnet_jax.training import step
from alexnet_jax.training.job import Job, make_job
from alexnet_jax.training.run_data import RunData
from experiments.common.configuration import narrow
from experiments.common.curves import PLATEAU_WINDOW, images_to_leave_plateau

RECIPES = ("paper", "original2012")
PROBED = 64  # validation images whose scores are compared


def configure(recipe: str, num_classes: int) -> ConfigDict:
  """The configuration of a recipe with the data and the width of the flags."""
  flag = flags.FLAGS
  config = configs.load(f"configs/{recipe}.py")
  config.dataset, config.data_dir = flag.dataset, flag.data_dir
  config.num_classes = num_classes
  config.batch_size = flag.batch_size
  config.mesh.data = config.mesh.model = 1
  config.network.width = flag.width
  narrow(config)
  return config


class Trainer:
  """The programs of one recipe, compiled once for all seeds."""

  def __init__(self, job: Job):
    config = job.config.to_dict()
    self._job = job
    data = RunData.compute(config, job.train)
    self._statistics = data.image_statistics(config, job.mesh)
    self._step = job.recipe.train_step(job.mesh)
    batches = pipeline.evaluation_batches(
      job.validation,
      batch_size=PROBED,
      size=config["image_size"],
      rescale=config["pixels"]["rescale"],
    )
    images = next(iter(batches))["image"]
    self._probe = sharding.place(images, sharding.BATCH, job.mesh)
    specs = param_specs(
      jax.eval_shape(lambda: AlexNet(job.recipe.network, jax.random.key(0)))
    )
    self._scores = jax.jit(
      sharding.on_each_device(
        self._forward,
        job.mesh,
        (specs, sharding.BATCH, sharding.REPLICATED),
        sharding.BATCH,
      )
    )

  def _forward(self, net, images, statistics):
    return forward(
      net,
      view_images(images, statistics, 0, self._job.recipe.network.crop_size),
    )

  def spread(self, net: AlexNet) -> float:
    """Standard deviation of a class's score between images, as an RMS."""
    scores = self._scores(net, self._probe, self._statistics)
    return float(jnp.sqrt(jnp.var(scores, axis=0).mean()))

  def run(self, seed: int, steps: int) -> dict[str, Any]:
    """Trains from the first step until the plateau is left, at most `steps`."""
    job, config = self._job, self._job.config
    state = step.init_state(
      job.recipe.network, job.recipe.optimizer, seed, job.mesh
    )
    streams = step.make_streams(config.random_streams, seed, job.mesh)
    batches = pipeline.to_device(
      pipeline.train_batches(
        job.train,
        batch_size=config.batch_size,
        seed=seed,
        start_step=0,
        size=config.image_size,
        rescale=config.pixels.rescale,
      ),
      sharding.batch_sharding(job.mesh),
    )
    losses, spreads, images = [], {0: self.spread(state.net)}, None
    began = time.monotonic()
    while len(losses) < steps and not images:
      epoch = len(losses) * config.batch_size / len(job.train)
      state, metrics = self._step(
        state,
        next(batches),
        self._statistics,
        streams,
        job.schedule.rates(epoch),
      )
      losses.append(float(metrics["loss"]))
      done = len(losses)
      if done % PLATEAU_WINDOW == 0:
        spreads[done] = self.spread(state.net)
        mean = np.mean(losses[-PLATEAU_WINDOW:])
        print(
          f"  seed {seed}, step {done}: loss {mean:.4f},"
          f" spread {spreads[done]:.5f}",
          flush=True,
        )
      images = images_to_leave_plateau(
        losses, config.batch_size, config.num_classes
      )
    spreads[len(losses)] = self.spread(state.net)
    return {
      "seed": seed,
      "first_loss": losses[0] if losses else None,
      "mean_loss_of_each_100_steps": [
        float(np.mean(losses[i : i + PLATEAU_WINDOW]))
        for i in range(0, len(losses), PLATEAU_WINDOW)
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
  invocation = " ".join(["python -m experiments.start_of_training", *argv])
  source = sources.open_split(flag.dataset, "train", flag.data_dir)
  path = pathlib.Path(flag.output) / f"start_of_training_{flag.width:g}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  runs = _finished(path, invocation) or {name: [] for name in flag.recipes}
  trainers = {
    name: Trainer(make_job(configure(name, source.num_classes)))
    for name in flag.recipes
  }
  for seed in range(flag.seeds):
    for name, trainer in trainers.items():
      if len(runs[name]) > seed:
        continue
      print(f"{name}, width {flag.width:g}, seed {seed}", flush=True)
      runs[name].append(trainer.run(seed, flag.steps))
      record = provenance.record(
        "start of training: paper.py against original2012.py",
        invocation,
        {
          "dataset": flag.dataset,
          "classes": source.num_classes,
          "chance_loss": math.log(source.num_classes),
          "width": flag.width,
          "batch_size": flag.batch_size,
          "recipes": runs,
        },
        seed=list(range(seed + 1)),
      )
      files.write_atomic(path, json.dumps(record, indent=1) + "\n")
  print(f"wrote {path}")


def _finished(path: pathlib.Path, invocation: str) -> dict[str, Any] | None:
  """The runs that the same command has already finished, by recipe."""
  if not path.exists():
    return None
  earlier = json.loads(path.read_text())
  same = earlier["command"] == invocation
  return earlier["result"]["recipes"] if same else None


if __name__ == "__main__":
  flags.DEFINE_string("dataset", "imagenette224", "a small set of real images")
  paths.DEFINE_path("data_dir", "", "folder that holds the dataset")
  flags.DEFINE_list("recipes", list(RECIPES), "names of files in configs/")
  flags.DEFINE_float("width", 0.125, "of the network; 1 is the full network", 0)
  flags.DEFINE_integer("steps", 300, "largest number of steps of a run", 0)
  flags.DEFINE_integer("seeds", 3, "number of runs of each recipe", 1)
  flags.DEFINE_integer("batch_size", 64, "images per step", 1)
  flags.DEFINE_bool("quick", False, "a very narrow network for three steps")
  paths.DEFINE_output_folder(
    "output", "experiments/results", "folder for the JSON"
  )
  command.run(main)
