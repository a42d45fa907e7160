"""Section 4.2: what does dropout prevent, and what does it cost?

  python -m experiments.dropout [--quick]

"Without dropout, our network exhibits substantial overfitting. Dropout roughly
doubles the number of iterations required to converge." A layer that reads units
without dropout receives twice as much, so removing the step changes more than
the noise. The control is `mean`: fc6 and fc7 are halved, in training too. That
is the network without the step whose fc7 and fc8 have half the initial
deviation, a quarter of the rate and four times the decay. `none` removes the
step and nothing else. Both budgets are compared, the usual number of epochs and
twice that. If dropout doubles the iterations, it reaches with twice the budget
the training error (in evaluation mode) that `mean` has with one. Trains five
networks on ImageNet for each of five seeds.
"""

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import (
  Contrast,
  difference,
  error_on_training_images,
  generalisation_gap,
)
from experiments.common.experiment import Experiment, Quick
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  assert_same_size,
  first_losses,
)

MEAN = {
  f"network.{name}.then": ("relu", "dropout_mean") for name in ("fc6", "fc7")
}
NONE = {f"network.{name}.then": ("relu",) for name in ("fc6", "fc7")}


def check(outcomes: Outcomes, result: dict) -> None:
  """Without dropout all units add to the first scores, which spread more."""
  assert_learned(outcomes)
  assert_same_size(outcomes)
  first = first_losses(outcomes)
  assert first["none"] > max(first["source"], first["mean"])
  for repeats in outcomes.values():  # the last line is in evaluation mode too
    (outcome,) = repeats
    found = outcome.evaluation("validation")
    assert abs(found.loss - outcome.last("loss")) < 1e-3 * found.loss
    assert found.top1_error == outcome.last("top1_error")


EXPERIMENT = Experiment(
  name="dropout",
  question="Does dropout prevent overfitting, and what does it cost?",
  runs=[
    SOURCE,
    source("mean", MEAN),
    source("none", NONE),
    source("source-2x", length=2),
    source("mean-2x", MEAN, length=2),
  ],
  contrasts=[
    Contrast(
      "dropout minus its mean",
      difference("source", "mean"),
      claimed="less",
      margin=1.0,
    ),
    Contrast(
      "dropout minus its mean, twice the budget",
      difference("source-2x", "mean-2x"),
      claimed="less",
      margin=1.0,
      primary=True,
    ),
    Contrast(
      "dropout minus its mean, twice the budget, gap",
      difference("source-2x", "mean-2x"),
      claimed="less",
      margin=1.0,
      measure=generalisation_gap,
    ),
    Contrast(
      "dropout with twice the budget minus its mean, training error",
      difference("source-2x", "mean"),
      claimed=0.0,
      margin=2.0,
      measure=error_on_training_images,
    ),
    Contrast(
      "dropout minus none",
      difference("source", "none"),
      claimed="less",
      margin=1.0,
    ),
  ],
  quick=Quick(check, runs=("source", "mean", "none")),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
