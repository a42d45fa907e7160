"""Figure 3: does one tower learn the colours, in which seeds, which tower?

  python -m experiments.figure3 [--quick] [--seeds=10]

Section 6.1: in every run, whatever the initial weights, the kernels on GPU 1
are largely colour-agnostic and those on GPU 2 largely colour-specific, up to a
renumbering of the GPUs. Compares the two towers' colour scores. The score of a
kernel is the share of its energy that red, green and blue do not have in
common; the initial noise counts as colour (2/3), so the score tells little
before much of the noise has decayed. Trains one network on ImageNet for each of
three seeds.
"""

import numpy as np

from alexnet_jax.analysis import figures
from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned, load_net


def measure(outcomes: Outcomes) -> dict:
  """By seed: both towers' mean scores, the more coloured one, the p-value."""
  seeds = []
  for outcome in outcomes["paper"]:
    kernels = figures.kernels(load_net(outcome))
    found = figures.specialisation(figures.colour_scores(kernels))
    seeds.append(
      {"seed": outcome.seed, "appears": found.significant} | found._asdict()
    )
  appears = [seed for seed in seeds if seed["appears"]]
  return {
    "seeds": seeds,
    "appears_in": len(appears),
    "coloured_tower": [seed["tower"] for seed in appears],
  }


def describe(result: dict) -> str:
  """The number of seeds with a difference, and their coloured towers."""
  towers = ", ".join(map(str, result["coloured_tower"])) or "none"
  count = f"{result['appears_in']} of {len(result['seeds'])}"
  return f"in {count} seeds; coloured tower: {towers}"


def draw(outcomes: Outcomes, axes) -> None:
  """The kernels of each seed, tower 0 above tower 1."""
  rows = []
  for outcome in outcomes["paper"]:
    kernels = figures.kernels(load_net(outcome))
    rows += [figures.kernel_grid(tower, scale=3) for tower in kernels]
    rows.append(np.full_like(rows[0][:24], 255))
  axes.imshow(np.concatenate(rows[:-1]))
  axes.set_axis_off()


def check(outcomes: Outcomes, result: dict) -> None:
  """After a few steps the kernels are still noise, whose score is 2/3."""
  assert_learned(outcomes)
  (seed,) = result["seeds"]
  assert all(abs(mean - 2 / 3) < 0.05 for mean in seed["means"])


EXPERIMENT = Experiment(
  name="figure3",
  question="Does one tower take the colours, in how many seeds, and which?",
  runs=[Run("paper", "configs/paper.py")],
  quick=Quick(check),
  analysis=Analysis(measure, describe, draw),
  seeds=3,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
