"""Section 5: does it matter how the learning rate falls?

  python -m experiments.schedules [--quick]

The paper divides the rate by ten, three times, when the validation error stops
improving. Compares the source's later rule (`dexp`) with drops at the epochs of
the recorded run (`steps`), the paper's rule (`plateau`), and half a cosine. All
start at the same rate and train equally long. The paper claims nothing of the
others. Trains four networks on ImageNet for each of five seeds.
"""

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import Contrast, difference
from experiments.common.experiment import Experiment, Quick
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  assert_same_size,
  first_losses,
)

CHANGES = {
  "steps": {
    "schedule.name": "piecewise",
    "schedule.bias_drops": "all",
    "schedule.boundaries": (25.0, 51.0, 79.0),
  },
  "plateau": {"schedule.name": "plateau", "schedule.bias_drops": "all"},
  "cosine": {"schedule.name": "cosine", "schedule.bias_drops": "all"},
}


def check(outcomes: Outcomes, result: dict) -> None:
  """The networks start alike; in one epoch all rates fall but `plateau`'s."""
  assert_learned(outcomes)
  assert_same_size(outcomes)
  assert len(set(first_losses(outcomes).values())) == 1
  rates = {
    name: repeats[0].train("learning_rate")
    for name, repeats in outcomes.items()
  }
  assert rates["plateau"][-1] == rates["plateau"][0]
  for name in ("source", "cosine"):
    assert rates[name] == sorted(rates[name], reverse=True)
    assert rates[name][-1] < rates["plateau"][-1] / 10


EXPERIMENT = Experiment(
  name="schedules",
  question="Does it matter how the learning rate falls?",
  runs=[SOURCE, *(source(name, changes) for name, changes in CHANGES.items())],
  contrasts=[
    Contrast(f"{name} minus dexp", difference(name, "source"), None, margin=1.0)
    for name in CHANGES
  ],
  quick=Quick(check, runs=("source", "plateau", "cosine")),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
