"""The text's recipe against the released source's, on the same images.

  python -m experiments.released_source [--quick]
      [--set=total_epochs=20,dataset=imagenette224,num_classes=10,batch_size=64]

Section 5 starts all layers with 0.01; the authors' source starts conv3 to conv5
with 0.03, and differs in eight more things (docs/fidelity.md). The source's
rates fall at the epochs of its log, which are the text's too, as a piecewise
schedule, so that `total_epochs` can shorten both.
"""

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, in_words, learned, parameters, summary
from experiments.plateau import images_to_leave

EVERY_LOSS = {"log_every_steps": 1, "diagnose_every_lines": 50}


def measure(outcomes: Outcomes) -> dict:
  """The runs, and the first image at which each has left the plateau."""
  return {
    "runs": summary(outcomes),
    "images_to_leave_the_plateau": {
      name: [images_to_leave(one) for one in each]
      for name, each in outcomes.items()
    },
  }


def words(result: dict) -> str:
  """The errors, and when the loss of guessing was left."""
  left = (
    f"{name} left the loss of guessing after "
    + ", ".join("never" if i is None else f"{i:,}" for i in images)
    + " images"
    for name, images in result["images_to_leave_the_plateau"].items()
  )
  return "; ".join([in_words(result), *left])


def check(outcomes: Outcomes, result: dict) -> None:
  """The same network, images and order; 0.03 spreads the first scores more."""
  learned(outcomes)
  sizes = {parameters(each[0]) for each in outcomes.values()}
  assert len(sizes) == 1
  first = {name: each[0].train("loss")[0] for name, each in outcomes.items()}
  assert first["original2012"] > first["paper"]


EXPERIMENT = Experiment(
  name="released_source",
  question="Does the released source's recipe train better than the text's?",
  runs=[
    Run("paper", "configs/paper.py", EVERY_LOSS),
    Run(
      "original2012",
      "configs/original2012.py",
      EVERY_LOSS | {"schedule.name": "piecewise"},
    ),
  ],
  check=check,
  measure=measure,
  words=words,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
