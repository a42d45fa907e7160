"""Sections 1 and 7: what does each convolutional layer do for it?

  python -m experiments.depth [--quick]

"Removing any convolutional layer (each of which contains no more than 1% of the
model's parameters) resulted in inferior performance"; a middle one costs about
2 points of top-1 error. No such run is in the log, and conv3 and conv4 hold
1.45% and 1.09%.
"""

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned


def check(outcomes: Outcomes, result: dict) -> None:
  """At full size what conv4 holds is the arithmetic's."""
  learned(outcomes)
  whole = comparison.sizes(configs.load("configs/paper.py"))
  without = comparison.sizes(configs.load("configs/no_conv4.py"))
  conv4 = 3 * 3 * 192 * 384 + 384
  # conv5 then reads conv3's 192 maps as it read conv4's.
  gone = whole["size.parameters"] - without["size.parameters"]
  assert gone == conv4
  assert outcomes.keys() == set(EXPERIMENT.quick_runs)


EXPERIMENT = Experiment(
  name="depth",
  question="What does removing each convolutional layer cost?",
  runs=[
    Run("paper", "configs/paper.py"),
    *(Run(f"no_conv{i}", f"configs/no_conv{i}.py") for i in range(1, 6)),
  ],
  check=check,
  quick={"total_steps": 6},
  quick_runs=("paper", "no_conv1", "no_conv4"),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
