"""Section 4.1: does the network overfit without random crops and reflections?

  python -m experiments.augmentation [--quick]

"Without this scheme, our network suffers from substantial overfitting, which
would have forced us to use much smaller networks." Compares the gap between
the errors on training and validation images, both measured as in evaluation.
Lighting noise, the other scheme of that section, is on in both runs;
`experiments/lighting.py` turns it off alone. Trains two networks on ImageNet.
"""

from experiments import dropout
from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import (
  Outcomes,
  assert_differ_in_loss_only,
  summary,
)


def measure(outcomes: Outcomes) -> dict:
  """The runs, and their errors on training and on validation images."""
  return {"runs": summary(outcomes), "errors": dropout.errors(outcomes)}


EXPERIMENT = Experiment(
  name="augmentation",
  question="Do random crops and reflections prevent overfitting?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("centre", "configs/no_augmentation.py", {"augmentation.lighting": 0.1}),
  ],
  quick=Quick(assert_differ_in_loss_only),
  analysis=Analysis(measure, dropout.describe),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
