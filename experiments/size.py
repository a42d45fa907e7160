"""Depth and width: half and a quarter as wide, a sixth convolutional layer.

  python -m experiments.size [--quick]

Not in the paper's tables: a sixth layer is in its pre-trained networks alone
(Table 2's "CNN*", the log's #146), and widths are fixed.
"""

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned

WIDTHS = (0.25, 0.5, 1.0)


def check(outcomes: Outcomes, result: dict) -> None:
  """Wider is larger, and the sixth layer has the arithmetic's parameters."""
  learned(outcomes)
  whole = comparison.sizes(configs.load("configs/paper.py"))
  conv6 = comparison.sizes(configs.load("configs/conv6.py"))
  more = conv6["size.parameters"] - whole["size.parameters"]
  assert more == 3 * 3 * 256 * 256 + 256


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
  check=check,
  quick={"total_steps": 6},
  quick_runs=("width_1", "conv6"),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
