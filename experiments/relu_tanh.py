"""Figure 1: how many epochs to 25% training error with ReLU, and with tanh?

  python -m experiments.relu_tanh --set=data_dir=DIR [--runs=relu,tanh]

Section 3.1: a four-layer network on CIFAR-10 reaches 25% training error six
times faster with ReLU than with tanh, with a learning rate chosen for each and
without regularisation. The paper does not say which four layers. Here they are
those of cuda-convnet's 80-second network (three convolutions, a hidden layer of
64, ten classes) without weight decay.

The networks see 10,000 of CIFAR-10's images. The training error is measured
every half epoch on 5,000 of these with the weights standing still, and
interpolated. Each unit trains with each of five rates from two kinds of initial
weights, cuda-convnet's and Glorot's (with pixels of about unit variance), with
seed 0, until one of the five has reached 25% or for 60 epochs. For each unit
and start this rate trains with five more seeds to the lowest bound (20%); seed
0 has chosen it and does not count.
Trains up to 20 small networks, and four of them five times more.
"""

import math
import pathlib
import statistics
from collections.abc import Mapping

from alexnet_jax.training import metrics
from experiments.common import frame
from experiments.common.contrasts import Contrast, difference
from experiments.common.experiment import (
  Analysis,
  Experiment,
  Quick,
  Run,
  Trial,
)
from experiments.common.outcome import (
  Outcome,
  Outcomes,
  assert_learned,
  first_losses,
)

BOUNDS = (0.4, 0.3, 0.25, 0.2)
BOUND = 0.25  # the paper's
# By start, from the middle: what reaches 25% soon shortens the others.
RATES = {
  "source": (0.004, 0.008, 0.002, 0.016, 0.001),
  "glorot": (0.016, 0.032, 0.008, 0.064, 0.004),
}
UNITS = ("relu", "tanh")
EPOCHS = 60
# The layers' inputs and outputs of a kernel: (fan in, fan out).
FANS = {
  "conv1": (25 * 3, 25 * 32),
  "conv2": (25 * 32, 25 * 32),
  "conv3": (25 * 32, 25 * 64),
  "fc6": (4 * 4 * 64, 64),
}
# Deviations by Glorot and Bengio (2010), which assume nearly linear units; for
# ReLU times sqrt(2) (He et al., 2015). Both assume inputs of unit variance.
GAIN = {"relu": math.sqrt(2), "tanh": 1.0}
PIXEL_DEVIATION = 64.0  # about that of CIFAR-10
CLAIMED = math.log(6)


def _run(unit: str, start: str, rate: float) -> Run:
  then = {
    "conv1": ("pool", unit),
    "conv2": (unit, "avg_pool"),
    "conv3": (unit, "avg_pool"),
    "fc6": (unit,),
  }
  overrides = {f"network.{name}.then": steps for name, steps in then.items()}
  if start == "glorot":
    overrides |= {
      f"network.{name}.std": GAIN[unit] * math.sqrt(2 / sum(fans))
      for name, fans in FANS.items()
    }
    overrides["network.fc8_std"] = math.sqrt(2 / (64 + 10))
    overrides["pixels.divisor"] = PIXEL_DEVIATION
  overrides |= {
    "splits.train": "train[:10000]",
    "splits.validation": "train[:5000]",  # evaluated with weights standing
    "optimizer.weight_decay": 0.0,
    "optimizer.layer_weight_decay": (),
    "schedule.learning_rate": rate,
    "schedule.bias_learning_rate": rate,
    "schedule.boundaries": (),
    "total_epochs": EPOCHS,
    "log_every_steps": 20,
    # A run can only end early at a checkpoint, which follows an evaluation.
    "eval_every_epochs": 0.5,
    "diagnose_every_lines": 0,
    "checkpoint_every_steps": 0,
  }
  return Run(f"{unit}-{start}-{rate:g}", "configs/cifar_80sec.py", overrides)


