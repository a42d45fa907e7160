"""Section 3.5: do the two hidden layers, and the places of pooling, matter?

  python -m experiments.hidden_layers [--quick]

Most of the parameters are in fc6 and fc7. Zeiler and Fergus (2014) removed fc7
from their copy of the network and lost nothing. Compares the source's recipe
with the same without fc7, without both hidden layers, and with the mean of each
of conv5's maps in their place; and with the last pooling moved before conv5.
The paper claims nothing of these. Trains five networks on ImageNet for each of
five seeds.
"""

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import Contrast, difference
from experiments.common.experiment import Experiment, Quick
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  count_parameters,
)

ONE_HIDDEN = {
  "network.fc7.features": 0,
  "network.exchanges": ("conv3", "fc6", "fc8"),
}
# Each tower scores the classes from its own maps.
NO_HIDDEN = {
  "network.fc6.features": 0,
  "network.fc7.features": 0,
  "network.exchanges": ("conv3", "fc8"),
}
CHANGES = {
  "one_hidden": ONE_HIDDEN,
  "no_hidden": NO_HIDDEN,
  "mean_of_maps": NO_HIDDEN
  | {"network.conv5.then": ("relu", "global_avg_pool")},
  "pool_before_conv5": {
    "network.conv4.then": ("relu", "pool"),
    "network.conv5.then": ("relu",),
  },
}


def check(outcomes: Outcomes, result: dict) -> None:
  """The network with one hidden layer lacks the parameters of fc7."""
  assert_learned(outcomes)
  whole, one_hidden = outcomes["source"][0], outcomes["one_hidden"][0]
  units = 2 * round(2048 * whole.config["network"]["width"])
  removed = count_parameters(whole) - count_parameters(one_hidden)
  assert removed == units * units + units


EXPERIMENT = Experiment(
  name="hidden_layers",
  question="Do the hidden layers and the places of pooling matter?",
  runs=[SOURCE, *(source(name, changes) for name, changes in CHANGES.items())],
  contrasts=[
    Contrast(
      f"{name} minus source", difference(name, "source"), None, margin=1.0
    )
    for name in CHANGES
  ],
  quick=Quick(check, runs=("source", "one_hidden", "mean_of_maps")),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
