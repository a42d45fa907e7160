"""Section 3.3: what is response normalisation worth, and does it mend a start?

  python -m experiments.lrn [--quick]

The paper says 1.4 points of top-1 error. The authors' network without
normalisation (#148) also lacks a third norm that only the source has. Others
measured no gain. Their initial weights differ: .01 in all layers (the text) or
.03 in conv3 to conv5 (the source). Compares response normalisation, none, and
batch normalisation in its place, each from both initial weights; the question
of their interaction is whether normalisation only mends a bad start. Trains
seven networks on ImageNet for each of five seeds.
"""

from experiments.common import frame
from experiments.common.base import SOURCE, source
from experiments.common.contrasts import Contrast, difference
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import assert_differ_in_loss_only

# What follows conv1 and conv2; the source normalises before conv1's ReLU.
NORMS = {
  "lrn": (("lrn", "pool", "relu"), ("relu", "lrn", "pool")),
  "none": (("pool", "relu"), ("relu", "pool")),
  "batch_norm": (
    ("batch_norm", "pool", "relu"),
    ("batch_norm", "relu", "pool"),
  ),
}
MARGIN = 0.5


def _run(norm: str, std: float) -> Run:
  first, second = NORMS[norm]
  changes = {"network.conv1.then": first, "network.conv2.then": second}
  changes |= {f"network.conv{i}.std": std for i in (3, 4, 5)}
  return source(f"{norm}-{std:g}", changes)


EXPERIMENT = Experiment(
  name="lrn",
  question="What is response normalisation worth, and from which start?",
  runs=[SOURCE, *(_run(norm, std) for std in (0.03, 0.01) for norm in NORMS)],
  contrasts=[
    Contrast(
      "LRN, source's start",
      difference("lrn-0.03", "none-0.03"),
      claimed=-1.4,
      margin=MARGIN,
      primary=True,
    ),
    Contrast(
      "LRN, text's start",
      difference("lrn-0.01", "none-0.01"),
      claimed=-1.4,
      margin=MARGIN,
      primary=True,
    ),
    Contrast(
      "LRN's gain, text's minus source's start",
      difference("lrn-0.01", "none-0.01")
      | {"lrn-0.03": -1.0, "none-0.03": 1.0},
      claimed=None,
      margin=MARGIN,
    ),
    Contrast(
      "batch norm minus LRN, source's start",
      difference("batch_norm-0.03", "lrn-0.03"),
      claimed=None,
      margin=MARGIN,
    ),
    Contrast(
      "the source's norm within maps",
      difference("source", "lrn-0.03"),
      claimed=None,
      margin=MARGIN,
    ),
  ],
  quick=Quick(
    assert_differ_in_loss_only, runs=("source", "lrn-0.03", "none-0.03")
  ),
  seeds=5,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
