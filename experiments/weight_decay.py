"""Section 5: does weight decay lower the *training* error?

  python -m experiments.weight_decay [--quick]

"This small amount of weight decay was important for the model to learn. In
other words, weight decay here is not merely a regularizer: it reduces the
model's training error."
"""

import numpy as np

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, load_net


def check(outcomes: Outcomes, result: dict) -> None:
  """Decayed weights are shorter, by about the product of the decays."""
  learned(outcomes)
  lengths = {}
  for name in ("paper", "no_decay"):
    net = load_net(outcomes[name][0])
    kernel = np.asarray(net.towers.fc7.kernel[...], np.float64)
    lengths[name] = np.linalg.norm(kernel)
  assert lengths["paper"] < lengths["no_decay"]
  assert lengths["paper"] > 0.99 * lengths["no_decay"]


EXPERIMENT = Experiment(
  name="weight_decay",
  question="Does weight decay lower the training error?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_decay", "configs/paper.py", {"optimizer.weight_decay": 0.0}),
  ],
  check=check,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
