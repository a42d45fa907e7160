"""Section 4.1: what is lighting noise worth?

  python -m experiments.lighting [--quick]

Compares the paper's configuration with the same without noise along the
principal components of RGB. The paper says that the noise lowers top-1 error
by over one point; the authors' log holds no such run. Trains two networks on
ImageNet.
"""

from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned, first_losses


def check(outcomes: Outcomes, result: dict) -> None:
  """The same crops in other light have slightly different losses."""
  assert_learned(outcomes)
  first = first_losses(outcomes)
  assert 0 < abs(first["paper"] - first["no_lighting"]) < 0.5


EXPERIMENT = Experiment(
  name="lighting",
  question="What is noise along the principal components of RGB worth?",
  runs=[
    Run("paper", "configs/paper.py"),
    Run("no_lighting", "configs/no_lighting.py"),
  ],
  quick=Quick(check),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
