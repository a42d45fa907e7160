"""Section 3.3: what is response normalisation worth on ImageNet?

  python -m experiments.lrn [--quick]

The paper says 1.4 points of top-1 error and 1.2 of top-5. Its net without (#148
of the log) lacks a third norm too, so that is a run of its own here.
"""

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, parameters


def check(outcomes: Outcomes, result: dict) -> None:
  """Norms have no parameters, and the switch reaches the program."""
  learned(outcomes)
  sizes = {parameters(each[0]) for each in outcomes.values()}
  first = {each[0].train("loss")[0] for each in outcomes.values()}
  assert len(sizes) == 1 and len(first) == len(outcomes)


EXPERIMENT = Experiment(
  name="lrn",
  question="What is response normalisation worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_lrn", "configs/no_lrn.py"),
    Run("no_norms_148", "configs/no_norms_148.py"),
  ],
  check=check,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
