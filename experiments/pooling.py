"""Section 3.4: overlapping pooling (3/2) compared with 2/2.

  python -m experiments.pooling [--quick]

The paper says .4 points of top-1 error, from single runs of the authors: so
small a difference needs about thirty seeds, and this experiment asks only
whether the two are equivalent within half a point. `no_overlap` has #147's
paddings, so that all maps keep about their sizes; `padded_as_before` has the
text's paddings and larger maps. Compares test errors, and the gap between test
and training images ("slightly more difficult to overfit"). Trains three
networks on ImageNet for each of five seeds.
"""

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import (
  Contrast,
  difference,
  generalisation_gap,
)
from experiments.common.experiment import Experiment, Quick
from experiments.common.outcome import assert_differ_in_loss_only

EXPERIMENT = Experiment(
  name="pooling",
  question="Are overlapping and separate pooling windows equivalent?",
  runs=[
    SOURCE,
    source("no_overlap", config="configs/no_overlap_147.py"),
    source(
      "padded_as_before",
      {"network.pool_size": 2, "network.pool_stride": 2},
    ),
  ],
  contrasts=[
    Contrast(
      "overlap minus none",
      difference("source", "no_overlap"),
      claimed=0.0,
      margin=0.5,
      primary=True,
    ),
    Contrast(
      "overlap minus none, gap",
      difference("source", "no_overlap"),
      claimed=-0.4,
      margin=0.5,
      measure=generalisation_gap,
    ),
    Contrast(
      "overlap minus none with larger maps",
      difference("source", "padded_as_before"),
      claimed=None,
      margin=0.5,
    ),
  ],
  quick=Quick(assert_differ_in_loss_only, runs=("source", "no_overlap")),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
