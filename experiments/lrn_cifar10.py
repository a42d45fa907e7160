"""Section 3.3 on CIFAR-10: 13% test error without normalisation, 11% with it?

  python -m experiments.lrn_cifar10 --set=data_dir=DIR [--quick]

The two nets of cuda-convnet that the paper speaks of differ in more: the 11%
net's third layer is twice as wide, its last layer decays more, and it trains
520 epochs instead of 160. The third run puts the normalisation, and nothing
else, into the 13% net.
"""

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, parameters, summary

ALONE = {
  "network.conv1.then": ("relu", "pool", "lrn"),
  "network.conv2.then": ("relu", "lrn", "pool"),
  "network.lrn_k": 1.0,
  "network.lrn_n": 9,
  "network.lrn_alpha": 1e-3 / 9,
}


def measure(outcomes: Outcomes) -> dict:
  """The runs, and how many epochs each was trained: 160 and 520 in full."""
  return {
    "runs": summary(outcomes),
    "epochs": {
      name: round(each[0].lines[-1]["epoch"]) for name, each in outcomes.items()
    },
  }


def claims(result: dict) -> dict:
  """Test errors of both nets, however long they were trained."""
  return {
    f"lrn.cifar10.{key}": {
      "value": result["runs"][name]["validation_top1_error"]["mean"],
      "how": f"centre view, {result['epochs'][name]} of {full} epochs",
    }
    for key, name, full in (("without", "13pct", 160), ("with", "11pct", 520))
    if name in result["runs"]
  }


def check(outcomes: Outcomes, result: dict) -> None:
  """Normalisation has no parameters; the 11% net has twice the third layer."""
  learned(outcomes)
  plain, both, alone = (
    outcomes[name][0] for name in ("13pct", "11pct", "lrn_alone")
  )
  assert parameters(alone) == parameters(plain)
  assert parameters(both) > 1.5 * parameters(plain)
  # So small are the first weights that the first losses are ln(10) both.
  assert alone.train("loss") != plain.train("loss")


EXPERIMENT = Experiment(
  name="lrn_cifar10",
  question="Does response normalisation alone lower CIFAR-10's test error?",
  runs=[
    Run("13pct", "configs/cifar_13pct.py"),
    Run("11pct", "configs/cifar_11pct.py"),
    Run("lrn_alone", "configs/cifar_13pct.py", ALONE),
  ],
  check=check,
  measure=measure,
  claims=claims,
  quick={
    "image_size": 32,
    "network.crop_size": 24,
    "network.width": 1 / 4,
    "mesh.data": 1,
  },
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
