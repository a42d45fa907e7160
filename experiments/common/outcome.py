"""The outcome of a run, and what most experiments compute from outcomes."""

import json
import pathlib
import statistics
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from alexnet_jax.model import network as networks
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.sharding import make_mesh
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs as stored_runs
from alexnet_jax.training import step
from experiments.common.curves import running_mean
from experiments.common.evaluations import Evaluation, evaluate

# Written to the workdir of a finished run.
OUTCOME = "outcome.json"
# Written to the workdir of a run whose parameters became non-finite.
DIVERGED = "diverged.json"
# A network with an error above 1 - GUESSING / classes has learned nothing.
GUESSING = 1.5


class Outcome(NamedTuple):
  """What one run with one seed has written so far.

  Attributes:
    name, seed, workdir: of the run.
    config: of the run, as in its config.json.
    lines: of its metrics.jsonl.
  """

  name: str
  seed: int
  workdir: str
  config: dict[str, Any]
  lines: list[dict[str, Any]]

  def train(self, key: str) -> list[float]:
    """One number of every training line."""
    return [line[key] for line in self.lines if line["split"] == "train"]

  def validation(self, key: str) -> list[float]:
    """One number of every validation line."""
    return [line[key] for line in self.lines if line["split"] == "validation"]

  def last(self, key: str) -> float:
    """One number of the last validation line."""
    return self.validation(key)[-1]

  def final(self, key: str) -> float:
    """The mean of one number over the last tenth of the training lines."""
    values = self.train(key)
    return statistics.fmean(values[-max(1, len(values) // 10) :])

  def evaluation(self, split: str) -> Evaluation:
    """Every prediction for a split, after the last step."""
    return evaluate(self.workdir, split, self.lines[-1]["step"])

  def wrong(self, split: str) -> np.ndarray | None:
    """Whether each prediction is wrong, bool[N]; None if the run diverged."""
    return None if self.diverged else self.evaluation(split).wrong

  def error(self, split: str) -> float:
    """The top-1 error in evaluation mode; that of guessing if it diverged."""
    if self.diverged:
      return 1 - 1 / self.config["num_classes"]
    return self.evaluation(split).top1_error

  @property
  def validation_error(self) -> float:
    """The last top-1 error on the validation images or the holdout."""
    if self.diverged:
      return 1 - 1 / self.config["num_classes"]
    return self.last("top1_error")

  @property
  def diverged(self) -> dict[str, Any] | None:
    """At which step parameters became non-finite, and the message, or None."""
    path = pathlib.Path(self.workdir, DIVERGED)
    return json.loads(path.read_text()) if path.exists() else None

  @property
  def died(self) -> bool:
    """Whether the run diverged, or knows its training images by chance only."""
    chance = 1 - GUESSING / self.config["num_classes"]
    return bool(self.diverged) or self.error("train") > chance


class Outcomes(dict[str, list[Outcome]]):
  """The outcomes of an experiment: by name of the run, one for each seed."""

  def __missing__(self, name: str) -> list[Outcome]:
    raise UserError(
      f"The result needs the run {name!r}, which was not carried out. Give the"
      " same command without --runs; runs that are finished are kept."
    )


def summary(outcomes: Outcomes) -> dict[str, Any]:
  """The last errors of every run: mean over the seeds, and each.

  Seeds whose run diverged are named and have no errors.
  """
  numbers = {
    "validation_top1_error": lambda outcome: outcome.last("top1_error"),
    "validation_top5_error": lambda outcome: outcome.last("top5_error"),
    "train_top1_error": lambda outcome: outcome.final("top1_error"),
    "train_loss": lambda outcome: outcome.final("loss"),
  }
  result = {}
  for name, all_repeats in outcomes.items():
    repeats = [outcome for outcome in all_repeats if not outcome.diverged]
    result[name] = {"seeds": [outcome.seed for outcome in repeats]}
    if diverged := [o.seed for o in all_repeats if o.diverged]:
      result[name]["diverged"] = diverged
    if not repeats:
      continue
    for key, number in numbers.items():
      values = [number(outcome) for outcome in repeats]
      result[name][key] = {"mean": statistics.fmean(values), "each": values}
  return result


def describe_errors(result: dict[str, Any]) -> str:
  """The errors of a `summary`, or of a result with one under "runs"."""
  runs = result.get("runs", result)
  return "; ".join(
    f"{name}: validation top-1 error"
    f" {values['validation_top1_error']['mean']:.1%}, training"
    f" {values['train_top1_error']['mean']:.1%}"
    for name, values in runs.items()
  )


def draw_curves(outcomes: Outcomes, axes) -> None:
  """Errors by epoch, one colour a run.

  Validation images: each seed. Training batches (thin): the mean over the seeds
  and over a tenth of the training.
  """
  for number, (name, repeats) in enumerate(outcomes.items()):
    colour = f"C{number}"
    for outcome in repeats:
      axes.plot(
        outcome.validation("epoch"),
        outcome.validation("top1_error"),
        color=colour,
        label=name if outcome is repeats[0] else None,
      )
    epochs = repeats[0].train("epoch")
    errors = [outcome.train("top1_error") for outcome in repeats]
    means = [statistics.fmean(each) for each in zip(*errors, strict=False)]
    window = max(1, len(means) // 10)
    smooth = running_mean(means, window)
    ends = epochs[window - 1 : window - 1 + len(smooth)]
    axes.plot(ends, smooth, color=colour, linewidth=0.6)
  axes.set(xlabel="epoch", ylabel="top-1 error (thin: training batches)")
  axes.legend()


def assert_learned(outcomes: Outcomes, result: Any = None) -> None:
  """Every run's loss is finite and ends below its maximum.

  The least that `Quick.check` should assert; the result is not used.
  """
  for repeats in outcomes.values():
    for outcome in repeats:
      losses = outcome.train("loss")
      assert np.isfinite(losses).all(), outcome.name
      assert outcome.final("loss") < max(losses), outcome.name


def assert_differ_in_loss_only(outcomes: Outcomes, result: Any = None) -> None:
  """All runs learn, have equally large networks, and differ in the first loss.

  A check for a change without parameters; the result is not used.
  """
  assert_learned(outcomes)
  assert_same_size(outcomes)
  assert len(set(first_losses(outcomes).values())) == len(outcomes)


def assert_same_size(outcomes: Outcomes) -> None:
  """All runs have networks of equally many parameters."""
  sizes = {count_parameters(repeats[0]) for repeats in outcomes.values()}
  assert len(sizes) == 1


def first_losses(outcomes: Outcomes) -> dict[str, float]:
  """The loss of the first step of each run, first seed."""
  return {
    name: repeats[0].train("loss")[0] for name, repeats in outcomes.items()
  }


def count_parameters(outcome: Outcome) -> int:
  """Parameters of a run's network."""
  config = outcome.config
  net = networks.from_dict(config["network"], config["num_classes"])
  shapes = jax.eval_shape(lambda: AlexNet(net, jax.random.key(0)))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def load_net(outcome: Outcome) -> AlexNet:
  """The trained network of a run, on one device."""
  mesh = make_mesh(1, 1, towers=outcome.config["network"]["towers"])
  return stored_runs.load_state(outcome.workdir, mesh)[0].net


def initial_net(outcome: Outcome) -> AlexNet:
  """The network of a run before its training: the seed gives its weights."""
  config = outcome.config
  network = networks.from_dict(config["network"], config["num_classes"])
  mesh = make_mesh(1, 1, towers=network.towers)
  return step.init_state(network, optax.identity(), config["seed"], mesh).net
