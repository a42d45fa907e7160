"""Section 4.1: what are ten views worth over one?

  python -m experiments.ten_views [--quick]

The paper: errors of 39.0% and 18.3% on ILSVRC-2010's test images with the
centre view alone, 37.5% and 17.0% averaged over corners, centre and their
reflections. Evaluates one network both ways; trains it on ImageNet first.
"""

from alexnet_jax.training.run_evaluation import evaluate_runs
from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import Outcomes


def measure(outcomes: Outcomes) -> dict:
  """The errors with one view and with ten, of every seed."""
  return {
    str(views): [
      evaluate_runs([outcome.workdir], views=views, split="validation").result
      for outcome in outcomes["paper"]
    ]
    for views in (1, 10)
  }


def describe(result: dict) -> str:
  """Top-1 error with one view and with ten, of the first seed."""
  one, ten = (result[views][0]["top1_error"] for views in ("1", "10"))
  return f"top-1 error {one:.1%} with one view, {ten:.1%} with ten"


def check(outcomes: Outcomes, result: dict) -> None:
  """One view gives the error of the training; ten count the same images."""
  one, ten = result["1"][0], result["10"][0]
  assert one["num_examples"] == ten["num_examples"] == 64
  last = outcomes["paper"][0]
  assert abs(one["loss"] - last.last("loss")) < 1e-4
  assert one["loss"] != ten["loss"]  # views differ


EXPERIMENT = Experiment(
  name="ten_views",
  question="What are ten views worth over one?",
  runs=[Run("paper", "configs/paper.py")],
  quick=Quick(check),
  analysis=Analysis(measure, describe),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
