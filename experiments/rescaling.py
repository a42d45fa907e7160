"""Section 2: the central square of each image, or the whole image squeezed?

  python -m alexnet_jax.prepare --source=tars:DIR --data_dir=DATA
  python -m alexnet_jax.prepare --source=tars:DIR --data_dir=DATA \\
      --rescale=warp --name=imagenet2012_warp
  python -m experiments.rescaling --set=data_dir=DATA [--quick]

The paper rescales the shorter side to 256 and keeps the central 256 x 256;
Caffe's script squeezes both sides to 256. Each network is trained and evaluated
on images of its own kind. Neither the paper nor the authors' log has such a
pair. For other images: --set=data_dir=DATA,dataset=NAME_{run}. Trains two
networks on ImageNet.
"""

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import images, preparing, shards, sources
from alexnet_jax.data.originals import Options
from alexnet_jax.runtime import files
from experiments.common import frame
from experiments.common.experiment import Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_differ_in_loss_only

QUICK_SIDE = 72


def prepare_quick(output: str) -> None:
  """The embedded images, 32 of a class and split, cropped and squeezed."""
  sources.open_split("patterns/10", "train")  # generates them if absent
  place = files.cache_directory()
  found = preparing.open_originals("tfds:patterns/10", Options(place))
  for how in ("crop", "warp"):
    encoding = shards.Encoding(QUICK_SIDE, rescale=how)
    name = f"patterns_{how}"
    preparing.prepare(found, output, name, encoding=encoding, limit=32)


def check(outcomes: Outcomes, result: dict) -> None:
  """The same images in the same order; only squeezed ones are complete."""
  assert_differ_in_loss_only(outcomes)
  crop, warp = (outcomes[how][0] for how in ("crop", "warp"))
  sets = [
    tfds.data_source(name, split="train", data_dir=crop.config["data_dir"])
    for name in (crop.config["dataset"], warp.config["dataset"])
  ]
  original = sources.open_split("patterns/10", "train")
  deviations = []  # of the mean colour from the original's, in grey levels
  for cropped, warped in zip(*sets, strict=True):
    for key in ("label", "file_name"):
      assert cropped[key] == warped[key]
    number = int(warped["file_name"].decode().strip("train[]"))
    colour = images.decode(original[number][0]).mean((0, 1))
    both = [one["image"].mean((0, 1)) - colour for one in (cropped, warped)]
    deviations.append(np.abs(both).max(axis=1))
  cropped, warped = np.transpose(deviations)
  # Reduction by area gives every pixel the same weight if nothing is cut off.
  assert warped.max() < 0.5 < np.median(cropped)


EXPERIMENT = Experiment(
  name="rescaling",
  question="Is a network better off with the centre, or with all, warped?",
  runs=[
    Run("crop", "configs/paper.py", {"dataset": "imagenet2012_256"}),
    Run("warp", "configs/paper.py", {"dataset": "imagenet2012_warp"}),
  ],
  quick=Quick(
    check,
    overrides={
      "dataset": "patterns_{run}",
      "data_dir": "{output}",
      "splits.train": "train",
      "splits.validation": "validation",
      "image_size": QUICK_SIDE,
    },
    prepare_data=prepare_quick,
  ),
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
