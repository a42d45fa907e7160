"""Section 3.3: what is response normalisation worth on ImageNet?

  python -m experiments.lrn [--quick]

The paper says 1.4 points of top-1 error and 1.2 of top-5. The authors' network
without normalisation (#148 of their log) follows the released source's recipe
and also lacks a third norm that only the source has; it is a run of its own
here. Trains three networks on ImageNet.
"""

from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import assert_differ_in_loss_only

EXPERIMENT = Experiment(
  name="lrn",
  question="What is response normalisation worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_lrn", "configs/no_lrn.py"),
    Run("no_norms_148", "configs/no_norms_148.py"),
  ],
  quick=Quick(assert_differ_in_loss_only),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
