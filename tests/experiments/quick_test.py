"""Every experiment with --quick."""

import json
import pathlib
import time

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from alexnet_jax.data import images
from experiments import readme
from experiments.common import frame
from experiments.common.base import SOURCE
from experiments.common.experiment import Options, Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXPERIMENTS = readme.all_experiments()
CORES = 2  # on which a quick run may take a minute


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
  """A cache of compiled programs: many runs have the same ones."""
  settings = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
    "jax_persistent_cache_min_compile_time_secs": 0.2,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # JAX decides once whether to have one
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def shared_output(tmp_path_factory):
  """The folder of the experiments that have runs in common."""
  return tmp_path_factory.mktemp("experiments")


def shares_a_run(experiment) -> bool:
  """Whether its run "paper" or "source" is that of other experiments."""
  common = {"paper": Run("paper", "configs/paper.py"), "source": SOURCE}
  runs = [run for run in experiment.runs if run.name in common]
  return (
    bool(runs)
    and all(run == common[run.name] for run in runs)
    and not experiment.quick.overrides
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_it_runs_quickly_and_its_check_holds(name, tmp_path, shared_output):
  experiment = EXPERIMENTS[name]
  shared = shares_a_run(experiment)
  output = shared_output if shared else tmp_path
  began = time.process_time()
  record = frame.carry_out(experiment, Options(str(output), quick=True))
  # Of all threads, so that other work on the machine does not count.
  assert time.process_time() - began < 60 * CORES
  assert record["quick"] and not record["claims"] and record["in_words"]
  rows = (output / "runs.jsonl").read_text().splitlines()
  assert {json.loads(row)["run"] for row in rows} == set(record["epochs"])
  assert "<svg" in (output / "figure.svg").read_text()
  assert json.loads((output / "result.json").read_text()) == record


@pytest.mark.slow
def test_without_what_it_changes_an_experiment_fails(tmp_path):
  experiment = EXPERIMENTS["lighting"]
  broken = experiment._replace(
    runs=[
      Run("paper", "configs/no_lighting.py"),
      Run("no_lighting", "configs/no_lighting.py"),
    ],
    quick=experiment.quick._replace(overrides={"total_steps": 2}),
  )
  with pytest.raises(AssertionError):
    frame.carry_out(broken, Options(str(tmp_path), quick=True))


@pytest.mark.slow
def test_squeezed_images_that_are_crops_are_noticed(tmp_path, monkeypatch):
  monkeypatch.setitem(images.RESCALE, "warp", lambda x, side: x[:side, :side])
  experiment = EXPERIMENTS["rescaling"]
  quick = experiment.quick
  quick = quick._replace(overrides={**quick.overrides, "total_steps": 8})
  with pytest.raises(AssertionError) as caught:
    frame.carry_out(
      experiment._replace(quick=quick), Options(str(tmp_path), quick=True)
    )
  assert "warped.max()" in str(caught.traceback[-1].statement)


@pytest.mark.slow
def test_a_finished_experiment_trains_nothing_again(tmp_path):
  experiment = EXPERIMENTS["ten_views"]
  small = experiment._replace(
    quick=experiment.quick._replace(
      check=lambda outcomes, result: None, overrides={"total_steps": 2}
    )
  )
  options = Options(str(tmp_path), quick=True)
  first = frame.carry_out(small, options)["result"]
  file = tmp_path / "paper-0" / "metrics.jsonl"
  before = file.stat().st_mtime_ns
  assert frame.carry_out(small, options)["result"] == first
  assert file.stat().st_mtime_ns == before
