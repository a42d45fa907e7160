"""Section 3.4: overlapping pooling (3/2) compared with 2/2.

  python -m experiments.pooling [--quick]

The paper says 0.4 points of top-1 error and 0.3 of top-5, which is near the
spread between the authors' own runs. Their network with 2/2 (#147 of the log)
also changes two paddings. Trains two networks on ImageNet.
"""

from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  assert_same_size,
  first_losses,
)


def check(outcomes: Outcomes, result: dict) -> None:
  """Both end in maps of one size, so the networks are equally large."""
  assert_learned(outcomes)
  assert_same_size(outcomes)
  assert len(set(first_losses(outcomes).values())) == 2


EXPERIMENT = Experiment(
  name="pooling",
  question="What is overlapping pooling worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_overlap", "configs/no_overlap.py"),
  ],
  quick=Quick(check),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
