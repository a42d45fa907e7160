"""Run batches: the images that a run trains on, evaluates and diagnoses."""

import itertools
from collections.abc import Collection, Iterator

from alexnet_jax.data import pipeline
from alexnet_jax.data.pipeline import Batch
from alexnet_jax.model import sharding
from alexnet_jax.training import diagnostics
from alexnet_jax.training.job import Job


class RunBatches:
  """Batches on the host, of this process: of each image what a device reads."""

  def __init__(self, job: Job):
    config = job.config
    index, count = sharding.process_share(job.mesh)
    self._job = job
    self._options = {
      "size": config.image_size,
      "rescale": config.pixels.rescale,
      "max_undecodable": config.max_undecodable,
      "threads": config.input_threads,
      "process_index": index,
      "process_count": count,
    }

  def training(
    self, start_step: int, left_out: Collection[int]
  ) -> Iterator[Batch]:
    """Those of all steps from `start_step` on; `left_out` were undecodable."""
    job = self._job
    return pipeline.train_batches(
      job.train,
      batch_size=job.config.batch_size,
      seed=job.config.seed,
      start_step=start_step,
      crops=job.recipe.crops(job.config.seed, job.mesh),
      left_out=left_out,
      **self._options,
    )

  def evaluation(self) -> Iterator[Batch]:
    """All validation images, each once, for one view."""
    return pipeline.evaluation_batches(
      self._job.validation,
      batch_size=self._job.config.batch_size,
      crops=self._job.recipe.centre_crops(self._job.mesh),
      **self._options,
    )

  def diagnostic(self) -> Iterator[Batch]:
    """One batch of the first training images, the same through a whole run."""
    batches = pipeline.evaluation_batches(
      self._job.train,
      batch_size=diagnostics.num_images(self._job.mesh),
      crops=self._job.recipe.centre_crops(self._job.mesh),
      **self._options,
    )
    return itertools.islice(batches, 1)
