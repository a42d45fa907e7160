"""LeNet-5 (1998) compared with AlexNet on the same images.

  python -m experiments.lenet [--quick]

Both train on Imagenette, or on the dataset given by --set=dataset=NAME:
LeNet-5 on 28 x 28 grey pixels, AlexNet on 224 x 224 colour pixels. Trains two
networks on Imagenette. The paper makes no such comparison.
"""

from alexnet_jax.analysis import comparison
from alexnet_jax.runtime import config as configs
from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned

IMAGENETTE = {
  "dataset": "imagenette/320px-v2",
  "splits.train": "train",
  "splits.validation": "validation",
  "splits.test": "validation",
}


def check(outcomes: Outcomes, result: dict) -> None:
  """LeNet-5 has the 61,706 parameters of the textbooks; both learn."""
  assert_learned(outcomes)
  sizes = comparison.sizes(configs.load("configs/lenet5.py"))
  assert sizes["size.parameters"] == 61_706


EXPERIMENT = Experiment(
  name="lenet",
  question="How does LeNet-5 compare with AlexNet on the same images?",
  runs=[
    Run("lenet5", "configs/lenet5.py", IMAGENETTE | {"image_size": 28}),
    Run("alexnet", "configs/imagenette.py", IMAGENETTE),
  ],
  quick=Quick(check),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
