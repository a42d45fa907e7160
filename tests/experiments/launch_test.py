"""Sweeps with submitit's local executor, and with fake SLURM commands."""

import json
import os
import pathlib
import re
import signal
import stat
import sys
import types

import pytest
from sample_data import write_tiny

from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.status import StatusWriter
from alexnet_jax.runtime.watch import WARNINGS
from experiments import launch

CONFIG = """
from configs import quickstart


def get_config():
  config = quickstart.get_config()
  config.dataset, config.data_dir, config.num_classes = "tiny", {place!r}, 3
  config.batch_size, config.image_size, config.total_steps = 8, 72, 2
  config.network.crop_size, config.network.width = 64, 0.03125
  config.log_every_steps, config.report_at_end = 1, False
  return config
"""


@pytest.mark.slow
def test_a_sweep_is_run_and_collected_and_not_run_twice(
  tmp_path, monkeypatch, capfd
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for compiling
  write_tiny(tmp_path)
  config = tmp_path / "tiny.py"
  config.write_text(CONFIG.format(place=str(tmp_path)))
  sweep = [{"seed": 5}, {"seed": 6, "schedule.name": "sometimes"}]
  output = tmp_path / "sweep"

  table = launch.launch(str(config), sweep, str(output))
  assert [row["override"] for row in table] == sweep
  good, bad = table
  assert good["outcome"] == "finished"
  assert good["step"] == 2
  # The table has the last metrics that the run wrote.
  written = [
    json.loads(line)
    for line in (output / "seed=5" / "metrics.jsonl").read_text().splitlines()
  ]
  last = {line["split"]: line for line in written}
  for split in ("train", "validation"):
    assert good[split]["loss"] == last[split]["loss"]
    assert good[split]["top1_error"] == last[split]["top1_error"]
  assert "schedule.name='sometimes'" in bad["outcome"]
  assert bad["step"] == 0
  assert json.loads((output / "table.json").read_text()) == table

  capfd.readouterr()
  jobs = set((output / "jobs").glob("*.pkl"))
  again = launch.launch(str(config), [{"seed": 5}], str(output))
  assert again == [good]
  assert "seed=5: already finished" in capfd.readouterr().err
  assert set((output / "jobs").glob("*.pkl")) == jobs


def test_the_status_of_a_run_says_why_its_job_ended(tmp_path, monkeypatch):
  """An older status says nothing about a job that did not come so far."""

  def run_all(commands, **options):
    del options
    with pytest.raises(UserError), StatusWriter(tmp_path / "seed=1", 812):
      raise UserError("disk full")
    with StatusWriter(tmp_path / "seed=2", 3) as attempt:
      attempt.end("stopped", "stopped by SIGUSR2")
    with StatusWriter(tmp_path / "seed=4", 5) as attempt:
      attempt.end("finished", "early stopping: 3 evaluations without a lower")
    return dict.fromkeys(commands, "died") | {"seed=4": "finished"}

  with pytest.raises(UserError), StatusWriter(tmp_path / "seed=3", 4):
    raise UserError("of yesterday")
  monkeypatch.setattr(launch, "run_all", run_all)
  sweep = [{"seed": seed} for seed in (1, 2, 3, 4)]
  table = launch.launch("configs/quickstart.py", sweep, str(tmp_path))
  assert [row["outcome"] for row in table] == [
    "the last attempt ended at step 812: disk full",
    "the last attempt ended at step 3: stopped by SIGUSR2",
    "died",
    "finished",
  ]


WAIT_FOR_THE_OTHER = """
import os, pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.write_text(str(sorted(os.sched_getaffinity(0))))
for _ in range(600):
  if other.exists():
    sys.exit()
  time.sleep(0.1)
sys.exit("error: alone")
"""


@pytest.mark.slow
def test_two_jobs_run_side_by_side_on_cores_of_their_own(tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  program = [sys.executable, "-c", WAIT_FOR_THE_OTHER]
  commands = {
    "one": [*program, str(one), str(two)],
    "two": [*program, str(two), str(one)],
    "bad": [sys.executable, "-c", "raise SystemExit('error: no such run')"],
  }
  before = os.sched_getaffinity(0)
  outcomes = launch.run_all(
    commands, executor="local", folder=str(tmp_path / "jobs"), at_once=2
  )
  assert outcomes == {
    "one": "finished",
    "two": "finished",
    "bad": "error: no such run",
  }
  if len(before) > 1:
    assert not set(json.loads(one.read_text())) & set(
      json.loads(two.read_text())
    )
  assert os.sched_getaffinity(0) == before


def test_more_jobs_than_cores_share_them(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
  shares = launch._shares_of_cores(3)
  assert [shares.get() for _ in range(3)] == [{3}, {5}, {3}]
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 3, 4})
  shares = launch._shares_of_cores(2)
  assert [shares.get() for _ in range(2)] == [{1, 3}, {2, 4}]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """Fake sbatch and srun commands; returns the script given to sbatch."""
  script = tmp_path / "script.sh"
  programs = {
    "sbatch": f'cp "$1" {script}\necho "Submitted batch job 4711"',
    "srun": "exit 0",
  }
  for name, body in programs.items():
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  return script


def test_the_script_given_to_slurm(slurm, tmp_path):
  options = launch._options(["partition=gpu", "gpus_per_node=2", "time=90"])
  pool = launch._executor("slurm", str(tmp_path / "jobs"), options)
  command = launch.run_command("configs/paper.py", {"seed": 1}, "runs/x")
  job = pool.submit(launch.submitit.helpers.CommandFunction(command))
  assert job.job_id == "4711"
  script = slurm.read_text()
  for line in (
    "#SBATCH --partition=gpu",
    "#SBATCH --gpus-per-node=2",
    "#SBATCH --time=90",
    "#SBATCH --job-name=alexnet_jax",
  ):
    assert line in script.splitlines()
  # The warning before preemption and the time limit saves a run.
  (name,) = re.findall("^#SBATCH --signal=(USR[12])@", script, re.MULTILINE)
  assert signal.Signals[f"SIG{name}"] in WARNINGS
  assert "submitit.core._submit" in script
  pickled = next((tmp_path / "jobs").glob("*4711*submitted.pkl")).read_bytes()
  for word in ("alexnet_jax.main", "--config.seed=1", "--workdir=runs/x"):
    assert word.encode() in pickled


def test_mistakes_are_user_errors(tmp_path, slurm, monkeypatch):
  with pytest.raises(UserError, match="cannot be read"):
    launch.load_sweep(str(tmp_path / "none.json"))
  (tmp_path / "x.json").write_text('{"seed": 1}')
  with pytest.raises(UserError, match="one object per run"):
    launch.load_sweep(str(tmp_path / "x.json"))
  with pytest.raises(UserError, match="are the same"):
    launch.launch("configs/paper.py", [{}, {}], str(tmp_path))
  with pytest.raises(UserError, match="NAME=VALUE"):
    launch._options(["partition"])
  with pytest.raises(UserError, match="no_such_option"):
    launch._executor("slurm", str(tmp_path), {"no_such_option": 1})
  monkeypatch.setenv("PATH", "/nowhere")
  with pytest.raises(UserError, match="slurm"):
    launch._executor("slurm", str(tmp_path), {})


def test_a_run_has_one_name_whatever_the_order():
  assert launch.run_name({"seed": 1, "network.width": 0.5}) == (
    launch.run_name({"network.width": 0.5, "seed": 1})
  )
  assert launch.run_name({"dataset": "a/b"}) == "dataset=a_b"
  assert launch.run_name({}) == "unchanged"
  assert len(launch.load_sweep("experiments/sweeps/seeds.json")) == 3
  assert pathlib.Path("experiments/sweeps/seeds.json").exists()


@pytest.mark.parametrize(
  ("said", "outcome"),
  [
    ("stopped after step 3; it is saved.", "stopped before its end"),
    ("begun\nstopped while compiling; nothing", "stopped before its end"),
    ("the stall stopped while waiting", "finished"),
  ],
)
def test_a_run_that_was_stopped_is_not_finished(said, outcome):
  job = types.SimpleNamespace(results=lambda: [said])
  assert launch._outcome("x", job) == outcome
