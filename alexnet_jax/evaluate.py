"""Top-1 and top-5 error over every example of a split (sections 4.1 and 6).

  python -m alexnet_jax.evaluate --workdir=DIR[,DIR...] [--views=1|10]
      [--split=validation] [--json=FILE]

Several workdirs are an ensemble: the class probabilities are averaged over
views and networks. `--split` is train, validation or test, as the workdir's
configuration names them.
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track
from rich.table import Table

from alexnet_jax.data import datasets, input_pipeline
from alexnet_jax.data.augment import VIEWS, ImageStatistics
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.runtime import command, processes
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import step
from alexnet_jax.training.checkpoint import Checkpoints

Predict = Callable[[jax.Array], jax.Array]


def evaluate(
  predictors: Sequence[Predict],
  batches: Iterable[step.Batch],
  mesh: Mesh,
  num_examples: int,
  max_undecodable: int = 0,
) -> dict[str, float]:
  """Counts every example once.

  Args:
    predictors: each maps uint8[B,S,S,3] to log-probabilities f32[B,classes].
    batches: on the device; examples of weight 0 only fill up a batch.
    mesh: that they lie on.
    num_examples: that `batches` must hold.
    max_undecodable: how many of them may be missing.

  Returns:
    `num_examples` that were counted, and the means `loss`, `top1_error` and
    `top5_error`.

  Raises:
    UserError: the batches held fewer examples.
  """
  score = step.make_score(mesh)
  totals: dict[str, float] = {}
  for batch in batches:
    each = [predict(batch["image"]) for predict in predictors]
    sums = score(_average(each), batch["label"], batch["weight"])
    for name, value in jax.device_get(sums).items():
      totals[name] = totals.get(name, 0.0) + float(value)
  counted = round(totals.pop("weight", 0))
  if not num_examples - max_undecodable <= counted <= num_examples:
    raise UserError(
      f"the evaluation counted {counted} of {num_examples} examples; the rest"
      " could not be decoded. `python -m alexnet_jax.prepare --check` names"
      " them."
    )
  means = {name: total / counted for name, total in totals.items()}
  return {"num_examples": counted, **means}


def _average(log_probabilities):
  """The logarithm of the mean probability of several networks."""
  if len(log_probabilities) == 1:
    return log_probabilities[0]
  count = np.log(len(log_probabilities)).astype(np.float32)
  return jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0) - count


def image_statistics(
  source: datasets.Source, image_size: int, mesh: Mesh, mean_size: int = 0
) -> ImageStatistics:
  """The training split's mean image and RGB components, on the devices.

  Args:
    mean_size: side of the centre of the mean image that is subtracted from
      every crop, wherever it is; 0: each crop loses its own part of it.
  """
  found = datasets.statistics(source, image_size)
  components = found.eigenvectors * np.sqrt(found.eigenvalues)
  mean = found.mean_image.astype(np.float32)
  if mean_size:
    start = (image_size - mean_size) // 2
    mean = mean[start : start + mean_size, start : start + mean_size]
  return sharding.place(
    ImageStatistics(mean, components.astype(np.float32)),
    sharding.REPLICATED,
    mesh,
  )


def run_statistics(
  config: dict[str, Any], train: datasets.Source, mesh: Mesh
) -> ImageStatistics:
  """What a run, by its configuration, subtracts from its images."""
  mean_size = config["network"]["crop_size"] if config["centre_mean"] else 0
  return image_statistics(
    train, config["image_size"], mesh, mean_size=mean_size
  )


def load_config(workdir: str) -> dict[str, Any]:
  """The configuration of a run.

  Raises:
    UserError: `workdir` holds no run, or one that this version of the program
      cannot read.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.is_file():
    raise UserError(
      f"{workdir} holds no run: there is no {path}. Name the --workdir of a"
      " training (default runs/NAME for configs/NAME.py)."
    )
  return configs.load_saved(path)


