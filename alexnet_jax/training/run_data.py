"""What a workdir keeps of the training images: classes and pixel statistics.

`classes.json` and `statistics.npz` are written when a training starts. From
then on no command but the training itself needs a training image.
"""

import json
import pathlib
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data import pixel_statistics, sources
from alexnet_jax.data.augment import ImageStatistics
from alexnet_jax.data.pixel_statistics import Statistics
from alexnet_jax.data.sources import Source
from alexnet_jax.model import sharding
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import crc32_of_json, write_atomic
from alexnet_jax.training.checkpoint_files import latest_step
from alexnet_jax.training.job import make_pixels
from alexnet_jax.training.known_classes import list_names


class RunData(NamedTuple):
  """The classes of a run, and the statistics of its training images."""

  dataset: str  # its name, such as "imagenet2012_256"
  fingerprint: str  # of the training images, `Source.fingerprint`
  classes: tuple[str, ...]  # class names, in the order of the labels
  # None if the configuration needs none: a mean for each channel, no lighting.
  statistics: Statistics | None

  @classmethod
  def compute(
    cls, config: Mapping[str, Any], train: Source, workdir: str = ""
  ) -> "RunData":
    """Reads the classes of the training images, and computes the statistics.

    If `workdir` has statistics of these images without classes, they are used.

    Raises:
      UserError: no training image can be decoded; or the run in `workdir` has
        lost the mean image of the weights that it began with.
    """
    statistics = None
    if workdir and _needs_statistics(config):
      path, size = pathlib.Path(workdir, "statistics.npz"), config["image_size"]
      statistics = Statistics.load(path, train.fingerprint, size)
      has_begun = latest_step(f"{workdir}/checkpoints") >= 0
      if statistics is None and has_begun and config["start_mean_image"]:
        problem = "damaged" if path.exists() else "missing"
        raise _missing_error(f"{path} is {problem}", recomputed=False)
    if statistics is None and _needs_statistics(config):
      statistics = pixel_statistics.load_or_compute(
        train,
        config["image_size"],
        config["pixels"]["rescale"],
        threads=config["input_threads"],
      )
    names = tuple(train.class_names)
    return cls(config["dataset"], train.fingerprint, names, statistics)

  def with_mean_image(self, mean_image: np.ndarray) -> "RunData":
    """The same with another mean image, f32[S,S,3], if one is subtracted."""
    if self.statistics is None:
      return self
    statistics = self.statistics._replace(mean_image=mean_image)
    return self._replace(statistics=statistics)

  def save(self, workdir: str) -> None:
    """Writes both files, each in one step; raises OSError if it cannot."""
    folder, checksum = pathlib.Path(workdir), None
    if self.statistics is not None:
      path = folder / "statistics.npz"
      self.statistics.save(path, self.fingerprint)
      checksum = zlib.crc32(path.read_bytes())
    body = {
      "dataset": self.dataset,
      "fingerprint": self.fingerprint,
      "names": list(self.classes),
      "statistics_crc32": checksum,
    }
    body["crc32"] = crc32_of_json(body)
    # Last, because it says that both files are complete.
    write_atomic(folder / "classes.json", json.dumps(body, indent=2) + "\n")

  @classmethod
  def read(cls, workdir: str, config: Mapping[str, Any]) -> "RunData | None":
    """What `save` wrote; None if one of the files is missing.

    Raises:
      UserError: one of them is damaged.
    """
    classes = pathlib.Path(workdir, "classes.json")
    statistics = pathlib.Path(workdir, "statistics.npz")
    if not classes.exists():
      return None
    try:
      body = json.loads(classes.read_bytes())
      is_whole = body.pop("crc32") == crc32_of_json(body)
    except (ValueError, AttributeError, KeyError, TypeError):
      is_whole = False
    if not is_whole:
      raise _missing_error(f"{classes} is damaged", recomputed=True)
    found, fingerprint = None, body["fingerprint"]
    if body["statistics_crc32"] is not None:
      recomputed = not config["start_mean_image"]
      if not statistics.exists():
        if recomputed:
          return None
        raise _missing_error(f"{statistics} is missing", recomputed)
      if zlib.crc32(statistics.read_bytes()) == body["statistics_crc32"]:
        size = config["image_size"]
        found = Statistics.load(statistics, fingerprint, size)
      if found is None:
        raise _missing_error(f"{statistics} is damaged", recomputed)
    return cls(body["dataset"], fingerprint, tuple(body["names"]), found)

  def check_source(self, source: Source) -> None:
    """Raises UserError if images are not from the dataset of the training.

    They may be of any of its splits.
    """
    present, own = sources.dataset_of(source.fingerprint), self.fingerprint
    own = sources.dataset_of(own)
    if present == own and tuple(source.class_names) == self.classes:
      return
    reason = f"the dataset was {own}, this one is {present}"
    if tuple(source.class_names) != self.classes:
      before, now = map(list_names, (self.classes, source.class_names))
      reason = f"its classes were {before}, here they are {now}"
    raise UserError(
      f"{source.name} is not of the dataset that the network was trained with:"
      f" {reason}. Set --data_dir to the dataset of the training. To evaluate"
      f" on another one, name it: --dataset={self.dataset} (its classes are"
      " then matched by name)."
    )

  def image_statistics(
    self, config: Mapping[str, Any], mesh: Mesh
  ) -> ImageStatistics:
    """The mean image and RGB components, on every device of `mesh`.

    With `centre_mean` the mean image is cut to its centre, which is then
    subtracted from every crop, wherever the crop lies.
    """
    size, pixels = config["image_size"], make_pixels(config)
    components, found = np.zeros((3, 3)), self.statistics
    if found is not None:
      components = found.eigenvectors * np.sqrt(found.eigenvalues)
    if pixels.mean:
      mean = pixels.mean_image(size)
    else:
      mean = found.mean_image.astype(np.float32)
    if config["centre_mean"]:
      side = config["network"]["crop_size"]
      start = (size - side) // 2
      mean = mean[start : start + side, start : start + side]
    statistics = ImageStatistics(mean, components.astype(np.float32), pixels)
    return sharding.place(statistics, sharding.REPLICATED, mesh)


