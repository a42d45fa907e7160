"""The frame of the experiments, with a training that only writes metrics."""

import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.divergence import Diverged
from experiments import lighting, plateau, released_source, ten_views
from experiments.common import frame, side_by_side
from experiments.common.base import SOURCE
from experiments.common.configuration import QUICK, configure, narrow
from experiments.common.experiment import (
  Analysis,
  Experiment,
  Options,
  Quick,
  Run,
  Trial,
)
from experiments.common.outcome import assert_learned

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def trained(monkeypatch):
  """Replaces training by an improvement of the loss; lists what it trained.

  Like the real one, it continues a run from its metrics.jsonl, and asks every
  two steps whether to stop early.
  """
  calls = []

  def train(config, workdir, stop_early):
    file = pathlib.Path(workdir, "metrics.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    done = len(file.read_text().splitlines()) - 1 if file.exists() else 0
    total = config.total_steps
    calls.append((pathlib.Path(workdir).name, done, total))
    rate = config.schedule.learning_rate
    line = {"top1_error": 0.5, "top5_error": 0.25, "images_per_second": 1.0}
    line["seconds"] = 1.0
    text = "".join(file.read_text().splitlines(True)[:-1] if done else [])
    for step in range(done + 1, total + 1):
      more = {"step": step, "epoch": step / 4, "loss": 3 - rate * step}
      text += json.dumps({"split": "train"} | line | more) + "\n"
      if step % 2 == 0 or step == total:
        last = json.dumps({"split": "validation"} | line | more) + "\n"
        file.write_text(text + last)
        if stop_early():
          return True
    return True

  monkeypatch.setattr(frame, "train_and_evaluate", train)
  return calls


def no_check(outcomes, result):
  pass


def rate_run(rate):
  overrides = {"schedule.learning_rate": rate, "total_steps": 8}
  return Run(f"rate-{rate:g}", "configs/paper.py", overrides)


EXAMPLE = Experiment(
  name="example",
  question="?",
  runs=[rate_run(0.5), rate_run(0.25)],
  quick=Quick(assert_learned, overrides={"total_steps": 4}),
)


def test_runs_are_trained_seed_by_seed_and_not_twice(trained, tmp_path):
  options = Options(str(tmp_path), seeds=2)
  record = frame.carry_out(EXAMPLE, options)
  assert [call[0] for call in trained] == [
    "rate-0.5-0",
    "rate-0.25-0",
    "rate-0.5-1",
    "rate-0.25-1",
  ]
  assert record["seed"] == [0, 1]
  assert record["command"] == "python -m experiments.example --seeds=2"
  assert record["epochs"] == {"rate-0.5": [2.0] * 2, "rate-0.25": [2.0] * 2}
  trained.clear()
  assert frame.carry_out(EXAMPLE, options)["result"] == record["result"]
  assert all(done == total for _, done, total in trained)


def test_everything_is_written_and_copied(trained, tmp_path):
  copy = tmp_path / "copy.json"
  options = Options(str(tmp_path), quick=True, record=str(copy))
  record = frame.carry_out(EXAMPLE, options)
  assert record["quick"] and record["in_words"] and not record["claims"]
  assert json.loads((tmp_path / "result.json").read_text()) == record
  assert json.loads(copy.read_text()) == record
  rows = (tmp_path / "runs.jsonl").read_text().splitlines()
  assert {json.loads(row)["run"] for row in rows} == set(record["epochs"])
  assert "<svg" in (tmp_path / "figure.svg").read_text()
  assert "<svg" in (tmp_path / "copy.svg").read_text()


def test_after_a_trial_the_chosen_run_continues_until_it_stops_early(
  trained, tmp_path
):
  experiment = EXAMPLE._replace(
    trial=Trial({"total_steps": 2}, lambda outcomes: ["rate-0.5"]),
    stop_early=lambda outcome: len(outcome.train("loss")) > 4,
    analysis=Analysis(
      lambda outcomes: {
        name: [one.train("loss") for one in each]
        for name, each in outcomes.items()
      },
      lambda result: "",
    ),
  )
  options = Options(str(tmp_path), overrides={"data_dir": "/somewhere"})
  record = frame.carry_out(experiment, options)
  assert trained == [
    ("rate-0.5-0", 0, 2),
    ("rate-0.25-0", 0, 2),
    ("rate-0.5-0", 2, 8),
  ]
  lengths = {name: len(each[0]) for name, each in record["result"].items()}
  assert lengths == {"rate-0.5": 6, "rate-0.25": 2}
  command = "python -m experiments.example --set=data_dir=DIR"
  assert record["command"] == command


def test_a_run_that_diverges_is_an_outcome_and_is_not_trained_again(
  trained, tmp_path, monkeypatch
):
  def diverge(config, workdir, stop_early):
    trained.append(workdir)
    raise Diverged("the loss is nan at step 3")

  monkeypatch.setattr(frame, "train_and_evaluate", diverge)
  run, options = EXAMPLE.runs[0], Options(str(tmp_path))
  for _ in range(2):
    outcome = frame.train(EXAMPLE, run, 0, options)
    assert outcome.diverged == {"message": "the loss is nan at step 3"}
  assert len(trained) == 1
  summary = json.loads((tmp_path / "rate-0.5-0" / "outcome.json").read_text())
  assert summary["diverged"] and summary["seed"] == 0


def test_an_analysis_uses_the_finished_runs_and_trains_none(trained, tmp_path):
  options = Options(str(tmp_path), seeds=2, analyse=True)
  with pytest.raises(UserError, match="no run of example is finished"):
    frame.carry_out(EXAMPLE, options)
  frame.train(EXAMPLE, EXAMPLE.runs[1], 1, options)
  trained.clear()
  record = frame.carry_out(EXAMPLE, options)
  assert not trained
  assert list(record["result"]) == ["rate-0.25"] and record["seed"] == [1]


def test_runs_side_by_side_are_commands_of_one_run_each(
  trained, tmp_path, monkeypatch
):
  started = {}

  def run_all(commands, *, executor, folder, at_once):
    started.update(commands)
    assert (executor, at_once) == ("local", 2)
    return dict.fromkeys(commands, "finished")

  monkeypatch.setattr(side_by_side.launch, "run_all", run_all)
  options = Options(
    str(tmp_path), seeds=2, overrides={"width": 0.5, "x": [1, 2]}, parallel=2
  )
  names = [f"rate-{r}-{seed}" for seed in (0, 1) for r in ("0.5", "0.25")]
  side_by_side.train(EXAMPLE, names, options)
  assert list(started) == names
  words = started["rate-0.25-1"]
  assert words[1:4] == ["-m", "experiments.example", "--train=rate-0.25-1"]
  assert frame._parse_run(EXAMPLE, "rate-0.25-1") == (EXAMPLE.runs[1], 1)
  (line,) = (word[6:] for word in words if word.startswith("--set="))
  pairs = flags.ListParser().parse(line)  # as the flag is declared
  assert dict(map(frame._parse_override, pairs)) == options.overrides
  with pytest.raises(UserError, match="--train=rate-7-1 is not a run"):
    frame._parse_run(EXAMPLE, "rate-7-1")


def test_runs_that_have_ended_start_no_process(trained, tmp_path, monkeypatch):
  options, started = Options(str(tmp_path)), []
  frame.carry_out(EXAMPLE, options)

  def run_all(commands, **_):
    started.extend(commands)
    return {}

  monkeypatch.setattr(side_by_side.launch, "run_all", run_all)
  frame.carry_out(EXAMPLE, options._replace(seeds=2, parallel=2))
  assert started == ["rate-0.5-1", "rate-0.25-1"]


def test_a_failing_check_fails_the_experiment(trained, tmp_path):
  stuck = EXAMPLE._replace(runs=[rate_run(0.0)])
  with pytest.raises(AssertionError):
    frame.carry_out(stuck, Options(str(tmp_path), quick=True))


def test_a_result_that_needs_an_omitted_run_is_refused(trained, tmp_path):
  experiment = EXAMPLE._replace(
    analysis=Analysis(lambda outcomes: {"x": len(outcomes["rate-0.5"])})
  )
  options = Options(str(tmp_path), only=["rate-0.25"])
  with pytest.raises(UserError, match=r"needs the run 'rate-0\.5', which"):
    frame.carry_out(experiment, options)
  assert trained  # the run that was asked for is kept
  mistaken = EXAMPLE._replace(
    analysis=Analysis(lambda outcomes: {}["top9_error"])
  )
  with pytest.raises(KeyError, match="top9_error"):
    frame.carry_out(mistaken, options)


def test_texts_of_an_override_name_the_run(tmp_path):
  run = Run("x", "configs/paper.py", {"start_from": "{output}/{run}-{seed}"})
  config = configure(EXAMPLE, run, 3, Options("OUT"))
  assert config.start_from == "OUT/x-3"


@pytest.mark.parametrize("key", ["netwrk.width", "widht", "batch_size.x"])
def test_an_unknown_key_is_an_error_that_names_it(key):
  experiment = ten_views.EXPERIMENT
  (run,) = experiment.runs
  with pytest.raises(UserError, match=f"--set={key}=1: configs/paper.py has"):
    configure(experiment, run, 0, Options("x", overrides={key: 1}))


def test_a_cut_schedule_keeps_the_shares_of_all_its_epochs():
  """Of 91 epochs a seventh: all comes after a seventh of its time."""
  experiment = released_source.EXPERIMENT
  (_, source) = experiment.runs
  options = Options("", overrides={"total_epochs": 13})
  config = configure(experiment, source, 0, options)
  assert config.schedule.boundaries == pytest.approx((25 / 7, 51 / 7, 79 / 7))
  assert config.schedule.conv1_frozen_from == pytest.approx(72 / 7)
  assert config.augmentation.lighting_until == pytest.approx(67 / 7)


def test_a_narrow_unit_receives_as_varied_an_input_as_a_wide_one():
  """Variance of a sum: inputs times the square of the deviation."""
  (run, _) = lighting.EXPERIMENT.runs
  wide = configure(EXAMPLE, run, 0, Options("")).network
  options = Options("", overrides={"network.width": 1 / 16})
  narrow_one = configure(EXAMPLE, run, 0, options).network
  assert narrow_one.conv1.std == wide.conv1.std  # three channels either way
  for name in ("conv2", "conv5", "fc6"):
    assert narrow_one[name].std ** 2 / 16 == pytest.approx(wide[name].std ** 2)
  assert narrow_one.fc8_std**2 / 16 == pytest.approx(wide.fc8_std**2)


def test_factors_and_the_seeds_of_a_run_are_relative():
  run = Run("x", "configs/paper.py", {}, rate=2, length=0.5, add_to_seed=7)
  overrides = {"total_epochs": 10, "schedule.learning_rate": 0.03}
  config = configure(EXAMPLE, run, 3, Options("", overrides=overrides))
  assert config.schedule.learning_rate == pytest.approx(0.06)
  assert config.schedule.bias_learning_rate == pytest.approx(0.02)
  assert config.total_epochs == 5 and config.seed == 10
  assert config.schedule.boundaries[0] == pytest.approx(25 * 5 / 90)


def test_the_command_line_does_not_replace_what_makes_a_run():
  run = Run("x", "configs/paper.py", fixed={"eval_every_epochs": 1.0})
  overrides = {"eval_every_epochs": 5, "total_epochs": 10}
  config = configure(EXAMPLE, run, 0, Options("", overrides=overrides))
  assert config.eval_every_epochs == 1 and config.total_epochs == 10


def test_a_cut_length_scales_the_epochs_that_a_run_sets_itself():
  options = Options("", overrides={"total_epochs": 30})
  config = configure(EXAMPLE, SOURCE, 0, options)
  assert config.augmentation.lighting_until == pytest.approx(22.5)


def test_without_conv1_the_first_layer_keeps_its_deviation():
  run = Run("x", "configs/no_conv1.py", {"network.width": 1 / 4})
  network = configure(EXAMPLE, run, 0, Options("")).network
  assert network.conv2.std == 0.01 and network.conv3.std == 0.02


def test_a_wide_network_is_left_alone():
  config = configure(EXAMPLE, EXAMPLE.runs[0], 0, Options(""))
  before = config.to_dict()
  narrow(config)
  assert config.to_dict() == before


def test_quick_overrides_are_stronger_than_those_of_a_run():
  run = plateau.EXPERIMENT.runs[0]
  options = Options("", quick=True, overrides={"batch_size": 8})
  config = configure(plateau.EXPERIMENT, run, 0, options)
  assert config.dataset == QUICK["dataset"] and config.total_steps == 2
  assert config.batch_size == 8


MESHES = """
from alexnet_jax.model import sharding
from experiments.common import frame
from experiments.common.experiment import Options
from experiments.quickstart_seeds import EXPERIMENT

def train(experiment, run, seed, options):
  mesh = frame.configure(experiment, run, seed, options).mesh
  print(run.name, sharding.make_mesh(mesh.data, mesh.model).size, flush=True)
  if run.name == "2x1":
    raise SystemExit

frame.train = train
frame.carry_out(EXPERIMENT, Options("unused", only=["1x1", "2x1"]))
"""


@pytest.mark.slow
def test_a_small_mesh_leaves_devices_for_a_larger_one():
  """In a process of its own, because a process divides the CPU once."""
  found = subprocess.run(
    [sys.executable, "-c", MESHES], cwd=ROOT, capture_output=True, text=True
  )
  assert found.stdout.split("\n")[:2] == ["1x1 1", "2x1 2"], found.stderr