def load_net(workdir: str, mesh: Mesh) -> tuple[AlexNet, dict[str, Any]]:
  """The network of a run's newest checkpoint, and what was saved with it.

  Raises:
    UserError: `workdir` holds no run, or no checkpoint yet.
  """
  config = load_config(workdir)
  network = networks.from_dict(config["network"], config["num_classes"])
  if network.towers % mesh.shape[sharding.MODEL]:
    raise UserError(
      f"{workdir} has {network.towers} tower, which cannot be divided over the"
      f" {mesh.shape[sharding.MODEL]} devices of the mesh axis 'model': set"
      " mesh.model=1."
    )
  abstract = step.abstract_state(network, mesh)
  checkpoints = Checkpoints(
    str(pathlib.Path(workdir) / "checkpoints"), read_only=True
  )
  restored = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  if restored is None:
    raise UserError(
      f"{workdir} holds no checkpoint yet; one is written after the first"
      " evaluation of a training."
    )
  arrays, metadata = restored
  return step.from_dict(arrays, abstract).net, metadata


def load_predictor(
  workdir: str, mesh: Mesh, views: int, data_dir: str
) -> Predict:
  """The network of a run's newest checkpoint, ready to predict.

  Raises:
    UserError: `workdir` holds no run, or no checkpoint yet.
  """
  config = load_config(workdir)
  net, _ = load_net(workdir, mesh)
  train = datasets.open_run(config, "train", data_dir)
  statistics = run_statistics(config, train, mesh)
  predict = step.make_predict(net.towers.network, views, mesh)
  return lambda images: predict(net, images, statistics)


def evaluate_workdirs(
  workdirs: Sequence[str], *, views: int, split: str, data_dir: str = ""
) -> dict[str, Any]:
  """Evaluates one run, or several as an ensemble.

  Args:
    workdirs: of the runs; they must be of one data set.
    views: 1 or 10.
    split: "train" (less what the run holds out), "validation" or "test" of the
      configuration.
    data_dir: "" for the configuration's.

  Returns:
    What `evaluate` returns, and `views`.
  """
  each = [load_config(workdir) for workdir in workdirs]
  for key in ("dataset", "num_classes", "image_size"):
    if len({str(config[key]) for config in each}) > 1:
      raise UserError(
        f"these runs cannot be averaged: their {key} differ"
        f" ({', '.join(str(config[key]) for config in each)})."
      )
  config = each[0]
  if split not in config["splits"]:
    raise UserError(
      f"--split={split}: say one of {', '.join(config['splits'])}."
    )
  towers = min(config["network"]["towers"] for config in each)
  mesh = sharding.make_mesh(towers=towers)
  data = mesh.shape[sharding.DATA]
  batch_size = -(-config["batch_size"] // data) * data
  source = datasets.open_run(config, split, data_dir)
  predictors = [
    load_predictor(workdir, mesh, views, data_dir) for workdir in workdirs
  ]
  batches = input_pipeline.to_device(
    input_pipeline.evaluation_batches(
      source,
      batch_size=batch_size,
      size=config["image_size"],
      max_undecodable=config["max_undecodable"],
    ),
    sharding.batch_sharding(mesh),
  )
  total = -(-len(source) // batch_size)
  shown = track(batches, f"{config['dataset']} {split}", total, transient=True)
  found = evaluate(
    predictors, shown, mesh, len(source), config["max_undecodable"]
  )
  return found | {"views": views}


def main() -> None:
  processes.configure()
  flag = flags.FLAGS
  if flag.views not in VIEWS:
    raise UserError(f"--views={flag.views}: say 1 (centre) or 10.")
  result = evaluate_workdirs(
    flag.workdir, views=flag.views, split=flag.split, data_dir=flag.data_dir
  )
  table = Table("examples", "views", "top-1 error", "top-5 error", "loss")
  table.add_row(
    str(result["num_examples"]),
    str(result["views"]),
    f"{result['top1_error']:.2%}",
    f"{result['top5_error']:.2%}",
    f"{result['loss']:.4f}",
  )
  Console().print(table)
  if flag.json:
    pathlib.Path(flag.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  flags.DEFINE_list("workdir", None, "of a run, or of several", required=True)
  flags.DEFINE_integer("views", 1, "1 (centre) or 10 (section 4.1)")
  flags.DEFINE_string("split", "validation", "train, validation or test")
  flags.DEFINE_string("data_dir", "", "of the data set, if it has moved")
  flags.DEFINE_string("json", "", "file to write the result to")
  command.run(main)