def _missing_error(problem: str, recomputed: bool) -> UserError:
  hint = (
    " Or delete it: the next command computes it again, for which it needs the"
    " training images."
  )
  if not recomputed:
    hint = (
      " It cannot be computed again: it has the mean image of the weights that"
      " this run began with (start_mean_image)."
    )
  return UserError(f"{problem}. Restore it from a copy of the workdir.{hint}")


def _needs_statistics(config: Mapping[str, Any]) -> bool:
  return not config["pixels"]["mean"] or bool(
    config["augmentation"]["lighting"]
  )


def load(
  workdir: str,
  config: Mapping[str, Any],
  open_split: Callable[[str], Source],
  fingerprint: str = "",
) -> RunData:
  """Reads what a workdir keeps of its data, or computes and keeps it.

  Args:
    workdir: of a run. One that began before there were such files receives
      them now, unless it is read-only.
    config: of the run.
    open_split: opens a split of the configuration; called if a file is missing.
    fingerprint: of the training images, as a checkpoint has it; "": unknown.

  Raises:
    UserError: a file is damaged, or one is missing and the training images are
      too, or these are not those that the checkpoint was trained with.
  """
  found = RunData.read(workdir, config)
  if found is not None:
    return found
  if not config["start_mean_image"]:  # else it is not that of the dataset
    found = _find(config, open_split, fingerprint)
  if found is None:
    train = open_split("train")
    if fingerprint and train.fingerprint != fingerprint:
      raise UserError(
        f"{train.name} has other images than those that {workdir} was trained"
        f" with: they were {fingerprint}, these are {train.fingerprint}. Their"
        " mean image is needed once; set --data_dir to the dataset as it was."
      )
    found = RunData.compute(config, train, workdir)
  try:
    found.save(workdir)
  except OSError as error:
    print(
      f"The statistics of the training images cannot be kept in {workdir}"
      f" ({error.strerror}); the next command needs these images again.",
      file=sys.stderr,
    )
  return found


def _find(
  config: Mapping[str, Any],
  open_split: Callable[[str], Source],
  fingerprint: str,
) -> RunData | None:
  """The same without training images: from files beside the validation images.

  `prepare` writes the statistics there. None if there are none of the images
  with this fingerprint.
  """
  try:
    source = open_split("validation")
  except UserError:
    return None
  if sources.dataset_of(source.fingerprint) != sources.dataset_of(fingerprint):
    return None
  statistics = None
  if _needs_statistics(config):
    statistics = pixel_statistics.find(
      source.directory,
      fingerprint,
      config["image_size"],
      config["pixels"]["rescale"],
    )
    if statistics is None:
      return None
  names = tuple(source.class_names)
  return RunData(config["dataset"], fingerprint, names, statistics)
