"""Evaluation of trained runs, on a split of their dataset or on another one."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from alexnet_jax.data import pipeline, sources
from alexnet_jax.data.sources import Source
from alexnet_jax.model import alexnet, sharding
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import job, runs, weights_file
from alexnet_jax.training.class_errors import ClassErrors
from alexnet_jax.training.evaluation import evaluate
from alexnet_jax.training.known_classes import KnownClasses
from alexnet_jax.training.predictions import Predictions, Recorder
from alexnet_jax.training.runs import Predictor


class Evaluation(NamedTuple):
  """The errors of a network, or of an ensemble, on a split."""

  # As in the JSON of the evaluate command: `dataset`, `split`, `checkpoint`,
  # `step` (a list for an ensemble), `views`, `num_classes`, `num_examples`,
  # `num_left_out` (images of unknown classes), `loss`, `top1_error`,
  # `top5_error`.
  result: dict[str, Any]
  classes: ClassErrors
  predictions: Predictions
  num_network_classes: int  # classes that the network tells apart
  unknown: tuple[str, ...]  # classes of the dataset that it does not know


def evaluate_runs(
  workdirs: Sequence[str],
  *,
  views: int,
  split: str,
  data_dir: str = "",
  dataset: str = "",
  checkpoint: str = "newest",
  skip_unknown_classes: bool = False,
) -> Evaluation:
  """Evaluates one run, or several as an ensemble.

  Args:
    workdirs: of the runs.
    views: 1 (centre) or 10 (section 4.1).
    split: "train", "validation" or "test", as the configurations name them; of
      another `dataset`, a split or slice of it.
    data_dir: where the dataset is now; "": where it was in training.
    dataset: the name of another dataset, whose classes are matched by name; "":
      that of the runs, whose images must be those of the training.
    checkpoint: which one of each run, as in `runs.load_state`.
    skip_unknown_classes: whether images of classes that a network does not know
      are left out. If not, they are an error.

  Raises:
    UserError: the runs do not fit together, or one cannot be read; the dataset
      is missing, or not that of the runs, or has unknown classes.
  """
  run_configs = [runs.load_config(workdir) for workdir in workdirs]
  keys = ["image_size", "pixels.rescale"]
  keys += [] if dataset else ["dataset", "num_classes"]
  for key in keys:
    values = [str(dict(configs.flatten(run))[key]) for run in run_configs]
    if len(set(values)) > 1:
      raise UserError(
        f"these runs cannot be averaged: {key} differs ({', '.join(values)})."
      )
  config = run_configs[0]
  source = _open_split(config, split, data_dir, dataset)
  mesh = sharding.make_mesh(
    towers=min(run["network"]["towers"] for run in run_configs)
  )
  own_data_dir = "" if dataset else data_dir
  predictors = [
    runs.load_predictor(workdir, mesh, views, own_data_dir, checkpoint)
    for workdir in workdirs
  ]
  if not dataset:
    for predictor in predictors:
      predictor.data.check_source(source)
  name = dataset or config["dataset"]
  found = _evaluate(
    config, source, name, mesh, predictors, skip_unknown_classes
  )
  steps = [predictor.step for predictor in predictors]
  return found._replace(
    result={
      "dataset": name,
      "split": split,
      "checkpoint": checkpoint,
      "step": steps[0] if len(steps) == 1 else steps,
      "views": views,
      **found.result,
    }
  )


def evaluate_weights(
  path: str,
  *,
  config: Mapping[str, Any] | str | None,
  views: int,
  split: str,
  data_dir: str = "",
  dataset: str = "",
  skip_unknown_classes: bool = False,
) -> Evaluation:
  """Evaluates the weights in a file; the arguments are as `evaluate_runs`'s.

  Classes are matched by name. A file without class names has those of the
  dataset, if there are as many; a thousand of another program's are those of
  ILSVRC-2012.

  Args:
    path: of a file that `weights_file.read` reads.
    config: of its network, as in `Weights.configuration`.
    views, split, data_dir: as of `evaluate_runs`.
    dataset: its name; "": that of the configuration.
    skip_unknown_classes: as of `evaluate_runs`.

  Raises:
    UserError: the file is damaged or does not fit the network, or the dataset
      is missing or has unknown classes.
  """
  weights = weights_file.read(path)
  config = weights.configuration(config)
  source = _open_split(config, split, data_dir, dataset)
  net, data = weights.net(config), weights.run_data(config)
  if not weights.has_class_names(config):
    names = tuple(source.class_names)
    if len(names) == config["num_classes"]:
      data = data._replace(classes=names)
  if data.fingerprint and not dataset:
    data.check_source(source)
  mesh = sharding.make_mesh(towers=config["network"]["towers"])
  net = sharding.place(net, alexnet.param_specs(net), mesh)
  predictor = runs.make_predictor(
    net, data, config, views, mesh, number=weights.step
  )
  name = dataset or config["dataset"]
  found = _evaluate(
    config, source, name, mesh, [predictor], skip_unknown_classes
  )
  return found._replace(
    result={
      "dataset": name,
      "split": split,
      "checkpoint": path,
      "step": weights.step,
      "views": views,
      **found.result,
    }
  )


def _evaluate(
  config: dict[str, Any],
  source: Source,
  dataset: str,
  mesh: Mesh,
  predictors: Sequence[Predictor],
  skip_unknown_classes: bool,
) -> Evaluation:
  if note := job.rescaling_note(config, source):
    print(note, file=sys.stderr)
  networks = [predictor.data.classes for predictor in predictors]
  known = KnownClasses(source, networks, skip_unknown_classes)
  recorder = Recorder(mesh)
  batches = runs.example_batches(
    config, source, mesh, f"evaluating {source.name}"
  )
  found = evaluate(
    [
      known.restrict(predictor, predictor.data.classes, mesh)
      for predictor in predictors
    ],
    pipeline.to_device(known.relabel(batches), sharding.batch_sharding(mesh)),
    mesh,
    len(source),
    config["max_undecodable"],
    left_out=known.left_out,
    observe=recorder.add,
  )
  result = {
    "num_classes": len(known.names),
    "num_left_out": len(known.left_out),
    **found,
  }
  predictions = recorder.predictions()
  classes = ClassErrors(known.names, predictions, dataset)
  count = len(networks[0])
  return Evaluation(result, classes, predictions, count, known.unknown)


def _open_split(
  config: dict[str, Any], split: str, data_dir: str, dataset: str
) -> Source:
  if dataset:
    return sources.open_split(dataset, split, data_dir or config["data_dir"])
  if split not in config["splits"]:
    raise UserError(
      f"--split={split} is not a split of this run; choose one of"
      f" {', '.join(config['splits'])}."
    )
  return runs.open_split(config, split, data_dir)
