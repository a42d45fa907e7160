"""Section 4.1: ten views instead of one.

  python -m experiments.ten_views [--quick]

The paper: 39.0% and 18.3% on ILSVRC-2010's test images with the centre alone,
37.5% and 17.0% averaged over corners, centre and reflections.
"""

from alexnet_jax.training.runs import evaluate_runs
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes


def measure(outcomes: Outcomes) -> dict:
  """The errors with one view and with ten, of every seed."""
  return {
    str(views): [
      evaluate_runs([one.workdir], views=views, split="validation")
      for one in outcomes["paper"]
    ]
    for views in (1, 10)
  }


def words(result: dict) -> str:
  """Top-1 error with one view and with ten, the first seed's."""
  one, ten = (result[views][0]["top1_error"] for views in ("1", "10"))
  return f"top-1 error {one:.1%} with one view, {ten:.1%} with ten"


def check(outcomes: Outcomes, result: dict) -> None:
  """One view is what training saw; ten count the same images once each."""
  one, ten = result["1"][0], result["10"][0]
  assert one["num_examples"] == ten["num_examples"] == 128
  last = outcomes["paper"][0]
  assert abs(one["loss"] - last.last("loss")) < 1e-4
  # The mean of probabilities is never less likely than the worst view; views
  # differ, so the two losses do.
  assert one["loss"] != ten["loss"]


EXPERIMENT = Experiment(
  name="ten_views",
  question="What are ten views worth over one?",
  runs=[Run("paper", "configs/paper.py")],
  check=check,
  measure=measure,
  words=words,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
