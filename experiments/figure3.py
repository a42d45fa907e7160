"""Figure 3: do two towers divide the colours between them?

  python -m experiments.figure3 [--stage=cpu|gpu] [--quick] [--seeds=5]

Section 6.1: in every run, whatever the initial weights, the kernels on GPU 1
are largely colour-agnostic and those on GPU 2 largely colour-specific, up to a
renumbering of the GPUs; the paper attributes it to the restricted exchange. The
colour of a kernel is the share of its energy that red, green and blue do not
have in common, of what training added to its initial weights, which are noise
and count as colour (2/3). The measure of a network is |AUC - .5|, AUC being the
chance that a kernel of tower 1 has more colour than one of tower 0. Networks
that exchange at conv3 (`source`) and nowhere before the scores (`apart`) are
compared with halves dealt at random from networks of one tower (`dense`); the
result also says what share of kernels dealt by colour would have been found.
Trains three networks on ImageNet for each of five seeds. With `--stage=gpu` and
`--set=dataset=NAME,data_dir=DIR,num_classes=N` they take any prepared set, at
full width; `--stage=cpu` takes a quarter of it.
"""

import numpy as np

from alexnet_jax.analysis import figures
from experiments.common import frame, specialisation
from experiments.common.base import SOURCE, source
from experiments.common.experiment import Analysis, Experiment, Quick
from experiments.common.outcome import (
  Outcome,
  Outcomes,
  assert_learned,
  initial_net,
  load_net,
)
from experiments.common.statistics import LEVEL
from experiments.two_towers import dense

STAGES = {
  # .8 million images a network, if the set has 9,000.
  "gpu": {
    "network.compute_dtype": "bfloat16",
    "total_epochs": 90,
    "eval_every_epochs": 30,
    "mesh.data": 1,
    "mesh.model": 1,
  },
  # A quarter of the width: 12 kernels a tower.
  "cpu": {
    "image_size": 96,
    "network.crop_size": 80,
    "network.width": 0.25,
    "network.fc6.std": 0.03,
    "batch_size": 64,
    "total_epochs": 10,
    "eval_every_epochs": 10,
    "mesh.data": 1,
    "mesh.model": 1,
  },
}


def colours(outcome: Outcome) -> dict:
  """Colour of what training added: f64[towers,n]; the share of noise left."""
  rest, noise = figures.added_by_training(
    figures.kernels(load_net(outcome)), figures.kernels(initial_net(outcome))
  )
  return {
    "scores": figures.colour_scores(rest),
    "noise_share": float(noise.mean()),
  }


def measure(outcomes: Outcomes) -> dict:
  """By topology: every seed's networks, and the test against random halves."""
  found = {
    name: [colours(outcome) for outcome in repeats]
    for name, repeats in outcomes.items()
  }
  result = {}
  for name, networks in found.items():
    result[name] = {
      "seeds": [outcome.seed for outcome in outcomes[name]],
      "noise_share": [network["noise_share"] for network in networks],
      "means": [
        network["scores"].mean(axis=1).tolist() for network in networks
      ],
    }
    if name != "dense" and "dense" in found:
      result[name] |= specialisation.compare(
        [network["scores"] for network in networks],
        [network["scores"].ravel() for network in found["dense"]],
      )
  return result


def describe(result: dict) -> str:
  """Each topology beside random halves."""
  texts = []
  for name, found in result.items():
    if "p_value" not in found:
      continue
    seen = found["p_value"] < LEVEL
    text = (
      f"{name}: |AUC - .5| {np.mean(found['apart']):.2f}, in random halves"
      f" {found['null_mean']:.2f} (p = {found['p_value']:.2g},"
      f" {len(found['seeds'])} seeds)"
    )
    if not seen:
      least = specialisation.share_in_words(found)
      text += f"; no difference found ({least} dealt by colour would be seen)"
    texts.append(text)
  return "; ".join(texts)


def draw(outcomes: Outcomes, axes) -> None:
  """The kernels of each network of two towers, tower 0 above tower 1."""
  rows, places, labels = [], [], []
  for name in ("source", "apart"):
    for outcome in outcomes.get(name, []):
      kernels = figures.kernels(load_net(outcome))
      towers = [figures.kernel_grid(tower, scale=3) for tower in kernels]
      places.append(sum(map(len, rows)) + len(towers[0]))
      labels.append(f"{name}, seed {outcome.seed}")
      rows += [*towers, np.full_like(towers[0][:24], 255)]
  axes.imshow(np.concatenate(rows[:-1]))
  axes.set(xticks=[], yticks=places, yticklabels=labels)
  axes.tick_params(length=0, labelsize=7)
  axes.spines[:].set_visible(False)


def check(outcomes: Outcomes, result: dict) -> None:
  """A few steps change little of the initial noise; a planted order is seen."""
  assert_learned(outcomes)
  assert all(found["noise_share"][0] > 0.98 for found in result.values())
  before = figures.kernels(initial_net(outcomes["source"][0]))
  assert abs(figures.colour_scores(before).mean() - 2 / 3) < 0.05
  assert set(result) == {"source", "apart", "dense"}
  assert 0 < result["source"]["p_value"] <= 1
  halves = [colours(x)["scores"].ravel() for x in outcomes["dense"]]
  planted = [np.sort(scores).reshape(2, -1) for scores in halves]
  assert specialisation.compare(5 * planted, halves)["p_value"] < 0.05


EXPERIMENT = Experiment(
  name="figure3",
  question="Do two towers divide the colours between them?",
  runs=[
    SOURCE,
    source("apart", {"network.exchanges": ("fc8",)}),
    dense("dense", 1.0),
  ],
  quick=Quick(check),
  analysis=Analysis(measure, describe, draw),
  seeds=5,
  stages=STAGES,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
