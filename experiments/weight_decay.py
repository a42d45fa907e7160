"""Section 5: does weight decay lower the *training* error?

  python -m experiments.weight_decay [--quick]

"This small amount of weight decay was important for the model to learn. In
other words, weight decay here is not merely a regularizer: it reduces the
model's training error." Compares the source's recipe with the same without
decay; the training error is that of the final network in evaluation mode.
Trains two networks on ImageNet for each of five seeds.
"""

import numpy as np

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import (
  Contrast,
  difference,
  error_on_training_images,
)
from experiments.common.experiment import Experiment, Quick
from experiments.common.outcome import Outcomes, assert_learned, load_net


def check(outcomes: Outcomes, result: dict) -> None:
  """With decay the weights are shorter, by at most one percent."""
  assert_learned(outcomes)
  lengths = {}
  for name in ("source", "no_decay"):
    net = load_net(outcomes[name][0])
    kernel = np.asarray(net.towers.fc7.kernel[...], np.float64)
    lengths[name] = np.linalg.norm(kernel)
  assert 0.99 * lengths["no_decay"] < lengths["source"] < lengths["no_decay"]


EXPERIMENT = Experiment(
  name="weight_decay",
  question="Does weight decay lower the training error?",
  runs=[SOURCE, source("no_decay", {"optimizer.weight_decay": 0.0})],
  contrasts=[
    Contrast(
      "decay minus none, training error",
      difference("source", "no_decay"),
      claimed="less",
      margin=1.0,
      measure=error_on_training_images,
      primary=True,
    ),
    Contrast(
      "decay minus none, test error",
      difference("source", "no_decay"),
      claimed="less",
      margin=1.0,
    ),
  ],
  quick=Quick(check),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
