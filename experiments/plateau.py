"""How often, and when, does training leave the plateau at ln(classes)?

  python -m experiments.plateau [--quick]

Six configurations: the text of the paper (initial deviation 0.01, biases 1,
k = 2, pixels of 0 to 255); each of these four changed alone (0.03 in conv3 to
conv5; 0.1; 1; unit variance); and 0.03 with biases of 0.1. Each is trained with
three seeds on generated images of a thousand classes at 128 pixels, at a
sixteenth of the width, for at most 64,000 images. A run has left the plateau,
and ends, when the mean loss of 100 steps is below ln(classes) - 0.05. Three
seeds show that a configuration can leave or stay, not how often it does.
"""

import math

from experiments.common import frame
from experiments.common.curves import (
  PLATEAU_MARGIN,
  PLATEAU_WINDOW,
  images_to_leave_plateau,
  running_mean,
)
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import Outcome, Outcomes

PIXEL_DEVIATION = 74.0  # of the centred pixels of natural images, 0 to 255
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")


def _run(
  std: float = 0.01, bias: float = 1.0, k: float = 2.0, scale: str = "255"
) -> Run:
  overrides = {f"network.{name}.bias": bias for name in BIASED}
  overrides |= {f"network.conv{i}.std": std for i in (3, 4, 5)}
  overrides |= {
    "network.lrn_k": k,
    # Divides the pixels in training only; evaluation is not used here.
    "augmentation.lighting_divisor": 1.0 if scale == "255" else PIXEL_DEVIATION,
    "dataset": "patterns/1000",
    "image_size": 144,
    "network.crop_size": 128,
    "network.width": 1 / 16,
    "network.fc6.std": 0.02,  # fc6 has 3 x 3 places instead of 6 x 6
    "total_steps": 500,
    "eval_every_epochs": 0,
    "log_every_steps": 1,
    "diagnose_every_lines": 25 if scale == "255" else 0,
    "checkpoint_every_steps": 50,
  }
  name = f"std{std:g}-bias{bias:g}-k{k:g}-{scale}"
  return Run(name, "configs/paper.py", overrides)


def images_to_leave(outcome: Outcome) -> int | None:
  """Images trained on when the run left the plateau, or None."""
  return images_to_leave_plateau(
    outcome.train("loss"),
    outcome.config["batch_size"],
    outcome.config["num_classes"],
  )


def measure(outcomes: Outcomes) -> dict:
  """By configuration: when each seed left, and diagnostics at the start."""
  cells = {}
  for name, repeats in outcomes.items():
    left = [images_to_leave(outcome) for outcome in repeats]
    diagnosed = [
      [line for line in outcome.lines if "score_spread" in line]
      for outcome in repeats
    ]
    diagnosed = [lines for lines in diagnosed if lines]
    cells[name] = {
      "images_to_leave": left,
      "share_that_left": sum(x is not None for x in left) / len(left),
      "images_trained": [
        len(outcome.train("loss")) * outcome.config["batch_size"]
        for outcome in repeats
      ],
      "first_loss": [outcome.train("loss")[0] for outcome in repeats],
      "last_loss": [outcome.final("loss") for outcome in repeats],
      "first_score_spread": [x[0]["score_spread"] for x in diagnosed],
      "last_score_spread": [x[-1]["score_spread"] for x in diagnosed],
      "first_fc7_correlation": [x[0]["fc7_correlation"] for x in diagnosed],
    }
  return cells


def describe(result: dict) -> str:
  """By configuration: how many seeds left, and by which image at the latest."""
  parts = []
  for name, cell in result.items():
    left = [images for images in cell["images_to_leave"] if images]
    count = f"{len(left)} of {len(cell['images_to_leave'])} seeds"
    when = f", by image {max(left):,}" if left else ""
    parts.append(f"{name}: {count} left{when}")
  return "; ".join(parts)


def draw(outcomes: Outcomes, axes) -> None:
  """Running mean loss by images; a colour a configuration, a line a seed."""
  for colour, (name, repeats) in enumerate(outcomes.items()):
    for outcome in repeats:
      losses = running_mean(outcome.train("loss"), PLATEAU_WINDOW)[::10]
      images = [
        outcome.config["batch_size"] * (PLATEAU_WINDOW + 10 * i)
        for i in range(len(losses))
      ]
      label = name if outcome is repeats[0] else None
      axes.plot(images, losses, color=f"C{colour}", linewidth=0.9, label=label)
  chance = math.log(next(iter(outcomes.values()))[0].config["num_classes"])
  bound = chance - PLATEAU_MARGIN
  axes.axhline(chance, color="black", linewidth=0.6)
  axes.axhline(bound, color="black", linewidth=0.6, linestyle=":")
  axes.set(
    xlabel="images", ylabel="mean loss of 100 steps", ylim=(None, chance + 0.2)
  )
  axes.legend(fontsize=7)


def check(outcomes: Outcomes, result: dict) -> None:
  """The source's initial weights tell images apart; the text's do not."""
  text = result["std0.01-bias1-k2-255"]["first_score_spread"][0]
  source = result["std0.03-bias1-k2-255"]["first_score_spread"][0]
  assert source > 5 * text > 0  # the mean-field estimates say 15
  correlation = {
    name: cell["first_fc7_correlation"][0]
    for name, cell in result.items()
    if cell["first_fc7_correlation"]
  }
  assert correlation["std0.01-bias1-k2-255"] > 0.99
  # A smaller bias hides less of the difference between images.
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
  quick=Quick(
    check,
    overrides={"total_steps": 2, "diagnose_every_lines": 1},
    runs=(
      "std0.01-bias1-k2-255",
      "std0.03-bias1-k2-255",
      "std0.03-bias0.1-k2-255",
    ),
  ),
  analysis=Analysis(measure, describe, draw),
  seeds=3,
  stop_early=lambda outcome: images_to_leave(outcome) is not None,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
