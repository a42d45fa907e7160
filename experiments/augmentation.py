"""Section 4.1: crops and reflections, lighting noise, and strong colour noise.

  python -m experiments.augmentation [--quick]

"Without this scheme, our network suffers from substantial overfitting", of
crops and reflections; lighting noise "reduces the top-1 error rate by over 1%".
Compares all four combinations of the two, and random brightness, contrast and
saturation in addition to both. `no_crops` trains on the centre of each image,
never mirrored. Trains five networks on ImageNet for each of five seeds.
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

NO_CROPS = {"augmentation.crop": False, "augmentation.flip": False}
NO_LIGHTING = {
  "augmentation.lighting": 0.0,
  "augmentation.lighting_divisor": 1.0,
  "augmentation.lighting_until": 0.0,
}
STRONG_COLOUR = {"augmentation.colour": 0.4}

EXPERIMENT = Experiment(
  name="augmentation",
  question="What are crops and reflections, lighting and colour noise worth?",
  runs=[
    SOURCE,
    source("no_crops", NO_CROPS),
    source("no_lighting", NO_LIGHTING),
    source("neither", NO_CROPS | NO_LIGHTING),
    source("strong_colour", STRONG_COLOUR),
  ],
  contrasts=[
    Contrast(
      "crops, test error",
      difference("source", "no_crops"),
      claimed="less",
      margin=1.0,
      primary=True,
    ),
    Contrast(
      "crops, gap",
      difference("source", "no_crops"),
      claimed="less",
      margin=1.0,
      measure=generalisation_gap,
    ),
    Contrast(
      "lighting, test error",
      difference("source", "no_lighting"),
      claimed=-1.0,
      margin=0.5,
      primary=True,
    ),
    Contrast(
      "lighting's effect with crops minus without",
      {"source": 1.0, "no_lighting": -1.0, "no_crops": -1.0, "neither": 1.0},
      claimed=None,
      margin=1.0,
    ),
    Contrast(
      "strong colour in addition",
      difference("strong_colour", "source"),
      claimed=None,
      margin=1.0,
    ),
  ],
  quick=Quick(
    assert_differ_in_loss_only, runs=("source", "neither", "strong_colour")
  ),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
