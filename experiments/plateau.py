"""How often, and when, does training leave the plateau at ln(classes)?

  python -m experiments.plateau [--quick]

Sixteen cells: initial deviation 0.01 or 0.03 in conv3 to conv5, biases of 1 or
0.1, k of the response normalisation 1 or 2, pixels of 0 to 255 or divided to
unit variance; three seeds each; the embedded images with a thousand classes, an
eighth of the width, a budget of 96,000 images a run. A run has left when the
mean loss of 100 steps is below ln(classes) - 0.05.
"""

import itertools
import math
import statistics

from experiments import frame
from experiments.frame import Experiment, Outcome, Outcomes, Run

MARGIN, WINDOW = 0.05, 100
PIXEL_DEVIATION = 74.0  # of the centred pixels of natural images, 0 to 255
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
CELLS = tuple(
  itertools.product((0.01, 0.03), (1.0, 0.1), (2.0, 1.0), ("255", "unit"))
)


def _run(std: float, bias: float, k: float, scale: str) -> Run:
  overrides = {f"network.{name}.bias": bias for name in BIASED}
  overrides |= {f"network.conv{i}.std": std for i in (3, 4, 5)}
  overrides |= {
    "network.lrn_k": k,
    # In training alone, which is all that is looked at here.
    "augmentation.lighting_divisor": 1.0 if scale == "255" else PIXEL_DEVIATION,
    "dataset": "patterns/1000",
    "network.width": 1 / 8,
    "total_steps": 750,
    "eval_every_epochs": 0,
    "log_every_steps": 1,
    "diagnose_every_lines": 25 if scale == "255" else 0,
  }
  name = f"std{std:g}-bias{bias:g}-k{k:g}-{scale}"
  return Run(name, "configs/paper.py", overrides)


def images_to_leave(outcome: Outcome, window: int = WINDOW) -> int | None:
  """Images trained when the mean loss of `window` steps first is low enough."""
  bound = math.log(outcome.config["num_classes"]) - MARGIN
  losses = outcome.train("loss")
  for end in range(window, len(losses) + 1):
    if statistics.fmean(losses[end - window : end]) < bound:
      return end * outcome.config["batch_size"]
  return None


def measure(outcomes: Outcomes) -> dict:
  """By cell: when each seed left, the share that did, spreads at the start."""
  cells = {}
  for name, each in outcomes.items():
    left = [images_to_leave(one) for one in each]
    inside = [
      [line for line in one.lines if "score_spread" in line] for one in each
    ]
    cells[name] = {
      "images_to_leave": left,
      "share_that_left": sum(x is not None for x in left) / len(left),
      "images_trained": [
        len(one.train("loss")) * one.config["batch_size"] for one in each
      ],
      "first_loss": [one.train("loss")[0] for one in each],
      "last_loss": [one.final("loss") for one in each],
      "first_score_spread": [x[0]["score_spread"] for x in inside if x],
      "last_score_spread": [x[-1]["score_spread"] for x in inside if x],
      "first_fc7_correlation": [x[0]["fc7_correlation"] for x in inside if x],
    }
  return cells


def words(result: dict) -> str:
  """How many cells were left by all seeds, by some, by none."""
  shares = [cell["share_that_left"] for cell in result.values()]
  every = sum(share == 1 for share in shares)
  none = sum(share == 0 for share in shares)
  return (
    f"of {len(shares)} cells {every} were left by every seed, {none} by none"
  )


def draw(outcomes: Outcomes, axes) -> None:
  """The share of seeds that has left, over images; a line a cell."""
  for name, each in outcomes.items():
    left = [images_to_leave(one) for one in each]
    end = len(each[0].train("loss")) * each[0].config["batch_size"]
    times = sorted(x for x in left if x is not None)
    shares = [i / len(each) for i in range(len(times) + 1)]
    axes.step([0, *times, end], [*shares, shares[-1]], where="post", label=name)
  axes.set(xlabel="images", ylabel="share of seeds that left the plateau")
  axes.legend(fontsize=5)


def check(outcomes: Outcomes, result: dict) -> None:
  """The source's initial weights tell images apart where the text's do not."""
  text = result["std0.01-bias1-k2-255"]["first_score_spread"][0]
  source = result["std0.03-bias1-k2-255"]["first_score_spread"][0]
  assert source > 5 * text > 0  # the mean-field estimates say fifteen
  correlation = {
    name: cell["first_fc7_correlation"][0]
    for name, cell in result.items()
    if cell["first_fc7_correlation"]
  }
  assert correlation["std0.01-bias1-k2-255"] > 0.99
  # A bias of 0.1 swamps less of the difference.
  low, high = "std0.03-bias0.1-k2-255", "std0.03-bias1-k2-255"
  assert correlation[low] < correlation[high]


EXPERIMENT = Experiment(
  name="plateau",
  question="How often and when does training leave the plateau at ln(n)?",
  runs=[_run(*cell) for cell in CELLS],
  check=check,
  measure=measure,
  draw=draw,
  quick={"total_steps": 2, "diagnose_every_lines": 1},
  quick_runs=(
    "std0.01-bias1-k2-255",
    "std0.03-bias1-k2-255",
    "std0.03-bias0.1-k2-255",
  ),
  words=words,
  seeds=3,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
