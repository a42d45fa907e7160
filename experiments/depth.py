"""Sections 1 and 7: what does removing each convolutional layer cost?

  python -m experiments.depth [--quick]

"Removing any convolutional layer (each of which contains no more than 1% of the
model's parameters) resulted in inferior performance"; removing a middle one
costs about 2 points of top-1 error. The authors' log holds no such run, and
conv3 and conv4 contain 1.45% and 1.09% of the parameters. Compares the paper's
configuration with five that lack one layer each. Trains six networks on
ImageNet.
"""

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned


def check(outcomes: Outcomes, result: dict) -> None:
  """At full size, the network without conv4 lacks conv4's parameters."""
  assert_learned(outcomes)
  whole = comparison.sizes(configs.load("configs/paper.py"))
  without = comparison.sizes(configs.load("configs/no_conv4.py"))
  conv4 = 3 * 3 * 192 * 384 + 384
  # conv5 then reads conv3's 192 maps as it read conv4's.
  removed = whole["size.parameters"] - without["size.parameters"]
  assert removed == conv4
  assert outcomes.keys() == set(EXPERIMENT.quick.runs)


EXPERIMENT = Experiment(
  name="depth",
  question="What does removing each convolutional layer cost?",
  runs=[
    Run("paper", "configs/paper.py"),
    *(Run(f"no_conv{i}", f"configs/no_conv{i}.py") for i in range(1, 6)),
  ],
  quick=Quick(check, runs=("paper", "no_conv1", "no_conv4")),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
