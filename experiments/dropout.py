"""Section 4.2: what dropout prevents, and what it costs.

  python -m experiments.dropout [--quick]

Without it the paper's network "exhibits substantial overfitting": training
error falls and validation error does not follow. And it "roughly doubles the
number of iterations required to converge": here, those until the training error
is first as low as the other's at half its time.
"""

import statistics

from experiments import frame
from experiments.frame import Experiment, Outcome, Outcomes, Run


def overfitting(outcome: Outcome) -> float:
  """Validation less training error at the end, in fractions."""
  return outcome.last("top1_error") - outcome.final("top1_error")


def iterations_ratio(outcomes: Outcomes) -> float | None:
  """Steps with dropout over steps without, to one training loss.

  The loss that the run without has in the middle, smoothed over a tenth of the
  run; None if the run with dropout never gets there.
  """

  def smoothed(outcome):
    losses = outcome.train("loss")
    width = max(1, len(losses) // 10)
    ends = range(width, len(losses) + 1)
    return [statistics.fmean(losses[e - width : e]) for e in ends]

  without = smoothed(outcomes["no_dropout"][0])
  half = len(without) // 2
  for count, loss in enumerate(smoothed(outcomes["paper"][0])):
    if loss <= without[half]:
      return count / max(half, 1)
  return None


def measure(outcomes: Outcomes) -> dict:
  """The runs, their overfitting, and what dropout costs."""
  return {
    "runs": frame.summary(outcomes),
    "overfitting": {
      name: [overfitting(one) for one in each]
      for name, each in outcomes.items()
    },
    "iterations_ratio": iterations_ratio(outcomes),
  }


def check(outcomes: Outcomes, result: dict) -> None:
  """All units at work spread the first scores more than every other one."""
  frame.learned(outcomes)
  first = {name: each[0].train("loss")[0] for name, each in outcomes.items()}
  assert first["no_dropout"] > first["paper"]
  sizes = {frame.parameters(each[0]) for each in outcomes.values()}
  assert len(sizes) == 1
  assert set(result) == {"runs", "overfitting", "iterations_ratio"}


EXPERIMENT = Experiment(
  name="dropout",
  question="Does dropout prevent overfitting, and what does it cost?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_dropout", "configs/no_dropout.py"),
  ],
  check=check,
  measure=measure,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
