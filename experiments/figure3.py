"""Figure 3: does one tower take the colours, in which seeds, and which tower?

  python -m experiments.figure3 [--quick] [--seeds=10]

Section 6.1: the kernels on GPU 1 are largely colour-agnostic, those on GPU 2
largely colour-specific, in every run, whatever the initial weights, up to a
renumbering of the GPUs. The colour score of a kernel is the share of its energy
that red, green and blue do not have in common.
"""

import numpy as np

from alexnet_jax.analysis import figures
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, load_net


def measure(outcomes: Outcomes) -> dict:
  """By seed: the towers' mean scores, the more coloured one, the p-value."""
  seeds = []
  for one in outcomes["paper"]:
    kernels = figures.kernels(load_net(one))
    found = figures.specialisation(figures.colour_scores(kernels))
    seeds.append({"seed": one.seed, "appears": found.appears} | found._asdict())
  appears = [seed for seed in seeds if seed["appears"]]
  return {
    "seeds": seeds,
    "appears_in": len(appears),
    "coloured_tower": [seed["tower"] for seed in appears],
  }


def words(result: dict) -> str:
  """In how many seeds, and which tower."""
  towers = result["coloured_tower"]
  said = ", ".join(map(str, towers)) or "none"
  count = f"{result['appears_in']} of {len(result['seeds'])}"
  return f"in {count} seeds; coloured tower: {said}"


def draw(outcomes: Outcomes, axes) -> None:
  """The kernels of each seed in turn, tower 0 above tower 1."""
  rows = []
  for one in outcomes["paper"]:
    kernels = figures.kernels(load_net(one))
    rows += [figures.kernel_grid(tower, scale=3) for tower in kernels]
    rows.append(np.full_like(rows[0][:24], 255))
  axes.imshow(np.concatenate(rows[:-1]))
  axes.set_axis_off()


def check(outcomes: Outcomes, result: dict) -> None:
  """After a few steps kernels are still random: two thirds, no difference."""
  learned(outcomes)
  (seed,) = result["seeds"]
  assert all(abs(mean - 2 / 3) < 0.05 for mean in seed["means"])


EXPERIMENT = Experiment(
  name="figure3",
  question="Does one tower take the colours, in how many seeds, and which?",
  runs=[Run("paper", "configs/paper.py")],
  check=check,
  measure=measure,
  draw=draw,
  words=words,
  seeds=3,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
