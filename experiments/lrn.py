"""Section 3.3: what is response normalisation worth on ImageNet?

  python -m experiments.lrn [--quick]

The paper says 1.4 points of top-1 error and 1.2 of top-5. The authors' network
without normalisation (#148 of their log) follows the released source's recipe
and also lacks a third norm that only the source has; it is a run of its own
here. Trains three networks on ImageNet.
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
  """Norms have no parameters, and each configuration gives another loss."""
  assert_learned(outcomes)
  assert_same_size(outcomes)
  assert len(set(first_losses(outcomes).values())) == len(outcomes)


EXPERIMENT = Experiment(
  name="lrn",
  question="What is response normalisation worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_lrn", "configs/no_lrn.py"),
    Run("no_norms_148", "configs/no_norms_148.py"),
  ],
  quick=Quick(check),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
