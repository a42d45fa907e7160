"""Does training in bfloat16 follow the loss of training in float32?

  python -m experiments.precision --set=data_dir=DIR [--quick]

Not the paper's question: its GPUs had float32 alone. 300 steps of both from the
same weights over the same images; the yardstick is how far apart two seeds are
in float32. Curves are means of 20 steps.
"""

import statistics

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcome, Outcomes, learned

WINDOW = 20


def smoothed(outcome: Outcome, window: int = WINDOW) -> list[float]:
  """The training loss, a mean for every `window` steps."""
  losses = outcome.train("loss")
  return [
    statistics.fmean(losses[start : start + window])
    for start in range(0, len(losses), window)
  ]


def apart(one: Outcome, other: Outcome) -> float:
  """Mean distance of two smoothed curves, in loss."""
  pairs = zip(smoothed(one), smoothed(other), strict=True)
  return statistics.fmean(abs(a - b) for a, b in pairs)


def measure(outcomes: Outcomes) -> dict:
  """The curves; how far apart precisions are, and how far apart seeds."""
  wide, narrow = outcomes["float32"], outcomes["bfloat16"]
  return {
    "losses": {
      name: [[round(loss, 4) for loss in smoothed(one)] for one in each]
      for name, each in outcomes.items()
    },
    "precisions_apart": [
      apart(a, b) for a, b in zip(wide, narrow, strict=True)
    ],
    "seeds_apart": [apart(wide[0], other) for other in wide[1:]],
  }


def words(result: dict) -> str:
  """Both distances."""
  found = ", ".join(f"{x:.3f}" for x in result["precisions_apart"])
  said = f"losses of bfloat16 and float32 lie {found} apart"
  if result["seeds_apart"]:
    each = ", ".join(f"{x:.3f}" for x in result["seeds_apart"])
    said += f"; two seeds of float32 {each}"
  return said


def draw(outcomes: Outcomes, axes) -> None:
  """The smoothed losses, a colour a precision."""
  for colour, (name, each) in enumerate(outcomes.items()):
    for one in each:
      losses = smoothed(one)
      axes.plot(
        [WINDOW * (i + 0.5) for i in range(len(losses))],
        losses,
        color=f"C{colour}",
        linestyle="-" if name == "float32" else "--",
        label=name if one is each[0] else None,
      )
  axes.set(xlabel="steps", ylabel=f"loss, mean of {WINDOW} steps")
  axes.legend()


def check(outcomes: Outcomes, result: dict) -> None:
  """The same weights and images, rounded: near from the start, never equal."""
  learned(outcomes)
  wide, narrow = (outcomes[name][0] for name in ("float32", "bfloat16"))
  first = wide.train("loss")[0], narrow.train("loss")[0]
  assert 0 < abs(first[0] - first[1]) < 0.01 * first[0]
  assert 0 < result["precisions_apart"][0] < 0.1 * first[0]


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
  check=check,
  measure=measure,
  draw=draw,
  words=words,
  seeds=2,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
