"""Section 5: does an L1 penalty do what weight decay does?

  python -m experiments.l1 [--quick]

The paper's decay pulls a weight to 0 in proportion to its size, and "reduces
the model's training error". An L1 penalty pulls every weight alike; with 2e-5
it pulls a weight of .04 as decay with 5e-4 does. Compares it with decay and
with neither. Trains three networks on ImageNet for each of five seeds.
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

NO_DECAY = {"optimizer.weight_decay": 0.0}


def check(outcomes: Outcomes, result: dict) -> None:
  """With the penalty weights are smaller, by at most one percent."""
  assert_learned(outcomes)
  sizes = {}
  for name in ("l1", "no_decay"):
    net = load_net(outcomes[name][0])
    sizes[name] = np.abs(np.asarray(net.towers.fc7.kernel[...])).mean()
  assert 0.99 * sizes["no_decay"] < sizes["l1"] < sizes["no_decay"]


EXPERIMENT = Experiment(
  name="l1",
  question="Does an L1 penalty do what weight decay does?",
  runs=[
    SOURCE,
    source("no_decay", NO_DECAY),  # as in experiments/weight_decay.py
    source("l1", NO_DECAY | {"optimizer.l1": 2e-5}),
  ],
  contrasts=[
    Contrast(
      "L1 minus decay, test error",
      difference("l1", "source"),
      claimed=None,
      margin=1.0,
    ),
    Contrast(
      "L1 minus none, test error",
      difference("l1", "no_decay"),
      claimed=None,
      margin=1.0,
    ),
    Contrast(
      "L1 minus none, training error",
      difference("l1", "no_decay"),
      claimed=None,
      margin=1.0,
      measure=error_on_training_images,
    ),
  ],
  quick=Quick(check),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
