"""LeNet-5 against AlexNet on the same images.

  python -m experiments.lenet [--quick]

How far did fourteen years go? Both train on the images of the data set named
with --set=dataset=..., LeNet-5 on 28 grey pixels, AlexNet on 224 coloured ones.
"""

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned

IMAGENETTE = {
  "dataset": "imagenette/320px-v2",
  "splits.train": "train",
  "splits.validation": "validation",
  "splits.test": "validation",
}


def check(outcomes: Outcomes, result: dict) -> None:
  """LeNet-5 has the 61,706 parameters of the textbooks; both learn."""
  learned(outcomes)
  sizes = comparison.sizes(configs.load("configs/lenet5.py"))
  assert sizes["size.parameters"] == 61_706


EXPERIMENT = Experiment(
  name="lenet",
  question="How does LeNet-5 compare with AlexNet on the same images?",
  runs=[
    Run("lenet5", "configs/lenet5.py", IMAGENETTE | {"image_size": 28}),
    Run("alexnet", "configs/imagenette.py", IMAGENETTE),
  ],
  check=check,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
