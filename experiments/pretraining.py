"""Section 6 and Table 2, "CNN*": does a pre-trained start lower the error?

  python -m experiments.pretraining [--quick]

Follows the chain of the authors' log: #145 trains on ILSVRC-2012; #146 adds a
sixth convolutional layer, starts from #145's five, and trains on more classes
(ImageNet 2009, then Fall 2011); the last network starts from #146's
convolutional layers and trains on ILSVRC-2012 again. So the published
"pre-trained" network had seen ILSVRC-2012 from the start. It is compared with
the same network trained from scratch.

`wide` stands for the larger dataset: set WIDE below. As committed, it is
ImageNet 2012 again, which tests the chain and measures nothing. `scratch` has
other initial weights than `plain`: 1000 is added to its seed. Trains four
networks on ImageNet.
"""

import numpy as np

from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  first_losses,
  load_net,
)

LAYERS = tuple(f"conv{i}" for i in range(1, 7))
WIDE: dict = {}  # such as {"dataset": "imagenet2009", "num_classes": 10184}


def _start_from(name: str) -> dict:
  """Starts with the convolutional layers of another run of this experiment."""
  return {
    "start_from": f"{{output}}/{name}-{{seed}}",
    "start_layers": LAYERS,
  }


def check(outcomes: Outcomes, result: dict) -> None:
  """conv1 stays near that of the run before; another start is far away."""
  assert_learned(outcomes)
  first = first_losses(outcomes)
  assert first["scratch"] != first["fine_tuned"]
  kernels = [
    np.asarray(load_net(outcomes[name][0]).towers.conv1.kernel[...])
    for name in ("plain", "wide", "fine_tuned", "scratch")
  ]
  moved = [np.abs(k - kernels[0]).mean() for k in kernels]
  assert 0 < moved[1] < moved[2] < 0.5 * moved[3]


EXPERIMENT = Experiment(
  name="pretraining",
  question="Is a start from a network pre-trained on more classes better?",
  runs=[
    Run("plain", "configs/paper.py"),
    Run("wide", "configs/conv6.py", _start_from("plain") | WIDE),
    Run("fine_tuned", "configs/conv6.py", _start_from("wide")),
    Run("scratch", "configs/conv6.py", add_to_seed=1000),
  ],
  quick=Quick(check),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