def arm_of(name: str) -> str:
  """ "relu-glorot-0.001" -> "relu-glorot"."""
  return name.rpartition("-")[0]


def start_of(name: str) -> str:
  """ "relu-glorot-0.001" -> "glorot"."""
  return name.split("-")[1]


def curve(outcome: Outcome) -> list[tuple[float, float]]:
  """(epoch, training error) of every evaluation."""
  lines = [line for line in outcome.lines if line["split"] == "validation"]
  return [(line["epoch"], line["top1_error"]) for line in lines]


def epochs_to(outcome: Outcome, bound: float) -> float | None:
  """The epoch at which the training error first reaches a bound, or None."""
  before = (0.0, 1 - 1 / outcome.config["num_classes"])
  for epoch, error in curve(outcome):
    if error <= bound:
      share = (before[1] - bound) / (before[1] - error)
      return before[0] + share * (epoch - before[0])
    before = (epoch, error)
  return None


def log_epochs(outcome: Outcome) -> float:
  """The logarithm of the epochs to 25%; of all epochs if it stays above.

  A difference of two is the logarithm of a ratio. A run that stays above is
  counted too early: the ratio is then a lower bound.
  """
  return math.log(epochs_to(outcome, BOUND) or EPOCHS)


def is_decided(outcome: Outcome) -> bool:
  """Whether the rest of a run can change no result.

  A run of seed 0, which chooses the rate, ends when it or another rate of its
  unit and start has reached 25% by the epoch at which it stands. A run of
  another seed ends at the lowest bound.
  """
  if outcome.seed != 0:
    return epochs_to(outcome, BOUNDS[-1]) is not None
  epoch = max((epoch for epoch, _ in curve(outcome)), default=0.0)
  folder = pathlib.Path(outcome.workdir).parent
  rates = RATES[start_of(outcome.name)]
  names = [f"{arm_of(outcome.name)}-{rate:g}-0" for rate in rates]
  lines = [metrics.read(str(folder / name)) for name in names]
  reached = [epochs_to(outcome._replace(lines=each), BOUND) for each in lines]
  return any(each is not None and each <= epoch for each in reached)


def choose(outcomes: Outcomes) -> list[str]:
  """For each arm the run that reaches 25% first, else with the least error."""

  def rank(name: str) -> tuple[float, float]:
    outcome = outcomes[name][0]
    errors = [error for _, error in curve(outcome)]
    return epochs_to(outcome, BOUND) or math.inf, min(errors, default=1.0)

  arms = dict.fromkeys(arm_of(name) for name in outcomes)
  return [
    min((name for name in outcomes if arm_of(name) == arm), key=rank)
    for arm in arms
  ]


def by_arm(outcomes: Outcomes) -> Outcomes:
  """The chosen runs under the names of their arms, without the seed 0."""
  found = Outcomes()
  for name in choose(outcomes):
    rest = [outcome for outcome in outcomes[name] if outcome.seed != 0]
    found[arm_of(name)] = rest or outcomes[name]
  return found


def measure(outcomes: Outcomes) -> dict:
  """All rates' epochs to each bound with seed 0; the chosen rates' by seed."""

  def epochs(outcome: Outcome) -> dict[str, float | None]:
    return {f"{bound:.0%}": epochs_to(outcome, bound) for bound in BOUNDS}

  chosen = {}
  for name in choose(outcomes):
    arm = by_arm(outcomes)[arm_of(name)]
    rate = float(name.rpartition("-")[2])
    rates = RATES[start_of(name)]
    chosen[arm_of(name)] = {
      "learning_rate": rate,
      "seeds": [outcome.seed for outcome in arm],
      "epochs": [epochs(outcome) for outcome in arm],
      "at_an_edge": rate in (min(rates), max(rates)),
    }
  return {
    "tried": {name: epochs(each[0]) for name, each in outcomes.items()},
    "curves": {
      arm: [
        [[round(e, 2), round(error, 4)] for e, error in curve(outcome)]
        for outcome in repeats
      ]
      for arm, repeats in by_arm(outcomes).items()
    },
    "chosen": chosen,
    "ratios": {
      start: ratios(chosen, start)
      for start in RATES
      if {f"relu-{start}", f"tanh-{start}"} <= chosen.keys()
    },
  }


