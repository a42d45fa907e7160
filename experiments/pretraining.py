"""Section 6 and Table 2, "CNN*": is a pre-trained start better?

  python -m experiments.pretraining [--quick]

The chain of the log: #145 trains on ILSVRC-2012; #146 adds a sixth
convolutional layer, begins with #145's five, and trains on more classes
(ImageNet 2009, then Fall 2011); its convolutional layers begin the last one, on
ILSVRC-2012 again. So the published "pre-trained" network had seen ILSVRC-2012
from the first link on. `wide` stands for the larger set: write yours into WIDE
below; without one it is ImageNet 2012 itself, and proves the chain alone.
"""

import numpy as np

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, load_net

LAYERS = tuple(f"conv{i}" for i in range(1, 7))
WIDE: dict = {}  # such as {"dataset": "imagenet2009", "num_classes": 10184}


def _after(name: str) -> dict:
  """Begins with the convolutional layers of another run of this experiment."""
  return {
    "start_from": f"{{output}}/{name}-{{seed}}",
    "start_layers": LAYERS,
  }


def check(outcomes: Outcomes, result: dict) -> None:
  """The chain carries over: the first loss differs by what came along."""
  learned(outcomes)
  scratch, last = outcomes["scratch"][0], outcomes["fine_tuned"][0]
  assert scratch.train("loss")[0] != last.train("loss")[0]
  kernels = [
    np.asarray(load_net(outcomes[name][0]).towers.conv1.kernel[...])
    for name in ("plain", "wide", "fine_tuned", "scratch")
  ]
  # A link moves conv1 a little; another start is far away.
  moved = [np.abs(k - kernels[0]).mean() for k in kernels]
  assert 0 < moved[1] < moved[2] < 0.5 * moved[3]


EXPERIMENT = Experiment(
  name="pretraining",
  question="Is a start from a network pre-trained on more classes better?",
  runs=[
    Run("plain", "configs/paper.py"),
    Run("wide", "configs/conv6.py", _after("plain") | WIDE),
    Run("fine_tuned", "configs/conv6.py", _after("wide")),
    Run("scratch", "configs/conv6.py", {"seed": 1000}),
  ],
  check=check,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
