"""Section 4.1: what is lighting noise worth?

  python -m experiments.lighting [--quick]

The paper says over one point of top-1 error; the log holds no such run.
"""

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned


def check(outcomes: Outcomes, result: dict) -> None:
  """The same crops, other light: losses near each other, and not the same."""
  learned(outcomes)
  first = [each[0].train("loss")[0] for each in outcomes.values()]
  assert 0 < abs(first[0] - first[1]) < 0.5


EXPERIMENT = Experiment(
  name="lighting",
  question="What is noise along the principal components of RGB worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_lighting", "configs/no_lighting.py"),
  ],
  check=check,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
