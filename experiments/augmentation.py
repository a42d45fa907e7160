"""Section 4.1: without random crops and reflections, does it overfit?

  python -m experiments.augmentation [--quick]

"Without this scheme, our network suffers from substantial overfitting, which
would have forced us to use much smaller networks." Lighting, the second scheme
of that section, is on in both; `experiments/lighting.py` switches it off alone.
"""

from experiments import dropout, frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, parameters, summary


def measure(outcomes: Outcomes) -> dict:
  """The runs, and their errors on training and on validation images."""
  return {
    "runs": summary(outcomes),
    "errors": dropout.errors(outcomes),
  }


def check(outcomes: Outcomes, result: dict) -> None:
  """The same weights see other pixels from the first batch on."""
  learned(outcomes)
  first = {each[0].train("loss")[0] for each in outcomes.values()}
  sizes = {parameters(each[0]) for each in outcomes.values()}
  assert len(first) == 2 and len(sizes) == 1


EXPERIMENT = Experiment(
  name="augmentation",
  question="Do random crops and reflections prevent overfitting?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run(
      "centre",
      "configs/no_augmentation.py",
      {"augmentation.lighting": 0.1},
    ),
  ],
  check=check,
  measure=measure,
  words=dropout.words,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
