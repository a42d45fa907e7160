"""A suite of faults: a world, and the run in it that nothing happens to."""

import random
import shutil

import tensorflow_datasets as tfds
from absl import logging
from world import Life, World, difference, outcome

Row = dict[str, object]
EQUAL, EXPECTED = "equal", "as expected"


class Suite:
  """A world, and the outcome of a run in it that nothing happens to."""

  def __init__(self, folder: str, seed: int = 0):
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    self.world = World(folder)
    self.random = random.Random(seed)
    self.count = 0
    whole = self.world.workdir("whole")
    self.world.finish(whole)
    self.expected = outcome(whole)

  def new_workdir(self) -> str:
    self.count += 1
    return self.world.workdir(f"fault{self.count}")

  def row(self, fault: str, moment: str, life: Life, workdir: str) -> Row:
    """Goes on with the run after a fault, and compares."""
    first = life.said()
    self.world.finish(workdir)
    result = difference(workdir, self.expected) or EQUAL
    if "Traceback" in first:
      result = f"a traceback was shown; then {result}"
    shutil.rmtree(workdir)
    status = life.status
    return {"fault": fault, "at": moment, "status": status, "result": result}
