"""Section 4.2: what dropout prevents, and what it costs.

  python -m experiments.dropout [--quick]

Without it the paper's network "exhibits substantial overfitting": training
error falls and validation error does not follow. And it "roughly doubles the
number of iterations required to converge": here, those until the smoothed
training loss is first as low as the other's at a quarter of its time.

What reads a layer that is no longer dropped receives twice as much, so the run
without learns at half the rate. A third run does so at the paper's, and ends
when all units of fc7 are dead, zero for every image.
"""

import statistics
from collections.abc import Sequence

from alexnet_jax.training.runs import evaluate_runs
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcome, Outcomes, learned, parameters, summary

SPLITS = ("train", "validation")
HALF_THE_RATE = {
  "schedule.learning_rate": 0.005,
  "schedule.bias_learning_rate": 0.005,
}


def errors(outcomes: Outcomes) -> dict:
  """By run and split: each seed's top-1 error at the end, centre view.

  Both as in evaluation. What training itself reports is of batches with dropout
  and random crops: no measure of how well the training images are known.
  """
  return {
    name: {
      split: [
        evaluate_runs([one.workdir], views=1, split=split)["top1_error"]
        for one in each
      ]
      for split in SPLITS
    }
    for name, each in outcomes.items()
  }


def words(result: dict) -> str:
  """Each seed's errors of each run on both splits, and what dropout costs."""
  said = []
  for name, each in result["errors"].items():
    train, validation = (
      ", ".join(f"{error:.1%}" for error in each[split]) for split in SPLITS
    )
    said.append(
      f"{name}: top-1 error {train} on training images, {validation} on"
      " validation images"
    )
  if "iterations_ratios" in result:
    said.append(cost(result["iterations_ratios"]))
  return "; ".join(said)


def cost(ratios: Sequence[float | None]) -> str:
  """Of dropout in iterations, of each seed."""
  times = ", ".join(f"{ratio:.1f}" if ratio else "never" for ratio in ratios)
  return f"with dropout {times} times the iterations, paper 2"


def iterations_ratio(
  losses: Sequence[float], others: Sequence[float]
) -> float | None:
  """Steps with dropout over steps without, to one training loss.

  The loss that the run without has after a quarter of its steps, smoothed over
  a tenth of the run.

  Args:
    losses: of the training lines without dropout.
    others: of those with it.

  Returns:
    The ratio; None if the run with dropout never gets there.
  """
  width = max(1, len(losses) // 10)

  def smoothed(values, end):
    return statistics.fmean(values[end - width : end])

  quarter = max(len(losses) // 4, width)
  bound = smoothed(losses, quarter)
  for end in range(width, len(others) + 1):
    if smoothed(others, end) <= bound:
      middle = (width - 1) / 2  # of the window, back from its end
      return (end - middle) / (quarter - middle)
  return None


def dead_by(outcome: Outcome) -> int | None:
  """The first step known to have left fc7 without a living unit."""
  for line in outcome.lines:
    if line.get("dead_fc7") == 1:
      return line["step"]
  return None


def measure(outcomes: Outcomes) -> dict:
  """The runs, their errors on both splits, deaths, and what dropout costs."""
  return {
    "runs": summary(outcomes),
    "errors": errors(outcomes),
    "dead_by_step": {
      name: [dead_by(one) for one in each] for name, each in outcomes.items()
    },
    "iterations_ratios": [
      iterations_ratio(without.train("loss"), dropped.train("loss"))
      for without, dropped in zip(
        outcomes["no_dropout"], outcomes["paper"], strict=True
      )
    ],
  }


def check(outcomes: Outcomes, result: dict) -> None:
  """All units at work spread the first scores more than every other one."""
  learned(outcomes)
  first = {name: each[0].train("loss")[0] for name, each in outcomes.items()}
  assert first["no_dropout"] > first["paper"]
  sizes = {parameters(each[0]) for each in outcomes.values()}
  assert len(sizes) == 1
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
  quick_runs=["paper", "no_dropout"],
  enough=lambda outcome: dead_by(outcome) is not None,
  check=check,
  measure=measure,
  words=words,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
