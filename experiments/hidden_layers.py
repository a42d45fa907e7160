"""Section 3.5: one hidden fully connected layer instead of two.

  python -m experiments.hidden_layers [--quick]

Zeiler and Fergus (2014) removed fc7 from their copy of the network and lost
nothing; most of the parameters sit in these two layers.
"""

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, parameters

ONE = {"network.fc7.features": 0, "network.exchanges": ("conv3", "fc6", "fc8")}


def check(outcomes: Outcomes, result: dict) -> None:
  """One layer fewer, and its parameters are gone."""
  learned(outcomes)
  whole, one = (outcomes[name][0] for name in ("paper", "one_hidden"))
  units = 2 * round(2048 / 16)  # --quick narrows them
  gone = parameters(whole) - parameters(one)
  assert gone == units * units + units


EXPERIMENT = Experiment(
  name="hidden_layers",
  question="Does it need two hidden fully connected layers?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("one_hidden", "configs/paper.py", ONE),
  ],
  check=check,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
