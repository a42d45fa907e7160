"""A suite of faults: a world, and the run in it that nothing happens to."""

import random
import re
import shutil
from collections.abc import Callable

import tensorflow_datasets as tfds
from absl import logging

from alexnet_jax.runtime import provenance

from .world import Life, World, difference, outcome

Row = dict[str, object]
# A name that no other has, and what makes the row.
Case = tuple[str, Callable[["Trial"], Row]]
EQUAL, EXPECTED = "equal", "as expected"


class Suite:
  """A world, and the outcome of a run in it that nothing happens to.

  Attributes:
    whole: the workdir of that run.
  """

  def __init__(self, folder: str):
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    self.world = World(folder)
    # Another commit may round otherwise.
    commit = provenance.git_commit()[:7]
    whole = self.whole = self.world.workdir(f"whole-{commit}")
    self.world.finish(whole)
    self.expected = outcome(whole)


class Trial:
  """What a case may use; it depends on no other case.

  Attributes:
    world: of the suite.
    whole: workdir of the run that nothing happens to.
    random: seeded by the case's name.
    name: of the case, as a file may be called.
  """

  def __init__(self, suite: Suite, name: str):
    self.world = suite.world
    self.whole = suite.whole
    self.random = random.Random(name)
    self.name = re.sub(r"\W+", "-", name)
    self._expected = suite.expected

  def new_workdir(self) -> str:
    workdir = self.world.workdir(self.name)
    shutil.rmtree(workdir, ignore_errors=True)  # of a case that was cut short
    return workdir

  def row(self, fault: str, moment: str, life: Life, workdir: str) -> Row:
    """Goes on with the run after a fault, if it is not over, and compares."""
    first = life.said()
    if life.status or "run the same command again" in first:
      self.world.finish(workdir)
    result = difference(workdir, self._expected) or EQUAL
    if "Traceback" in first:
      shown = first[first.index("Traceback") :][:3000]
      result = f"{result}, but it showed {shown}"
    shutil.rmtree(workdir)
    status = life.status
    return {"fault": fault, "at": moment, "status": status, "result": result}
