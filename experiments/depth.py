"""Sections 1 and 7: what does removing each convolutional layer cost?

  python -m experiments.depth [--quick]

"Removing any convolutional layer (each of which contains no more than 1% of the
model's parameters) resulted in inferior performance"; removing a middle one
costs about 2 points of top-1 error. The authors' log holds no such run, and
conv3 and conv4 contain 1.45% and 1.09% of the parameters. Compares the source's
recipe with networks that lack one layer: at the same rate, and, since a
shallower network may want another one, at the best of half, the same and twice
that rate by the validation error. Without conv5, fc6 reads 192 maps a tower
instead of 128; `no_conv5_128` has 128. Trains eighteen networks on ImageNet for
each of three seeds.
"""

import statistics

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import (
  Contrast,
  difference,
  error_on_test_images,
)
from experiments.common.experiment import Analysis, Experiment, Quick
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  draw_curves,
  summary,
)
from experiments.common.statistics import paired_difference

# The pooling of a removed layer follows the layer before it, so that the maps
# keep their sizes. conv2, when it is the first, takes conv1's stride.
REMOVED = {
  "no_conv1": {
    "network.conv1.features": 0,
    "network.conv2.stride": 4,
    "network.conv2.padding": (0, 0),
    "network.conv2.then": ("relu", "lrn", "within_map_norm", "pool", "pool"),
  },
  "no_conv2": {
    "network.conv2.features": 0,
    "network.conv1.then": ("lrn", "pool", "relu", "pool"),
  },
  "no_conv3": {
    "network.conv3.features": 0,
    "network.exchanges": ("conv4", "fc6", "fc7", "fc8"),
  },
  "no_conv4": {"network.conv4.features": 0},
  "no_conv5": {
    "network.conv5.features": 0,
    "network.conv4.then": ("relu", "pool"),
  },
}
MAPS_128 = REMOVED["no_conv5"] | {"network.conv4.features": 128}
RATES = (0.5, 2.0)  # beside 1, times the rate of the whole network


def tuned(outcomes: Outcomes) -> dict:
  """By removed layer: the best rate, and the difference in test error there.

  The rate is chosen by the mean validation error over the seeds; the whole
  network keeps its own, which was chosen in the same way before.
  """
  result = {}
  base = {o.seed: error_on_test_images(o) for o in outcomes["source"]}
  for name in REMOVED:
    arms = {1.0: name} | {rate: f"{name}-rate{rate:g}" for rate in RATES}
    errors = {
      rate: statistics.fmean(o.validation_error for o in outcomes[arm])
      for rate, arm in arms.items()
      if arm in outcomes
    }
    if not errors:
      continue
    best = min(errors, key=errors.get)
    test = {o.seed: error_on_test_images(o) for o in outcomes[arms[best]]}
    result[name] = {"rate": best, "validation_errors": errors}
    if len(test.keys() & base.keys()) > 1:
      result[name]["difference"] = paired_difference(test, base)._asdict()
  return result


def measure(outcomes: Outcomes) -> dict:
  """The runs, and the differences with each network's own rate."""
  return {"runs": summary(outcomes), "tuned": tuned(outcomes)}


def draw(outcomes: Outcomes, axes) -> None:
  """The curves at the base's rate; those of other rates would cover them."""
  shown = {name: o for name, o in outcomes.items() if "-rate" not in name}
  draw_curves(Outcomes(shown), axes)


def check(outcomes: Outcomes, result: dict) -> None:
  """At full size, the network without conv4 lacks conv4's parameters."""
  assert_learned(outcomes)
  whole = comparison.sizes(configs.load("configs/paper.py"))
  without = comparison.sizes(configs.load("configs/no_conv4.py"))
  conv4 = 3 * 3 * 192 * 384 + 384
  # conv5 then reads conv3's 192 maps as it read conv4's.
  removed = whole["size.parameters"] - without["size.parameters"]
  assert removed == conv4
  assert outcomes.keys() == set(EXPERIMENT.quick.runs)


EXPERIMENT = Experiment(
  name="depth",
  question="What does removing each convolutional layer cost?",
  runs=[
    SOURCE,
    *(source(name, changes) for name, changes in REMOVED.items()),
    source("no_conv5_128", MAPS_128),
    *(
      source(f"{name}-rate{rate:g}", changes, rate=rate)
      for rate in RATES
      for name, changes in REMOVED.items()
    ),
  ],
  contrasts=[
    Contrast(
      "a middle layer removed",
      {"no_conv3": 0.5, "no_conv4": 0.5, "source": -1.0},
      claimed=2.0,
      margin=0.5,
      primary=True,
    ),
    *(
      Contrast(
        f"{name.removeprefix('no_')} removed",
        difference(name, "source"),
        claimed="more",
        margin=0.5,
      )
      for name in (*REMOVED, "no_conv5_128")
    ),
  ],
  quick=Quick(check, runs=("source", "no_conv1", "no_conv4")),
  analysis=Analysis(measure, draw=draw),
  seeds=3,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
