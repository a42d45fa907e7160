"""Section 4.2: what does dropout prevent, and what does it cost?

  python -m experiments.dropout [--quick]

"Without dropout, our network exhibits substantial overfitting": compared are
the errors on training and validation images, both measured as in evaluation.
"Dropout roughly doubles the number of iterations required to converge":
compared are the iterations until the smoothed training loss reaches the value
that the run without dropout has after a quarter of its steps.

A layer that reads units without dropout receives twice as much, so the run
`no_dropout` learns at half the rate; that is a second treatment, for all
layers. The run `same_rate` keeps the paper's rate and ends if all units of fc7
are dead, that is zero for every image. Trains three networks on ImageNet.
"""

from collections.abc import Sequence

from alexnet_jax.training.run_evaluation import evaluate_runs
from experiments.common import frame
from experiments.common.curves import running_mean
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import (
  Outcome,
  Outcomes,
  assert_learned,
  assert_same_size,
  first_losses,
  summary,
)

SPLITS = ("train", "validation")
HALF_THE_RATE = {
  "schedule.learning_rate": 0.005,
  "schedule.bias_learning_rate": 0.005,
}


def _top1_error(workdir: str, split: str) -> float:
  return evaluate_runs([workdir], views=1, split=split).result["top1_error"]


def errors(outcomes: Outcomes) -> dict:
  """By run and split: each seed's top-1 error at the end, centre view.

  Both splits are evaluated without dropout and without random crops. The
  training lines of metrics.jsonl have both, so they do not tell how well the
  network fits the training images.
  """
  return {
    name: {
      split: [_top1_error(outcome.workdir, split) for outcome in repeats]
      for split in SPLITS
    }
    for name, repeats in outcomes.items()
  }


def iterations_ratio(
  without: Sequence[float], dropped: Sequence[float]
) -> float | None:
  """Steps with dropout over steps without, to the same training loss.

  That loss is the one of the run without dropout after a quarter of its steps.
  Losses are running means over a tenth of the run, counted at the middle of
  their window.

  Args:
    without: losses of the training lines without dropout.
    dropped: the same with dropout.

  Returns:
    The ratio; None if the run with dropout never reaches the loss.
  """
  window = max(1, len(without) // 10)
  half = (window - 1) / 2
  quarter = max(len(without) // 4, window)
  bound = running_mean(without, window)[quarter - window]
  for end, loss in enumerate(running_mean(dropped, window), window):
    if loss <= bound:
      return (end - half) / (quarter - half)
  return None


def dead_by(outcome: Outcome) -> int | None:
  """The first logged step at which all units of fc7 are dead, or None."""
  for line in outcome.lines:
    if line.get("dead_fc7") == 1:
      return line["step"]
  return None


def measure(outcomes: Outcomes) -> dict:
  """The runs, their errors on both splits, deaths, and ratios by seed."""
  return {
    "runs": summary(outcomes),
    "errors": errors(outcomes),
    "dead_by_step": {
      name: [dead_by(outcome) for outcome in repeats]
      for name, repeats in outcomes.items()
    },
    "iterations_ratios": [
      iterations_ratio(without.train("loss"), dropped.train("loss"))
      for without, dropped in zip(
        outcomes["no_dropout"], outcomes["paper"], strict=True
      )
    ],
  }


def describe(result: dict) -> str:
  """Each seed's errors of each run on both splits, and dropout's cost."""
  parts = []
  for name, splits in result["errors"].items():
    train, validation = (
      ", ".join(f"{error:.1%}" for error in splits[split]) for split in SPLITS
    )
    parts.append(
      f"{name}: top-1 error {train} on training images, {validation} on"
      " validation images"
    )
  if "iterations_ratios" in result:
    parts.append(describe_cost(result["iterations_ratios"]))
  return "; ".join(parts)


def describe_cost(ratios: Sequence[float | None]) -> str:
  """The ratio of iterations of each seed."""
  times = ", ".join(f"{ratio:.1f}" if ratio else "never" for ratio in ratios)
  return f"with dropout {times} times the iterations, paper 2"


def check(outcomes: Outcomes, result: dict) -> None:
  """Without dropout all units add to the first scores, which spread more."""
  assert_learned(outcomes)
  assert_same_size(outcomes)
  first = first_losses(outcomes)
  assert first["no_dropout"] > first["paper"]
  for name, found in result["errors"].items():
    assert found["validation"] == [outcomes[name][0].last("top1_error")]
    assert found["train"] != found["validation"]


EXPERIMENT = Experiment(
  name="dropout",
  question="Does dropout prevent overfitting, and what does it cost?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_dropout", "configs/no_dropout.py", HALF_THE_RATE),
    Run("same_rate", "configs/no_dropout.py"),
  ],
  quick=Quick(check, runs=("paper", "no_dropout")),
  analysis=Analysis(measure, describe),
  stop_early=lambda outcome: dead_by(outcome) is not None,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
