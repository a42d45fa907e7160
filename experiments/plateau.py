"""How often, and when, does training leave the plateau at ln(classes)?

  python -m experiments.plateau [--quick]

Six cells: the text of the paper (initial deviation 0.01, biases 1, k 2, pixels
of 0 to 255), each of these changed alone (0.03 in conv3 to conv5, 0.1, 1, unit
variance), and 0.03 with biases of 0.1. Three seeds each; the embedded images
with a thousand classes at 128 pixels, a sixteenth of the width, a budget of
64,000 images a run. A run has left, and ends, when the mean loss of 100 steps
is below ln(classes) - 0.05.
"""

import math
import statistics

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcome, Outcomes

MARGIN, WINDOW = 0.05, 100
PIXEL_DEVIATION = 74.0  # of the centred pixels of natural images, 0 to 255
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")


def _run(
  std: float = 0.01, bias: float = 1.0, k: float = 2.0, scale: str = "255"
) -> Run:
  overrides = {f"network.{name}.bias": bias for name in BIASED}
  overrides |= {f"network.conv{i}.std": std for i in (3, 4, 5)}
  overrides |= {
    "network.lrn_k": k,
    # In training alone, which is all that is looked at here.
    "augmentation.lighting_divisor": 1.0 if scale == "255" else PIXEL_DEVIATION,
    "dataset": "patterns/1000",
    "image_size": 144,
    "network.crop_size": 128,
    "network.width": 1 / 16,
    "network.fc6.std": 0.02,  # of 3 x 3 places instead of 6 x 6: a quarter
    "total_steps": 500,
    "eval_every_epochs": 0,
    "log_every_steps": 1,
    "diagnose_every_lines": 25 if scale == "255" else 0,
    "checkpoint_every_steps": 50,
  }
  name = f"std{std:g}-bias{bias:g}-k{k:g}-{scale}"
  return Run(name, "configs/paper.py", overrides)


def mean_losses(outcome: Outcome, window: int = WINDOW) -> list[float]:
  """Of the training loss over `window` steps, from the window-th step on."""
  losses = outcome.train("loss")
  return [
    statistics.fmean(losses[end - window : end])
    for end in range(window, len(losses) + 1)
  ]


def images_to_leave(outcome: Outcome, window: int = WINDOW) -> int | None:
  """Images trained when the mean loss of `window` steps first is low enough."""
  bound = math.log(outcome.config["num_classes"]) - MARGIN
  for steps, loss in enumerate(mean_losses(outcome, window), window):
    if loss < bound:
      return steps * outcome.config["batch_size"]
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
  """By cell how many seeds left, and after how many images at the most."""
  said = []
  for name, cell in result.items():
    left = [images for images in cell["images_to_leave"] if images]
    count = f"{len(left)} of {len(cell['images_to_leave'])} seeds"
    when = f", by image {max(left):,}" if left else ""
    said.append(f"{name}: {count} left{when}")
  return "; ".join(said)


def draw(outcomes: Outcomes, axes) -> None:
  """The mean loss of 100 steps over images; a colour a cell, a line a seed."""
  for colour, (name, each) in enumerate(outcomes.items()):
    for one in each:
      losses = mean_losses(one)[::10]
      images = [
        one.config["batch_size"] * (WINDOW + 10 * i) for i in range(len(losses))
      ]
      label = name if one is each[0] else None
      axes.plot(images, losses, color=f"C{colour}", linewidth=0.9, label=label)
  chance = math.log(next(iter(outcomes.values()))[0].config["num_classes"])
  axes.axhline(chance, color="black", linewidth=0.6)
  axes.axhline(chance - MARGIN, color="black", linewidth=0.6, linestyle=":")
  axes.set(
    xlabel="images", ylabel="mean loss of 100 steps", ylim=(None, chance + 0.2)
  )
  axes.legend(fontsize=7)


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
  runs=[
    _run(),
    _run(std=0.03),
    _run(bias=0.1),
    _run(k=1.0),
    _run(scale="unit"),
    _run(std=0.03, bias=0.1),
  ],
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
  enough=lambda outcome: images_to_leave(outcome) is not None,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
