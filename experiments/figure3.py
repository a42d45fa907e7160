"""Figure 3: does one tower learn the colours, in which seeds, which tower?

  python -m experiments.figure3 [--quick] [--seeds=10]

Section 6.1: in every run, whatever the initial weights, the kernels on GPU 1
are largely colour-agnostic and those on GPU 2 largely colour-specific, up to a
renumbering of the GPUs. Compares the two towers' colour scores. The score of a
kernel is the share of its energy that red, green and blue do not have in
common; the initial noise counts as colour (2/3). The seed gives the initial
kernels, so the same is measured of what training added to them; `auc` is the
chance that a kernel of tower 1 then has more colour than one of tower 0. The
unit is the seed: the kernels of a tower are no independent draws, so the
p-value of one seed describes that network and is no evidence about others.
Trains one network on ImageNet for each of three seeds.
"""

import numpy as np
from scipy import stats

from alexnet_jax.analysis import figures
from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  initial_net,
  load_net,
)


def added(kernels: np.ndarray, initial: np.ndarray) -> dict:
  """The colour of what training added: means by tower, AUC, noise left."""
  rest, noise = figures.added_by_training(kernels, initial)
  scores = figures.colour_scores(rest)
  first, second = scores
  u = stats.mannwhitneyu(second, first).statistic
  return {
    "means": scores.mean(axis=1).tolist(),
    "auc": float(u) / (len(first) * len(second)),
    "noise_share": float(noise.mean()),
  }


def measure(outcomes: Outcomes) -> dict:
  """By seed: both towers' mean scores, the more coloured one, the p-value."""
  seeds = []
  for outcome in outcomes["paper"]:
    kernels = figures.kernels(load_net(outcome))
    found = figures.specialisation(figures.colour_scores(kernels))
    seeds.append(
      {"seed": outcome.seed, "appears": found.significant}
      | found._asdict()
      | {"added": added(kernels, figures.kernels(initial_net(outcome)))}
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
  # They are the initial ones, of which a few steps changed little.
  assert seed["added"]["noise_share"] > 0.99


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
