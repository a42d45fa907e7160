"""Section 3.2: two GPUs against one with half the kernels, error and time.

  python -m experiments.two_towers [--quick]

The paper says 1.7 points of top-1 and 1.2 of top-5 error, and that the two-GPU
net takes slightly less time to train. The half net kept conv5 and the fully
connected layers whole (#145-half).
"""

import statistics

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, summary


def measure(outcomes: Outcomes) -> dict:
  """The runs, and each network's median speed."""
  speeds = {
    name: statistics.median(
      [speed for speed in each[0].train("images_per_second") if speed]
    )
    for name, each in outcomes.items()
  }
  return {"runs": summary(outcomes), "images_per_second": speeds}


def check(outcomes: Outcomes, result: dict) -> None:
  """Sizes of the whole networks are the log's, and both took time."""
  learned(outcomes)
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
  check=check,
  measure=measure,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
