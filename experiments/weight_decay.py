"""Section 5: does weight decay lower the *training* error?

  python -m experiments.weight_decay [--quick]

"This small amount of weight decay was important for the model to learn. In
other words, weight decay here is not merely a regularizer: it reduces the
model's training error." Compares the paper's configuration with the same
without decay. Trains two networks on ImageNet.
"""

import numpy as np

from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned, load_net


def check(outcomes: Outcomes, result: dict) -> None:
  """With decay the weights are shorter, by at most one percent."""
  assert_learned(outcomes)
  lengths = {}
  for name in ("paper", "no_decay"):
    net = load_net(outcomes[name][0])
    kernel = np.asarray(net.towers.fc7.kernel[...], np.float64)
    lengths[name] = np.linalg.norm(kernel)
  assert 0.99 * lengths["no_decay"] < lengths["paper"] < lengths["no_decay"]


EXPERIMENT = Experiment(
  name="weight_decay",
  question="Does weight decay lower the training error?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_decay", "configs/paper.py", {"optimizer.weight_decay": 0.0}),
  ],
  quick=Quick(check),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
