"""Section 2: the central square of each image, or all of it, warped?

  python -m alexnet_jax.prepare --source=tars:DIR --data_dir=DATA
  python -m alexnet_jax.prepare --source=tars:DIR --data_dir=DATA \\
      --rescale=warp --name=imagenet2012_warp
  python -m experiments.rescaling --set=data_dir=DATA [--quick]

The paper rescales the shorter side to 256 and keeps the central 256 x 256;
Caffe's script, and so its reference networks, squeezed both sides to 256. Each
network is trained and evaluated on images of its own kind. Neither paper nor
log has such a pair. Other images: --set=data_dir=DATA,dataset=NAME_{run}.
"""

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import images, originals, shards, sources
from alexnet_jax.runtime import files
from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcomes, learned, parameters

QUICK_SIDE = 104


def prepare_quick(output: str) -> None:
  """The embedded images, 32 of a class and split, as crops and warped."""
  from alexnet_jax import prepare

  sources.open_split("patterns/10", "train")  # draws them where missing
  place = files.cache_directory()
  found = originals.open_originals("tfds:patterns/10", place, holdout=0)
  for how in ("crop", "warp"):
    encoding = shards.Encoding(QUICK_SIDE, rescale=how)
    name = f"patterns_{how}"
    prepare.prepare(found, output, name, encoding=encoding, limit=32)


def check(outcomes: Outcomes, result: dict) -> None:
  """The same images in the same order; only the warped ones are all there."""
  learned(outcomes)
  crop, warp = (outcomes[how][0] for how in ("crop", "warp"))
  assert parameters(crop) == parameters(warp)
  assert crop.train("loss")[0] != warp.train("loss")[0]
  sets = [
    tfds.data_source(name, split="train", data_dir=crop.config["data_dir"])
    for name in (crop.config["dataset"], warp.config["dataset"])
  ]
  originally = sources.open_split("patterns/10", "train")
  missed = []  # by how much the mean colour is another than the original's
  for cropped, warped in zip(*sets, strict=True):
    for key in ("label", "file_name"):
      assert cropped[key] == warped[key]
    number = int(warped["file_name"].decode().strip("train[]"))
    colour = images.decode(originally[number][0]).mean((0, 1))
    both = [one["image"].mean((0, 1)) - colour for one in (cropped, warped)]
    missed.append(np.abs(both).max(axis=1))
  cropped, warped = np.transpose(missed)
  # Each pixel counts as much as any other when both sides are reduced by area.
  assert warped.max() < 0.5 < np.median(cropped)


EXPERIMENT = Experiment(
  name="rescaling",
  question="Is a network better off with the centre, or with all, warped?",
  runs=[
    Run("crop", "configs/paper.py", {"dataset": "imagenet2012_256"}),
    Run("warp", "configs/paper.py", {"dataset": "imagenet2012_warp"}),
  ],
  check=check,
  quick={
    "dataset": "patterns_{run}",
    "data_dir": "{output}",
    "splits.train": "train",
    "splits.validation": "validation",
    "image_size": QUICK_SIDE,
  },
  quick_data=prepare_quick,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
