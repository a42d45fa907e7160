"""How often, and when, does training leave the plateau at ln(classes)?

  python -m experiments.plateau [--quick]

All combinations of three factors, each as the text of the paper has it and
changed: initial deviations of .01 or .03 in conv3 to conv5, biases of 1 or .1,
k of 2 or 1. Each is trained with eight seeds on generated images of a thousand
classes at 128 pixels, at a sixteenth of the width, for at most 150,000 images.
A run has left the plateau, and ends, when the mean loss of 10 steps is below
ln(classes) - 0.05. Kaplan-Meier curves show the share of runs that are still on
it; log-rank tests compare both levels of each factor. A run that died never
leaves, and is counted.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from experiments.common import frame, statistics, survival
from experiments.common.curves import (
  PLATEAU_WINDOW,
  images_to_leave_plateau,
)
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import Outcome, Outcomes
from experiments.common.survival import Times

WINDOW = 10  # steps; a hundred of them would hide when a run leaves
IMAGES, BATCH = 150_000, 128
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
# The level of the text, then the other one.
FACTORS = {"std": (0.01, 0.03), "bias": (1.0, 0.1), "k": (2.0, 1.0)}


def _run(std: float, bias: float, k: float) -> Run:
  overrides = {f"network.{name}.bias": bias for name in BIASED}
  overrides |= {f"network.conv{i}.std": std for i in (3, 4, 5)}
  overrides |= {
    "network.lrn_k": k,
    "dataset": "patterns/1000",
    "image_size": 144,
    "network.crop_size": 128,
    "network.width": 1 / 16,
    "network.fc6.std": 0.02,  # fc6 has 3 x 3 places instead of 6 x 6
    "batch_size": BATCH,
    "total_steps": math.ceil(IMAGES / BATCH),
    "eval_every_epochs": 0,
    "log_every_steps": 1,
    "diagnose_every_lines": 25,
    "checkpoint_every_steps": 50,
  }
  return Run(f"std{std:g}-bias{bias:g}-k{k:g}", "configs/paper.py", overrides)


RUNS = {
  levels: _run(*levels) for levels in itertools.product(*FACTORS.values())
}


def images_to_leave(
  outcome: Outcome, window: int = PLATEAU_WINDOW
) -> int | None:
  """Images trained on when the run left the plateau, or None."""
  return images_to_leave_plateau(
    outcome.train("loss"),
    outcome.config["batch_size"],
    outcome.config["num_classes"],
    window,
  )


def measure(outcomes: Outcomes) -> dict:
  """By cell: when each seed left, and diagnostics; the test of each factor."""
  cells = {}
  for name, repeats in outcomes.items():
    diagnosed = [
      [line for line in outcome.lines if "score_spread" in line]
      for outcome in repeats
    ]
    first = [lines[0] for lines in diagnosed if lines]
    cells[name] = cell = {
      "seeds": [outcome.seed for outcome in repeats],
      "images_to_leave": [images_to_leave(x, WINDOW) for x in repeats],
      "images_trained": [
        len(outcome.train("loss")) * outcome.config["batch_size"]
        for outcome in repeats
      ],
      "diverged": [bool(outcome.diverged) for outcome in repeats],
      "last_loss": [outcome.final("loss") for outcome in repeats],
      "first_score_spread": [line["score_spread"] for line in first],
      "first_fc7_correlation": [line["fc7_correlation"] for line in first],
    }
    cell["median"] = survival.median(times(cell))
  return {"cells": cells, "factors": factors(cells)}


def times(*cells: Mapping[str, Any]) -> Times:
  """When the runs of cells left, and how long the others were trained.

  A run that diverged would not have left later: it counts to the full length.
  """
  events, censored = [], []
  for cell in cells:
    for left, trained, diverged in zip(
      cell["images_to_leave"],
      cell["images_trained"],
      cell["diverged"],
      strict=True,
    ):
      if left:
        events.append(left)
      else:
        censored.append(IMAGES if diverged else trained)
  return Times(events, censored)


def factors(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """The log-rank test of each factor over all cells, adjusted as by Holm."""
  found = {}
  for place, (name, levels) in enumerate(FACTORS.items()):
    groups = [
      times(
        *(
          cells[run.name]
          for values, run in RUNS.items()
          if values[place] == level and run.name in cells
        )
      )
      for level in levels
    ]
    left = [f"{len(g.events)} of {len(g.events + g.censored)}" for g in groups]
    found[name] = {
      "left": dict(zip(map(str, levels), left, strict=True)),
      **survival.compare(*groups),
    }
  adjusted = statistics.holm(
    {name: test["p_value"] for name, test in found.items()}
  )
  for name, p_value in adjusted.items():
    found[name]["adjusted_p_value"] = p_value
  return found


def describe(result: dict) -> str:
  """By factor: how many runs left at each level, and the test."""
  parts = []
  for name, test in result["factors"].items():
    left = "; ".join(f"{level}: {n} left" for level, n in test["left"].items())
    p_value = test["adjusted_p_value"]
    parts.append(f"{name} {left} (p = {p_value:.2g})")
  return "; ".join(parts)


def draw(outcomes: Outcomes, axes) -> None:
  """The share of runs on the plateau by images, a step line a cell."""
  cells = measure(outcomes)["cells"]
  for colour, (name, cell) in enumerate(cells.items()):
    at, share = survival.remaining(times(cell))
    axes.step(
      [0, *at, IMAGES],
      [1, *share, share[-1] if share else 1],
      where="post",
      color=f"C{colour}",
      label=name,
    )
  axes.set(
    xlabel="images", ylabel="share of runs on the plateau", ylim=(0, 1.02)
  )
  axes.legend(fontsize=7)


def check(outcomes: Outcomes, result: dict) -> None:
  """The source's initial weights tell images apart; the text's do not."""
  cells = result["cells"]
  text = cells["std0.01-bias1-k2"]["first_score_spread"][0]
  source = cells["std0.03-bias1-k2"]["first_score_spread"][0]
  assert source > 5 * text > 0  # the mean-field estimates say 15
  correlation = {
    name: cell["first_fc7_correlation"][0] for name, cell in cells.items()
  }
  assert correlation["std0.01-bias1-k2"] > 0.99
  # A smaller bias hides less of the difference between images.
  low, high = "std0.03-bias0.1-k2", "std0.03-bias1-k2"
  assert correlation[low] < correlation[high]
  assert result["factors"]["bias"]["events"] == 0


EXPERIMENT = Experiment(
  name="plateau",
  question="How often and when does training leave the plateau at ln(n)?",
  runs=list(RUNS.values()),
  quick=Quick(
    check,
    overrides={"total_steps": 2, "diagnose_every_lines": 1},
    runs=("std0.01-bias1-k2", "std0.03-bias1-k2", "std0.03-bias0.1-k2"),
  ),
  analysis=Analysis(measure, describe, draw),
  seeds=8,
  stop_early=lambda outcome: images_to_leave(outcome, WINDOW) is not None,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
