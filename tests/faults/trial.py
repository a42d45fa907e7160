"""A suite of faults, and what a single case may use."""

import random
import re
import shutil
from collections.abc import Callable

import tensorflow_datasets as tfds
from absl import logging

from alexnet_jax.runtime import provenance

from .sandbox import Process, Sandbox, difference, outcome

Row = dict[str, object]
# A unique name, and the function that makes the row.
Case = tuple[str, Callable[["Trial"], Row]]
EQUAL, EXPECTED = "equal", "as expected"


class Suite:
  """A sandbox and an uninterrupted run in it, with which others are compared.

  Attributes:
    whole: the workdir of that run.
  """

  def __init__(self, folder: str):
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    self.sandbox = Sandbox(folder)
    # Another commit may round differently.
    commit = provenance.git_commit()[:7]
    whole = self.whole = self.sandbox.workdir(f"whole-{commit}")
    self.sandbox.finish(whole)
    self.expected = outcome(whole)


class Trial:
  """What one case may use; it depends on no other case.

  Attributes:
    sandbox: of the suite.
    whole: workdir of the uninterrupted run.
    random: generator seeded with the case's name.
    name: of the case, usable as a file name.
  """

  def __init__(self, suite: Suite, name: str):
    self.sandbox = suite.sandbox
    self.whole = suite.whole
    self.random = random.Random(name)
    self.name = re.sub(r"\W+", "-", name)
    self._expected = suite.expected

  def new_workdir(self) -> str:
    workdir = self.sandbox.workdir(self.name)
    shutil.rmtree(workdir, ignore_errors=True)  # of a case that was interrupted
    return workdir

  def row(self, fault: str, moment: str, process: Process, workdir: str) -> Row:
    """Resumes a run after a fault, if it is not finished, and compares it."""
    first = process.output()
    if process.status or "run the same command again" in first:
      self.sandbox.finish(workdir)
    result = difference(workdir, self._expected) or EQUAL
    if "Traceback" in first:
      shown = first[first.index("Traceback") :][:3000]
      result = f"{result}, but it printed {shown}"
    shutil.rmtree(workdir)
    status = process.status
    return {"fault": fault, "at": moment, "status": status, "result": result}
