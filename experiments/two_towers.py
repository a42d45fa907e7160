"""Section 3.2: two GPUs compared with one GPU and half the kernels.

  python -m experiments.two_towers [--quick]

The paper says 1.7 points of top-1 and 1.2 of top-5 error, and that the two-GPU
network takes slightly less time to train. The half network keeps conv5 and the
fully connected layers whole (#145-half of the authors' log). Compares errors
and images per second. Trains two networks on ImageNet.
"""

import statistics

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned, summary


def measure(outcomes: Outcomes) -> dict:
  """The runs, and each network's median speed in images per second."""
  speeds = {
    name: statistics.median(
      [speed for speed in repeats[0].train("images_per_second") if speed]
    )
    for name, repeats in outcomes.items()
  }
  return {"runs": summary(outcomes), "images_per_second": speeds}


def check(outcomes: Outcomes, result: dict) -> None:
  """At full size the networks are as large as in the authors' log."""
  assert_learned(outcomes)
  assert set(result["images_per_second"]) == {"paper", "half"}
  assert min(result["images_per_second"].values()) > 0
  for run, size in zip(EXPERIMENT.runs, (60_965_224, 59_798_312), strict=True):
    sizes = comparison.sizes(configs.load(run.config))
    assert sizes["size.parameters"] == size


EXPERIMENT = Experiment(
  name="two_towers",
  question="What are two towers worth, in error and in time?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("half", "configs/half.py"),
  ],
  quick=Quick(check),
  analysis=Analysis(measure),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
