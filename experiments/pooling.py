"""Section 3.4: overlapping pooling (3/2) against 2/2.

  python -m experiments.pooling [--quick]

The paper says 0.4 points of top-1 error and 0.3 of top-5, near the spread
between its own runs. Net #147 of the log changes two paddings as well.
"""

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, parameters


def check(outcomes: Outcomes, result: dict) -> None:
  """Both end in maps of one size, so the networks are equally large."""
  learned(outcomes)
  sizes = {parameters(each[0]) for each in outcomes.values()}
  first = {each[0].train("loss")[0] for each in outcomes.values()}
  assert len(sizes) == 1 and len(first) == 2


EXPERIMENT = Experiment(
  name="pooling",
  question="What is overlapping pooling worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_overlap", "configs/no_overlap.py"),
  ],
  check=check,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
