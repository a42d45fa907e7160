"""Section 3.2: two GPUs compared with one GPU and half the kernels.

  python -m experiments.two_towers [--quick]

The paper says 1.7 points of top-1 error, and that the two-GPU network takes
slightly less time. `half` keeps conv5 and the fully connected layers whole, as
#145-half. `dense` is one tower whose layers read all maps, narrowed to the same
number of multiply-adds (`dense_eighth`: the same number if all networks have an
eighth of the width, where conv1 has more of them); `columns_apart` (#150)
exchanges nothing before the class scores. Compares test errors and images per
second; `python -m alexnet_jax.describe` has parameters and multiply-adds.
Trains five
networks on ImageNet for each of five seeds.
"""

import statistics

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import Contrast, difference
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned, summary

# The maps and units of both towers together.
SIZES = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
SIZES |= {"fc6": 4096, "fc7": 4096}
MARGIN = 1.0


def dense(name: str, share: float) -> Run:
  """One tower whose layers have a share of all maps and read all maps."""
  changes = {"network.towers": 1, "network.exchanges": ()}
  for layer, size in SIZES.items():
    changes[f"network.{layer}.features"] = round(share * size)
  return source(name, changes)


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
  assert set(result["images_per_second"]) == {"source", "half"}
  assert min(result["images_per_second"].values()) > 0
  for run, size in zip(
    EXPERIMENT.runs[:2], (60_965_224, 59_798_312), strict=True
  ):
    counted = comparison.sizes(configs.load(run.config))
    assert counted["size.parameters"] == size


EXPERIMENT = Experiment(
  name="two_towers",
  question="What are two towers worth, in error and in time?",
  runs=[
    SOURCE,
    source("half", config="configs/half_145.py"),
    dense("dense", 0.788),
    dense("dense_eighth", 0.88),
    source("columns_apart", config="configs/columns_apart_150.py"),
  ],
  contrasts=[
    Contrast(
      "two towers minus half",
      difference("source", "half"),
      claimed=-1.7,
      margin=MARGIN,
      primary=True,
    ),
    *(
      Contrast(
        f"{name} minus two towers, same multiply-adds",
        difference(name, "source"),
        claimed=None,
        margin=MARGIN,
      )
      for name in ("dense", "dense_eighth")
    ),
    Contrast(
      "columns apart minus two towers",
      difference("columns_apart", "source"),
      claimed=None,
      margin=MARGIN,
    ),
  ],
  quick=Quick(check, runs=("source", "half")),
  analysis=Analysis(measure),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
