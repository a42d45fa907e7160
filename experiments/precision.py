"""Does training in bfloat16 follow the loss of training in float32?

  python -m experiments.precision --set=data_dir=DIR [--quick]

Not the paper's question: its GPUs computed in float32 only. Compares 300 steps
of both from the same weights over the same images; the yardstick is the
distance between two seeds in float32. Curves are means of 20 steps. Trains two
networks with two seeds each on Imagenette.
"""

import statistics

from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import (
  Outcome,
  Outcomes,
  assert_learned,
  first_losses,
)

WINDOW = 20


def block_means(outcome: Outcome, window: int = WINDOW) -> list[float]:
  """The training loss, one mean for every `window` steps."""
  losses = outcome.train("loss")
  return [
    statistics.fmean(losses[start : start + window])
    for start in range(0, len(losses), window)
  ]


def distance(a: Outcome, b: Outcome) -> float:
  """Mean absolute difference between two smoothed loss curves."""
  pairs = zip(block_means(a), block_means(b), strict=True)
  return statistics.fmean(abs(x - y) for x, y in pairs)


def measure(outcomes: Outcomes) -> dict:
  """The curves, and the distances between precisions and between seeds."""
  wide, narrow = outcomes["float32"], outcomes["bfloat16"]
  return {
    "losses": {
      name: [
        [round(loss, 4) for loss in block_means(outcome)] for outcome in repeats
      ]
      for name, repeats in outcomes.items()
    },
    "precisions_apart": [
      distance(a, b) for a, b in zip(wide, narrow, strict=True)
    ],
    "seeds_apart": [distance(wide[0], other) for other in wide[1:]],
  }


def describe(result: dict) -> str:
  """Both distances."""
  found = ", ".join(f"{x:.3f}" for x in result["precisions_apart"])
  text = f"losses of bfloat16 and float32 lie {found} apart"
  if result["seeds_apart"]:
    seeds = ", ".join(f"{x:.3f}" for x in result["seeds_apart"])
    text += f"; two seeds of float32 {seeds}"
  return text


def draw(outcomes: Outcomes, axes) -> None:
  """The smoothed losses, one colour a precision."""
  for colour, (name, repeats) in enumerate(outcomes.items()):
    for outcome in repeats:
      losses = block_means(outcome)
      axes.plot(
        [WINDOW * (i + 0.5) for i in range(len(losses))],
        losses,
        color=f"C{colour}",
        linestyle="-" if name == "float32" else "--",
        label=name if outcome is repeats[0] else None,
      )
  axes.set(xlabel="steps", ylabel=f"loss, mean of {WINDOW} steps")
  axes.legend()


def check(outcomes: Outcomes, result: dict) -> None:
  """Rounding changes the loss of the same weights and images a little."""
  assert_learned(outcomes)
  first = first_losses(outcomes)
  wide = first["float32"]
  assert 0 < abs(wide - first["bfloat16"]) < 0.01 * wide
  assert 0 < result["precisions_apart"][0] < 0.1 * wide


EXPERIMENT = Experiment(
  name="precision",
  question="Does training in bfloat16 follow the loss of float32?",
  runs=[
    Run(
      dtype,
      "configs/imagenette.py",
      {
        "network.compute_dtype": dtype,
        "total_steps": 300,
        "batch_size": 64,
        "log_every_steps": 1,
        "eval_every_epochs": 0,
        "diagnose_every_lines": 0,
      },
    )
    for dtype in ("float32", "bfloat16")
  ],
  quick=Quick(check),
  analysis=Analysis(measure, describe, draw),
  seeds=2,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
