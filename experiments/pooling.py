"""Section 3.4: overlapping pooling (3/2) compared with 2/2.

  python -m experiments.pooling [--quick]

The paper says 0.4 points of top-1 error and 0.3 of top-5, the difference
between single runs of the authors. Their network with 2/2 (#147 of the log)
also changes two paddings. Both poolings end in maps of the same size. Trains
two networks on ImageNet.
"""

from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import assert_differ_in_loss_only

EXPERIMENT = Experiment(
  name="pooling",
  question="What is overlapping pooling worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_overlap", "configs/no_overlap.py"),
  ],
  quick=Quick(assert_differ_in_loss_only),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