def ratios(chosen: Mapping, start: str) -> dict[str, float | None]:
  """tanh's mean epochs over ReLU's at each bound; None if a run stays above."""
  result = {}
  for bound in (f"{bound:.0%}" for bound in BOUNDS):
    means = []
    for unit in UNITS:
      found = [epochs[bound] for epochs in chosen[f"{unit}-{start}"]["epochs"]]
      means.append(statistics.fmean(found) if all(found) else None)
    relu, tanh = means
    result[bound] = tanh / relu if relu and tanh else None
  return result


def describe(result: dict) -> str:
  """The ratio at 25% from each start."""
  parts = []
  for start, found in result["ratios"].items():
    ratio = found["25%"]
    times = f"{ratio:.1f} times ReLU's epochs" if ratio else "longer"
    parts.append(f"from {start} weights tanh takes {times}")
  return "; ".join(parts) + ", paper 6"


def claims(result: dict) -> dict:
  """The paper's factor of six, from cuda-convnet's initial weights."""
  ratio = result["ratios"].get("source", {}).get("25%")
  if not ratio:
    return {}
  seeds = len(result["chosen"]["tanh-source"]["seeds"])
  how = f"80-second net without decay, {seeds} seed(s), best of five rates"
  return {"relu.speedup": {"value": ratio, "how": how}}


def draw(outcomes: Outcomes, axes) -> None:
  """Figure 1: the training error of the chosen runs, one colour a unit."""
  for arm, repeats in by_arm(outcomes).items():
    unit, _, start = arm.partition("-")
    for outcome in repeats:
      points = curve(outcome)
      axes.plot(
        [epoch for epoch, _ in points],
        [error for _, error in points],
        color=f"C{UNITS.index(unit)}",
        linestyle="-" if start == "source" else ":",
        label=arm if outcome is repeats[0] else None,
      )
  axes.axhline(BOUND, color="grey", linewidth=0.6)
  axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None))
  axes.legend()


def check(outcomes: Outcomes, result: dict) -> None:
  """Runs of one unit start alike at each rate; the starts differ."""
  assert_learned(outcomes)
  first = first_losses(outcomes)
  assert first["tanh-source-0.001"] == first["tanh-source-0.002"]
  assert first["relu-source-0.004"] != first["relu-glorot-0.004"]
  # With pixels from 0 to 255 it would be about 60.
  assert first["relu-glorot-0.004"] < 5
  assert set(result["chosen"]) == {"relu-source", "tanh-source", "relu-glorot"}


EXPERIMENT = Experiment(
  name="relu_tanh",
  question="How many epochs to 25% training error with ReLU, and with tanh?",
  runs=[
    _run(unit, start, rate)
    for start, rates in RATES.items()
    for unit in UNITS
    for rate in rates
  ],
  contrasts=[
    Contrast(
      f"log of tanh's epochs over ReLU's, {start} weights",
      difference(f"tanh-{start}", f"relu-{start}"),
      claimed=CLAIMED,
      margin=math.log(1.5),
      measure=log_epochs,
      unit="",
      primary=start == "source",
    )
    for start in RATES
  ],
  quick=Quick(
    check,
    overrides={
      "image_size": 32,
      "network.crop_size": 32,
      "network.width": 1 / 4,
      "mesh.data": 1,
      "splits.train": "train[:512]",
      "splits.validation": "validation[:64]",
      "total_steps": 16,  # one epoch
    },
    runs=(
      "relu-source-0.004",
      "tanh-source-0.001",
      "tanh-source-0.002",
      "relu-glorot-0.004",
    ),
  ),
  analysis=Analysis(measure, describe, draw, claims, by_arm),
  seeds=6,
  trial=Trial({}, choose),
  stop_early=is_decided,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
