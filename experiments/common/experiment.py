"""The parts of an experiment: its runs, its analysis and its quick version."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.common.contrasts import Contrast
from experiments.common.outcome import (
  Outcome,
  Outcomes,
  describe_errors,
  draw_curves,
  summary,
)

Result = dict[str, Any]  # as it is written to JSON


class Run(NamedTuple):
  """One configuration, trained once for each seed.

  Attributes:
    name: of the workdir, and of the run in figure and table.
    config: path of the file, such as configs/paper.py.
    overrides: by dotted key, as `alexnet_jax.main --config.KEY=VALUE` takes
      them. In strings, {output}, {run} and {seed} are replaced by the output
      folder, the run's name and its seed.
    rate, length: factors of the learning rates and of the number of epochs,
      applied after the overrides of the command line.
    add_to_seed: for a run that must not start from the others' weights.
    fixed: overrides that the command line's do not replace, without which the
      run would be another one. `--quick` leaves them out.
    scale_weights: whether `configuration.narrow` scales the initial weights;
      False if those of `config` are a narrow network's already.
  """

  name: str
  config: str
  overrides: Mapping[str, Any] = {}
  rate: float = 1.0
  length: float = 1.0
  add_to_seed: int = 0
  scale_weights: bool = True
  fixed: Mapping[str, Any] = {}


class Analysis(NamedTuple):
  """From the outcomes of all runs to what is published.

  Attributes:
    measure: computes the result.
    describe: puts a result into one sentence for experiments/README.md.
    draw: plots the outcomes into matplotlib axes.
    claims: the numbers of the paper that a full result answers, by the keys
      of `alexnet_jax.analysis.claims`: {"value": number, "how": text}.
    arms: the outcomes that the contrasts compare, by the names of their arms.
  """

  measure: Callable[[Outcomes], Result] = summary
  describe: Callable[[Result], str] = describe_errors
  draw: Callable[[Outcomes, Any], None] = draw_curves
  claims: Callable[[Result], dict[str, Any]] = lambda result: {}
  arms: Callable[[Outcomes], Outcomes] = lambda outcomes: outcomes


class Quick(NamedTuple):
  """What `--quick` does: a few steps on embedded images, then a check.

  Attributes:
    check: asserts what must hold of the outcomes and the result.
    overrides: of the configuration, beyond `configuration.QUICK`.
    runs: names of the runs that are carried out; empty means all.
    prepare_data: writes images other than the embedded ones into the output
      folder.
  """

  check: Callable[[Outcomes, Result], None]
  overrides: Mapping[str, Any] = {}
  runs: Sequence[str] = ()
  prepare_data: Callable[[str], None] = lambda output: None


class Trial(NamedTuple):
  """A short first part of every run with seed 0; only some runs continue.

  Attributes:
    overrides: of the configuration, for the trial.
    choose: names the runs that continue, given the outcomes of the trial.
  """

  overrides: Mapping[str, Any]
  choose: Callable[[Outcomes], Sequence[str]]


class Experiment(NamedTuple):
  """One claim of the paper, or one sweep.

  Attributes:
    name: of the module and of the committed result.
    question: one sentence.
    runs: what is trained.
    quick: what `--quick` trains instead, and checks.
    analysis: what is computed from the outcomes.
    seeds: how often each run is repeated.
    contrasts: what is compared, stated before it is measured; the result then
      has them under "contrasts".
    trial: selects the runs that are trained in full.
    stop_early: asked after every checkpoint; True ends the run.
    stages: overrides of all runs by the name that `--stage` takes, for machines
      on which the runs as they are would take too long.
  """

  name: str
  question: str
  runs: Sequence[Run]
  quick: Quick
  analysis: Analysis = Analysis()
  seeds: int = 1
  contrasts: Sequence[Contrast] = ()
  trial: Trial | None = None
  stop_early: Callable[[Outcome], bool] = lambda outcome: False
  stages: Mapping[str, Mapping[str, Any]] = {}


class Options(NamedTuple):
  """The command line of an experiment.

  Attributes:
    output: folder of the workdirs and of what is written.
    quick: train for a few steps on embedded images only.
    seeds: of each run; 0 means the experiment's number.
    overrides: of the configuration of every run, by dotted key.
    only: carry out only the runs whose names begin with one of these.
    record: file that receives a copy of the result; "" for none.
    parallel: number of trainings at a time, each on its share of the cores.
    analyse: train nothing; use the runs that are finished.
  """

  output: str
  quick: bool = False
  seeds: int = 0
  overrides: Mapping[str, Any] = {}
  only: Sequence[str] = ()
  record: str = ""
  parallel: int = 1
  analyse: bool = False

  def command(self, name: str) -> str:
    """The command line, without paths of this machine."""
    words = [f"python -m experiments.{name}"]
    words += ["--quick"] * self.quick
    words += [f"--seeds={self.seeds}"] * bool(self.seeds)
    words += [f"--runs={','.join(self.only)}"] * bool(self.only)
    moved = {"data_dir": "DIR"} if "data_dir" in self.overrides else {}
    pairs = (f"{k}={v}" for k, v in {**self.overrides, **moved}.items())
    words += [f"--set={','.join(pairs)}"] * bool(self.overrides)
    return " ".join(words)
