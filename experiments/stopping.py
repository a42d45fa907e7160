"""Section 5: should the validation error decide over the rate, or the end?

  python -m experiments.stopping [--quick]

The paper divides the rate by ten "when the validation error rate stopped
improving with the current learning rate". Compares the source's later rule,
which needs no evaluation (`dexp`), with the paper's (`plateau_1`), and with the
same later rule when the run ends after two evaluations without a lower error
(`early_2`). Both evaluate after every epoch. The paper does not say after how
many evaluations an error has stopped improving; here it is one. Trains three
networks on ImageNet for each of five seeds.
"""

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import Contrast, difference
from experiments.common.experiment import Experiment, Quick
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  assert_same_size,
  first_losses,
)

EVERY_EPOCH = {"eval_every_epochs": 1.0}
PLATEAU = {
  "schedule.name": "plateau",
  "schedule.bias_drops": "all",
  "schedule.patience": 1,
}
EARLY = {"early_stopping": 2}


def check(outcomes: Outcomes, result: dict) -> None:
  """Each step is evaluated; rate and end follow from the errors."""
  assert_learned(Outcomes(source=outcomes["source"]))
  assert_same_size(outcomes)
  assert len(set(first_losses(outcomes).values())) == 1

  (plateau,), (early,) = outcomes["plateau_1"], outcomes["early_2"]
  errors = plateau.validation("top1_error")
  not_better = [e >= min([1.0, *errors[:i]]) for i, e in enumerate(errors)]
  rates = plateau.train("learning_rate")
  for done, rate in enumerate(rates):
    drops = min(3, sum(not_better[:done]))
    assert abs(rate / rates[0] - 0.1**drops) < 1e-6

  errors = early.validation("top1_error")
  waited = len(errors) - 1 - errors.index(min(errors))
  assert waited == 2 or (waited < 2 and len(errors) == 8)


EXPERIMENT = Experiment(
  name="stopping",
  question="Should the validation error decide over the rate, or the end?",
  runs=[
    SOURCE,
    source("plateau_1", PLATEAU, fixed=EVERY_EPOCH),
    source("early_2", EARLY, fixed=EVERY_EPOCH),
  ],
  contrasts=[
    Contrast(
      "the paper's rule minus dexp",
      difference("plateau_1", "source"),
      claimed=None,
      margin=1.0,
    ),
    Contrast(
      "early stopping minus none",
      difference("early_2", "source"),
      claimed=None,
      margin=1.0,
    ),
  ],
  quick=Quick(check, overrides={"eval_every_epochs": 1 / 8}),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
