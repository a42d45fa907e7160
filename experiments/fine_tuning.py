"""Do trained weights help on a hundred pictures a class?

  python -m experiments.fine_tuning [--quick] [--set=data_dir=DIR]

Not a claim of the paper. `start` is the network of `released_source` on ten
ImageNet classes, at full width. `fine_tuned` continues from it on pictures of
other classes as `configs/finetune.py` does, `frozen` the same without changing
the convolutional layers, and `scratch` begins with random weights and trains
all layers at ten times the rate. DIR holds both datasets: START and PICTURES
below; the pictures are of the user's choice. docs/results.md says which ones
have been used. Trains four networks.
"""

import numpy as np

from experiments.common import frame
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import (
  Outcomes,
  assert_learned,
  describe_errors,
  load_net,
  summary,
)

# 20 epochs; the rate, conv1 and the lighting change where they do in the 91
# epochs of original2012.py, in proportion.
START = {
  "dataset": "imagenette224",
  "num_classes": 10,
  "batch_size": 64,
  "total_epochs": 20,
  "eval_every_epochs": 2,
  "schedule.name": "piecewise",
  "schedule.boundaries": (5.49, 11.21, 17.36),
  "schedule.conv1_frozen_from": 15.82,
  "augmentation.lighting_until": 14.73,
}
PICTURES = {"dataset": "pictures_256", "num_classes": 5}
FROM_START = {**PICTURES, "start_from": "{output}/start-{seed}"}
CONVOLUTIONS = tuple(f"conv{i}" for i in range(1, 6))
FROZEN = (*((name, 0.0) for name in CONVOLUTIONS), ("fc8", 10.0))
FROM_SCRATCH = {
  **PICTURES,
  "start_from": "",
  "start_mean_image": False,
  "optimizer.layer_rates": (),
  "schedule.learning_rate": 0.01,
  "schedule.bias_learning_rate": 0.01,
}
FINETUNE = "configs/finetune.py:original2012"


def measure(outcomes: Outcomes) -> dict:
  """The errors, and the minutes that each training took."""
  minutes = {
    name: [one.lines[-1]["seconds"] / 60 for one in repeats]
    for name, repeats in outcomes.items()
  }
  return {"runs": summary(outcomes), "minutes": minutes}


def check(outcomes: Outcomes, result: dict) -> None:
  """Frozen layers are those of `start`; the others are near it."""
  assert_learned(outcomes)
  nets = {name: load_net(repeats[0]) for name, repeats in outcomes.items()}

  def moved(name, layer):
    """Mean distance of a layer's weights from those of `start`."""
    one, other = (
      np.asarray(getattr(nets[key].towers, layer).kernel[...])
      for key in (name, "start")
    )
    return np.abs(one - other).mean()

  for layer in CONVOLUTIONS:
    assert moved("frozen", layer) == 0
    assert 0 < moved("fine_tuned", layer) < 0.5 * moved("scratch", layer)
  assert 0 < moved("frozen", "fc7") < 0.5 * moved("scratch", "fc7")


EXPERIMENT = Experiment(
  name="fine_tuning",
  question="Do trained weights help on a hundred pictures a class?",
  runs=[
    Run("start", "configs/original2012.py", START),
    Run("fine_tuned", FINETUNE, FROM_START),
    Run("frozen", FINETUNE, {**FROM_START, "optimizer.layer_rates": FROZEN}),
    # Another seed, or its weights would begin as those of `start` did.
    Run("scratch", FINETUNE, {**FROM_SCRATCH, "seed": 1000}),
  ],
  quick=Quick(check),
  analysis=Analysis(measure, describe_errors),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
