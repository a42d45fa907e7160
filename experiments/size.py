"""Width and depth: half and a quarter of the width; a sixth conv layer.

  python -m experiments.size [--quick]

Not in the paper's tables: only its pre-trained networks have a sixth layer
(Table 2's "CNN*", the log's #146), and the widths are fixed. Trains four
networks on ImageNet.
"""

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned

WIDTHS = (0.25, 0.5, 1.0)


def check(outcomes: Outcomes, result: dict) -> None:
  """At full size, the sixth layer adds the parameters of one 3x3 layer."""
  assert_learned(outcomes)
  whole = comparison.sizes(configs.load("configs/paper.py"))
  conv6 = comparison.sizes(configs.load("configs/conv6.py"))
  added = conv6["size.parameters"] - whole["size.parameters"]
  assert added == 3 * 3 * 256 * 256 + 256


EXPERIMENT = Experiment(
  name="size",
  question="How do width and a sixth convolutional layer change the errors?",
  runs=[
    *(
      Run(f"width_{w:g}", "configs/paper.py", {"network.width": w})
      for w in WIDTHS
    ),
    Run("conv6", "configs/conv6.py"),
  ],
  quick=Quick(check, runs=("width_1", "conv6")),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
