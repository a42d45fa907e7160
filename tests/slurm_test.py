"""docs/cluster.md as written, on a real SLURM cluster and with Open MPI.

All runs are of one tiny network; interrupted ones equal uninterrupted ones.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import slurm_cluster
from faults.sandbox import difference, outcome
from sample_data import ROOT, write_tiny
from slurm_cluster import NODES, Cluster

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    bool(slurm_cluster.missing()), reason=slurm_cluster.missing()
  ),
]

PAGE = (ROOT / "docs" / "cluster.md").read_text()

# Appended to the quickstart's configuration: a tiny run, which is slow while
# there is a file `slow` in its workdir's parent.
TINY = """

_get_config = get_config


def get_config():
  import os
  import sys
  import time

  from alexnet_jax.data import pipeline

  config = _get_config()
  config.dataset, config.data_dir, config.num_classes = "tiny", {data!r}, 3
  config.batch_size, config.image_size, config.total_steps = 8, 72, 40
  config.network.crop_size, config.network.width = 64, 0.03125
  config.log_every_steps, config.eval_every_epochs = 5, 4
  config.checkpoint_every_steps = 5
  config.report_at_end = False
  workdirs = [x[10:] for x in sys.argv if x.startswith("--workdir=")]

  slow = [workdir + ".slow" for workdir in workdirs]

  def decode(*arguments, original=pipeline.decode_into):
    # Until SLURM looks at time limits again, in a minute, it must not end.
    time.sleep(0.8 * any(map(os.path.exists, slow)))
    return original(*arguments)

  pipeline.decode_into = decode
  return config
"""


def block(start):
  """The code block of the page that begins so."""
  (found,) = re.findall(
    rf"^```\w+\n({re.escape(start)}.*?)\n```", PAGE, re.DOTALL | re.MULTILINE
  )
  return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
  """A folder with the repository's code and a tiny quickstart."""
  folder = tmp_path_factory.mktemp("checkout")
  shutil.copytree(ROOT / "configs", folder / "configs")
  for name in ("alexnet_jax", "experiments"):
    (folder / name).symlink_to(ROOT / name)
  data = write_tiny(folder / "data")
  with open(folder / "configs" / "quickstart.py", "a") as file:
    file.write(TINY.format(data=data))
  (folder / "train.sbatch").write_text(block("#!/bin/bash") + "\n")
  (folder / "runs").mkdir()
  return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, checkout):
  with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
    cluster.environment |= {
      "PATH": f"{pathlib.Path(sys.executable).parent}:"
      + cluster.environment["PATH"],
      "XDG_CACHE_HOME": str(checkout / "cache"),
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles in half of the time
      "OMPI_ALLOW_RUN_AS_ROOT": "1",
      "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
      "OMPI_MCA_rmaps_base_oversubscribe": "1",  # two processes on one core
    }
    yield cluster


