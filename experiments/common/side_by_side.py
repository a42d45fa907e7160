"""Trains several runs of an experiment at a time, each in its own process."""

import csv
import io
import json
import pathlib
import sys
from collections.abc import Sequence

from alexnet_jax.runtime.command import UserError
from experiments import launch
from experiments.common.experiment import Experiment, Options
from experiments.common.outcome import OUTCOME


def train(
  experiment: Experiment, names: Sequence[str], options: Options
) -> None:
  """Trains the runs, `options.parallel` at a time, and waits for all of them.

  A process uses its share of the cores, so give the configuration a mesh of
  one device. Two trainings on a core each are faster than one on both. A run
  that has ended gets no process, which would take seconds.

  Args:
    experiment: its module is `experiments.NAME`.
    names: each a run with its seed, such as "paper-0".
    options: of the experiment.

  Raises:
    UserError: a training failed.
  """
  folder = pathlib.Path(options.output)
  names = [name for name in names if not (folder / name / OUTCOME).exists()]
  outcomes = launch.run_all(
    {name: command(experiment, name, options) for name in names},
    executor="local",
    folder=f"{options.output}/jobs",
    at_once=options.parallel,
  )
  failed = {name: text for name, text in outcomes.items() if text != "finished"}
  if failed:
    name, text = next(iter(failed.items()))
    raise UserError(
      f"{len(failed)} of {len(names)} trainings failed; {name}: {text}. The"
      " same command continues those that are not finished."
    )


def command(experiment: Experiment, name: str, options: Options) -> list[str]:
  """The command that trains one run with one seed, or continues it."""
  pairs = [
    f"{key}={value if isinstance(value, str) else json.dumps(value)}"
    for key, value in options.overrides.items()
  ]
  line = io.StringIO()  # a list flag is a line of CSV
  csv.writer(line, lineterminator="").writerow(pairs)
  return [
    *(sys.executable, "-m", f"experiments.{experiment.name}"),
    f"--train={name}",
    f"--output={options.output}",
    *[f"--set={line.getvalue()}"] * bool(pairs),
    *["--quick"] * options.quick,
  ]
