"""Which learning rate does the source's recipe want on these images?

  python -m experiments.rates [--quick]

The rates of the other experiments of docs/study.md are multiples of the one
that this finds: the rate with the lowest loss on the validation images at the
end of a whole training, among five that differ by factors of two. The seed,
100, is used nowhere else. Trains five networks on ImageNet.
"""

from experiments.common import frame
from experiments.common.base import source
from experiments.common.experiment import Analysis, Experiment, Quick
from experiments.common.outcome import Outcomes, assert_learned, summary

FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the paper's .01
SEED = 100


def measure(outcomes: Outcomes) -> dict:
  """The runs, the loss at each rate, and the best rate."""
  losses = {}
  for (outcome,) in outcomes.values():
    if not outcome.diverged:
      losses[outcome.config["schedule"]["learning_rate"]] = outcome.last("loss")
  best = min(losses, key=losses.get)
  return {
    "runs": summary(outcomes),
    "validation_losses": {f"{rate:g}": loss for rate, loss in losses.items()},
    "best": best,
    "at_an_edge": best in (min(losses), 0.01 * FACTORS[-1]),
  }


def describe(result: dict) -> str:
  """The best rate and the losses."""
  losses = ", ".join(
    f"{rate}: {loss:.3f}" for rate, loss in result["validation_losses"].items()
  )
  edge = " (at an edge of those tried)" if result["at_an_edge"] else ""
  return f"best rate {result['best']:g}{edge}; validation losses {losses}"


def check(outcomes: Outcomes, result: dict) -> None:
  """The rates are multiples of the paper's, and one of them is chosen."""
  assert_learned(outcomes)
  assert sorted(map(float, result["validation_losses"])) == [0.01, 0.02]
  assert result["best"] in (0.01, 0.02)


EXPERIMENT = Experiment(
  name="rates",
  question="Which learning rate does the source's recipe want here?",
  runs=[
    source(f"rate-x{factor:g}", {"seed": SEED}, rate=factor)
    for factor in FACTORS
  ],
  quick=Quick(check, runs=("rate-x1", "rate-x2")),
  analysis=Analysis(measure, describe),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
