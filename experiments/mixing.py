"""The authors' later net #170: do mixtures of two images help?

  python -m experiments.mixing [--quick]

Not in the paper. A note in the 2012 source says that one image in twenty was
"faded in": .75 of itself and .25 of another one, with its own label. With ten
views its top-1 error was 40.25%, without 40.53% (one run each). Compares that
share and one image in two with none. Trains three networks on ImageNet for each
of five seeds.
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
  name="mixing",
  question="Do mixtures of two training images help?",
  runs=[
    SOURCE,
    source("mixed", {"augmentation.mixing": 0.05}),
    source("mixed_half", {"augmentation.mixing": 0.5}),
  ],
  contrasts=[
    Contrast(
      "5% mixed minus none",
      difference("mixed", "source"),
      claimed=None,
      margin=0.5,
    ),
    Contrast(
      "half mixed minus none",
      difference("mixed_half", "source"),
      claimed=None,
      margin=1.0,
    ),
    Contrast(
      "half mixed minus none, gap",
      difference("mixed_half", "source"),
      claimed=None,
      margin=1.0,
      measure=generalisation_gap,
    ),
  ],
  quick=Quick(assert_differ_in_loss_only, runs=("source", "mixed_half")),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