def run(cluster, checkout, command):
  """A command of the page, as written."""
  done = subprocess.run(
    ["bash", "-c", command],
    cwd=checkout,
    env=cluster.environment,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stdout + done.stderr + cluster.logs()
  return done.stdout + done.stderr


def slow(checkout, name):
  """A file; while it is there, the run `name` is slow."""
  (checkout / "runs" / f"{name}.slow").touch()
  return checkout / "runs" / f"{name}.slow"


def wait_for_step(cluster, checkout, name, step=5):
  """Waits until a run has passed a checkpoint."""
  metrics = checkout / "runs" / name / "metrics.jsonl"
  cluster.wait_until(
    lambda: metrics.exists() and f'"step": {step},' in metrics.read_text(),
    f"step {step} of {name}",
  )


def wait_for_requeue(cluster, job):
  """Waits until a job is queued again; SLURM starts it in two minutes."""

  def queued_again():
    state = cluster.state(job)
    return state["JobState"] == "PENDING" and state["Restarts"] == "1"

  cluster.wait_until(queued_again, f"restart of {job}")


def start_soon(cluster, job):
  """Not at once: the job's credential of this second is revoked."""
  cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")


def completed(cluster, checkout, job):
  """The log of a job that ends well."""
  state = cluster.finish(job)["JobState"]
  log = (checkout / f"alexnet-{job}.log").read_text()
  assert state == "COMPLETED", log + cluster.logs()
  return log


@pytest.fixture(scope="module")
def limited(cluster, checkout):
  """A job of two nodes, submitted as on the page; it reaches its limit."""
  slow(checkout, "two_nodes")
  words = block("sbatch train.sbatch").split()[1:]
  return cluster.submit(*words, cwd=checkout)


@pytest.fixture(scope="module")
def two_tasks(cluster, checkout, limited):
  """An uninterrupted run of two tasks, while the other job begins."""
  command = block("srun --nodes=2")
  return run(cluster, checkout, command)


@pytest.fixture(scope="module")
def one_task(cluster, checkout):
  """An uninterrupted run of one process, without SLURM."""
  command = "python -m alexnet_jax.main --config=configs/quickstart.py"
  run(cluster, checkout, f"{command} --workdir=runs/alone --config.seed=0")
  return outcome(checkout / "runs" / "alone")


def test_srun_is_found_by_jax(two_tasks, checkout):
  # One process prints.
  assert two_tasks.count("mesh data:1 x model:2 on 2 cpu devices") == 1
  assert len(list((checkout / "runs" / "trial").glob("events.*"))) == 1


def test_a_time_limit_queues_the_run_again(
  limited, two_tasks, cluster, checkout
):
  """SLURM's own warning before the limit, and a second start."""
  name = "two_nodes"
  wait_for_step(cluster, checkout, name)
  minutes, _ = cluster.state(limited)["RunTime"].split(":")[1:]
  limit = f"TimeLimit={int(minutes) + 4}"  # the warning is due: five minutes
  cluster.run("scontrol", "update", f"JobId={limited}", limit)
  wait_for_requeue(cluster, limited)
  start_soon(cluster, limited)
  cluster.run("scontrol", "update", f"JobId={limited}", "TimeLimit=60")
  (checkout / "runs" / f"{name}.slow").unlink()
  log = completed(cluster, checkout, limited)
  (saved,) = re.findall(r"stopped after step (\d+); it is saved", log)
  assert 5 <= int(saved) < 40
  assert f"resumed after step {saved}" in log and "Traceback" not in log
  expected = outcome(checkout / "runs" / "trial")
  assert difference(checkout / "runs" / name, expected) == ""


def test_mpirun_is_found_by_jax(two_tasks, cluster, checkout):
  printed = run(cluster, checkout, block("mpirun"))
  assert printed.count("mesh data:1 x model:2 on 2 cpu devices") == 1
  _, ours = outcome(checkout / "runs" / "mpi")
  _, expected = outcome(checkout / "runs" / "trial")
  # Not bit for bit: Open MPI may give a process fewer cores.
  assert [line["loss"] for line in ours] == pytest.approx(
    [line["loss"] for line in expected], rel=1e-3
  )


def test_a_sweep_is_preempted_and_collected(cluster, checkout, one_task):
  """Of two runs one is stopped by the signal that submitit asks for."""
  sweeps = checkout / "sweeps" / "seeds.json"
  sweeps.parent.mkdir()
  sweeps.write_text(json.dumps([{"seed": 0}, {"seed": 1}]))
  (checkout / "runs" / "seeds").mkdir()
  held = slow(checkout, "seeds/seed=0")
  command = block("python -m experiments.launch").replace(
    "experiments/sweeps", "sweeps"
  )
  launch = subprocess.Popen(
    ["bash", "-c", command],
    cwd=checkout,
    env=cluster.environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  try:
    wait_for_step(cluster, checkout, "seeds/seed=0")
    jobs = cluster.run("squeue", "-h", "--name=alexnet_jax", "-o", "%A")
    first = min(jobs.split(), key=int)
    cluster.run("scancel", "--signal=USR2", first)
    wait_for_requeue(cluster, first)
    start_soon(cluster, first)
    held.unlink()
    printed, _ = launch.communicate(timeout=600)
  finally:
    launch.kill()
  assert launch.returncode == 0, printed + cluster.logs()
  assert cluster.state(first)["Restarts"] == "1"
  table = json.loads((checkout / "runs" / "seeds" / "table.json").read_text())
  assert [row["override"] for row in table] == [{"seed": 0}, {"seed": 1}]
  assert [row["outcome"] for row in table] == ["finished", "finished"]
  assert [row["step"] for row in table] == [40, 40]
  assert difference(checkout / "runs" / "seeds" / "seed=0", one_task) == ""
  for row in table:  # the printed table has the collected numbers
    assert f"{row['validation']['loss']:.4f}" in printed


def test_a_job_whose_node_fails_is_queued_again(cluster, checkout, one_task):
  """The daemon and the job are killed, as by a power failure."""
  held = slow(checkout, "failed")
  words = "train.sbatch runs/failed --config=configs/quickstart.py"
  node = NODES[2]
  job = cluster.submit(
    "--nodes=1",
    f"--nodelist={node}",
    *words.split(),
    "--config.seed=0",
    cwd=checkout,
  )
  wait_for_step(cluster, checkout, "failed", 10)
  cluster.kill_node(node)
  wait_for_requeue(cluster, job)
  held.unlink()
  # What is left of the job on the node is cleared before the job is back.
  cluster.start_node(node)
  cluster.wait_until(lambda: cluster.num_idle() == len(NODES), "idle nodes")
  start_soon(cluster, job)
  log = completed(cluster, checkout, job)
  assert "stopped after step" not in log and "resumed after step" in log
  assert difference(checkout / "runs" / "failed", one_task) == ""


def test_a_cancelled_run_is_told_by_launch(cluster, checkout):
  """Without accounting, submitit alone would wait for it forever."""
  folder = checkout / "runs" / "cancelled"
  program = (
    "import sys; from experiments import launch;"
    "launch.QUEUE_SECONDS = 1;"
    "print(launch.run_all({'x': ['sleep', '100']}, executor='slurm',"
    f" folder={str(folder)!r}))"
  )
  launch = subprocess.Popen(
    [sys.executable, "-c", program],
    cwd=checkout,
    env=cluster.environment | {"PYTHONPATH": os.fspath(checkout)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  try:

    def jobs():
      return cluster.run("squeue", "-h", "--name=alexnet_jax", "-o", "%A")

    cluster.wait_until(jobs, "job of the launcher")
    cluster.run("scancel", *jobs().split())
    printed, _ = launch.communicate(timeout=120)
  finally:
    launch.kill()
  assert "{'x': 'left the queue without a result'}" in printed
