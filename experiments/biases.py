"""Section 5: do biases of 1 accelerate the early stages of learning?

  python -m experiments.biases [--quick]

"This initialization accelerates the early stages of learning by providing the
ReLUs with positive inputs." Compares initial biases of 1, .1 and 0 in conv2,
conv4, conv5, fc6 and fc7: the mean loss of the first tenth of the training
(batches as they are trained on), and the test error at the end. Trains three
networks on ImageNet for each of five seeds.
"""

import statistics

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import Contrast, difference
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import (
  Outcome,
  Outcomes,
  assert_learned,
  assert_same_size,
  first_losses,
)

BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")


def early_loss(outcome: Outcome) -> float:
  """The mean loss of the training lines of the first tenth, in nats."""
  losses = outcome.train("loss")
  return statistics.fmean(losses[: max(1, len(losses) // 10)])


def _run(bias: float) -> Run:
  changes = {f"network.{name}.bias": bias for name in BIASED}
  return source(f"bias{bias:g}", changes)


def check(outcomes: Outcomes, result: dict) -> None:
  """The networks are equally large and start at different losses."""
  assert_learned(outcomes)
  assert_same_size(outcomes)
  assert len(set(first_losses(outcomes).values())) == len(outcomes)


EXPERIMENT = Experiment(
  name="biases",
  question="Do biases of 1 accelerate the early stages of learning?",
  runs=[SOURCE, _run(0.1), _run(0.0)],
  contrasts=[
    Contrast(
      "biases 1 minus 0, early loss",
      difference("source", "bias0"),
      claimed="less",
      margin=0.02,
      measure=early_loss,
      unit="nats",
      primary=True,
    ),
    Contrast(
      "biases 1 minus .1, early loss",
      difference("source", "bias0.1"),
      claimed="less",
      margin=0.02,
      measure=early_loss,
      unit="nats",
    ),
    Contrast(
      "biases 1 minus 0, test error",
      difference("source", "bias0"),
      claimed=None,
      margin=1.0,
    ),
    Contrast(
      "biases 1 minus .1, test error",
      difference("source", "bias0.1"),
      claimed=None,
      margin=1.0,
    ),
  ],
  quick=Quick(check),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
