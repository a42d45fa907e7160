"""Section 3.3 on CIFAR-10: 13% test error without normalisation, 11% with it?

  python -m experiments.lrn_cifar10 --set=data_dir=DIR [--quick]

The two networks of cuda-convnet that the paper refers to differ in more than
normalisation: the 11% network's third layer is twice as wide, its last layer
has more weight decay, and it trains for 520 epochs instead of 160. The run
`lrn_alone` adds the normalisation, and nothing else, to the 13% network.
Compares test errors (centre view; the paper's 13% and 11% average several
views). Trains three small networks on CIFAR-10 for 160, 520 and 160 epochs; the
committed result has 20 epochs of each.
"""

from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  count_parameters,
  summary,
)

NORMS_OF_11PCT = {
  "network.conv1.then": ("relu", "pool", "lrn"),
  "network.conv2.then": ("relu", "lrn", "pool"),
  "network.lrn_k": 1.0,
  "network.lrn_n": 9,
  "network.lrn_alpha": 1e-3 / 9,
}


def measure(outcomes: Outcomes) -> dict:
  """The runs, and their numbers of epochs (160 and 520 in full)."""
  return {
    "runs": summary(outcomes),
    "epochs": {
      name: round(repeats[0].lines[-1]["epoch"])
      for name, repeats in outcomes.items()
    },
  }


def claims(result: dict) -> dict:
  """Test errors of both networks, with the number of epochs trained."""
  return {
    f"lrn.cifar10.{key}": {
      "value": result["runs"][name]["validation_top1_error"]["mean"],
      "how": f"centre view, {result['epochs'][name]} of {full} epochs",
    }
    for key, name, full in (("without", "13pct", 160), ("with", "11pct", 520))
    if name in result["runs"]
  }


def check(outcomes: Outcomes, result: dict) -> None:
  """Normalisation has no parameters; the 11% network's third layer does."""
  assert_learned(outcomes)
  plain, both, alone = (
    outcomes[name][0] for name in ("13pct", "11pct", "lrn_alone")
  )
  assert count_parameters(alone) == count_parameters(plain)
  assert count_parameters(both) > 1.5 * count_parameters(plain)
  # The first weights are so small that both first losses are ln(10).
  assert alone.train("loss") != plain.train("loss")


EXPERIMENT = Experiment(
  name="lrn_cifar10",
  question="Does response normalisation alone lower CIFAR-10's test error?",
  runs=[
    Run("13pct", "configs/cifar_13pct.py"),
    Run("11pct", "configs/cifar_11pct.py"),
    Run("lrn_alone", "configs/cifar_13pct.py", NORMS_OF_11PCT),
  ],
  quick=Quick(
    check,
    overrides={
      "image_size": 32,
      "network.crop_size": 24,
      "network.width": 1 / 4,
      "mesh.data": 1,
    },
  ),
  analysis=Analysis(measure, claims=claims),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
