"""Section 3.5: one hidden fully connected layer instead of two.

  python -m experiments.hidden_layers [--quick]

Most of the parameters are in fc6 and fc7. Zeiler and Fergus (2014) removed fc7
from their copy of the network and lost nothing. Compares the paper's
configuration with the same without fc7. Trains two networks on ImageNet.
"""

from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  count_parameters,
)

ONE_HIDDEN = {
  "network.fc7.features": 0,
  "network.exchanges": ("conv3", "fc6", "fc8"),
}


def check(outcomes: Outcomes, result: dict) -> None:
  """The network with one hidden layer lacks the parameters of fc7."""
  assert_learned(outcomes)
  paper, one_hidden = outcomes["paper"][0], outcomes["one_hidden"][0]
  units = 2 * round(2048 * paper.config["network"]["width"])
  removed = count_parameters(paper) - count_parameters(one_hidden)
  assert removed == units * units + units


EXPERIMENT = Experiment(
  name="hidden_layers",
  question="Does it need two hidden fully connected layers?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("one_hidden", "configs/paper.py", ONE_HIDDEN),
  ],
  quick=Quick(check),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
