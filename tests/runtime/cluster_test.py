"""Two real processes on loopback train the network that one process trains."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from train_test import arrays, lines
from train_test import place as place  # the fixture: a data set and a folder

from alexnet_jax.model import sharding
from alexnet_jax.runtime import cluster
from alexnet_jax.runtime.command import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Run:
  """One or two processes of a run, on this machine."""

  def __init__(self, place, workdir, data, model, *overrides, processes=2):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    self.workdir = place / workdir
    self.outputs = [place / f"{workdir}.{i}.txt" for i in range(processes)]
    self.processes = []
    environment = {
      "XDG_CACHE_HOME": str(place / "cache"),
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles in half of the time
    }
    for i, output in enumerate(self.outputs):
      flags = [
        "--config=configs/quickstart.py",
        f"--workdir={self.workdir}",
        "--config.dataset=tiny",
        f"--config.data_dir={place}",
        "--config.num_classes=3",
        "--config.batch_size=8",
        "--config.image_size=72",
        "--config.network.crop_size=64",
        "--config.network.width=0.03125",
        "--config.log_every_steps=1",
        f"--config.mesh.data={data}",
        f"--config.mesh.model={model}",
        *overrides,
      ]
      if processes > 1:
        flags += [
          f"--coordinator=localhost:{port}",
          f"--num_processes={processes}",
          f"--process_id={i}",
        ]
      with open(output, "w") as out, open(f"{output}.err", "w") as err:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, "-m", "alexnet_jax.main", *flags],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=out,
            stderr=err,
          )
        )

  def finish(self):
    """Waits; all must succeed."""
    statuses = [process.wait(400) for process in self.processes]
    assert set(statuses) == {0}, self.everything()
    return self

  def said(self, i):
    """All that process i printed."""
    return self.outputs[i].read_text() + self.told(i)

  def told(self, i):
    """What process i told on stderr."""
    return pathlib.Path(f"{self.outputs[i]}.err").read_text()

  def everything(self):
    """All that all printed."""
    return "".join(self.said(i) for i in range(len(self.outputs)))

  def wait_for_step(self, step):
    """Waits until the first process says that this step is done."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
      if f"step {step}/" in self.said(0):
        return
      assert all(process.poll() is None for process in self.processes), (
        self.everything()
      )
      time.sleep(0.2)
    raise AssertionError(f"no step {step}: {self.everything()}")


def newest_checkpoint(run):
  """Its step."""
  return max(
    int(folder.name)
    for folder in (run.workdir / "checkpoints").iterdir()
    if folder.name.isdigit()
  )


TEN = "--config.total_steps=10"


@pytest.fixture(scope="module")
def alone(place):
  Run(place, "alone", 1, 2, TEN, processes=1).finish()
  return lines(place, "alone")


@pytest.fixture(scope="module")
def tower_each(place):
  return Run(place, "tower_each", 1, 2, TEN).finish()


@pytest.fixture(scope="module")
def half_each(place):
  return Run(place, "half_each", 2, 1, TEN).finish()


@pytest.mark.parametrize("pair", ["tower_each", "half_each"])
def test_two_processes_train_what_one_does(place, alone, pair, request):
  request.getfixturevalue(pair)
  ours = lines(place, pair)
  assert [(x["step"], x["split"]) for x in ours] == [
    (x["step"], x["split"]) for x in alone
  ]
  for line, other in zip(ours, alone, strict=True):
    assert line["loss"] == pytest.approx(other["loss"], rel=2e-5)
    assert line["top1_error"] == pytest.approx(other["top1_error"])
  validation = [line for line in ours if line["split"] == "validation"]
  assert [line["num_examples"] for line in validation] == [10, 10]
  # One checkpoint, written by both, that any single process reads.
  for (path, one), (_, two) in zip(
    jax.tree.leaves_with_path(arrays(place, "alone")),
    jax.tree.leaves_with_path(arrays(place, pair)),
    strict=True,
  ):
    scale = np.abs(one).max() + 1e-12
    assert np.abs(one - two).max() <= 1e-4 * scale, path


@pytest.mark.parametrize("pair", ["tower_each", "half_each"])
def test_one_process_talks_and_writes(place, pair, request):
  run = request.getfixturevalue(pair)
  assert "step 10/10" in run.said(0)
  assert run.said(1) == ""
  assert len(list((place / pair).glob("events.*"))) == 1
  steps = [x["step"] for x in lines(place, pair) if x["split"] == "train"]
  assert steps == list(range(1, 11))


def test_processes_go_and_the_run_goes_on(place):
  """One is killed, then the other, then one is asked to leave."""
  command = (place, "goes_on", 1, 2, "--config.checkpoint_every_steps=2")
  saved = 0
  for victim in (0, 1):
    run = Run(*command)
    run.wait_for_step(saved + 5)
    run.processes[victim].send_signal(signal.SIGKILL)
    run.processes[victim].wait()
    status = run.processes[1 - victim].wait(120)  # the promised two minutes
    assert status not in (0, 2)
    told = run.told(1 - victim)
    assert "another one is gone" in told or "another task died" in told
    if saved:
      assert f"resumed after step {saved}" in run.said(0)
    saved = newest_checkpoint(run)

  run = Run(*command)
  run.wait_for_step(saved + 1)
  run.processes[1].send_signal(signal.SIGTERM)
  run.finish()
  assert f"resumed after step {saved}" in run.said(0)
  last = newest_checkpoint(run)
  assert f"stopped after step {last}; it is saved" in run.said(0)
  # Every line is there, once; an epoch is five steps.
  written = [(x["split"], x["step"]) for x in lines(place, "goes_on")]
  steps = [step for split, step in written if split == "train"]
  assert steps == list(range(1, last + 1))
  validated = [step for split, step in written if split == "validation"]
  assert validated in (
    list(range(5, last + 1, 5)),
    list(range(5, last, 5)),  # stopped in the evaluation, which is still due
  )


def test_flags_that_do_not_fit_are_refused():
  for flags in (("", 2, 0), ("localhost:1", 2, 2), ("localhost:1", 0, -1)):
    with pytest.raises(UserError, match="each needs all three"):
      cluster.join(*flags)
  with pytest.raises(UserError, match="cannot be shared evenly"):
    cluster.join("localhost:1", 2, 0, mesh_devices=3)


@pytest.mark.parametrize(
  ("variable", "value", "size"),
  [
    ("SLURM_STEP_NUM_TASKS", "4", 4),
    ("OMPI_COMM_WORLD_SIZE", "2", 2),
    ("TPU_WORKER_HOSTNAMES", "a,b,c", 3),
    ("UNRELATED", "7", 1),
  ],
)
def test_clusters_are_known_by_their_variables(
  variable, value, size, monkeypatch
):
  for name in (*cluster.SIZE_VARIABLES, "TPU_WORKER_HOSTNAMES"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv(variable, value)
  assert cluster._detected_size() == size


def test_alone_nothing_is_joined_and_everything_is_ours(tmp_path, monkeypatch):
  for name in (*cluster.SIZE_VARIABLES, "TPU_WORKER_HOSTNAMES"):
    monkeypatch.delenv(name, raising=False)
  cluster.join(mesh_devices=8)
  assert cluster.alone()
  assert cluster.is_main()
  assert cluster.anyone(True)
  assert not cluster.anyone(False)
  with cluster.own_folder(str(tmp_path)) as folder:
    assert folder == str(tmp_path)
  assert sharding.process_share(sharding.make_mesh(4, 2)) == (0, 1)
  with pytest.raises(UserError, match="x"), cluster.parting():
    raise UserError("x")


@pytest.mark.parametrize(
  ("error", "told", "status"),
  [
    (ValueError("UNKNOWN: Gloo AllGather failed: reset by peer"), "gone", 1),
    (jax.errors.JaxRuntimeError("INTERNAL: NCCL: remote error"), "gone", 1),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"), "Traceback", 1),
    (ValueError("UNKNOWN is no field"), "Traceback", 1),
    (UserError("no such file"), "error: no such file", 2),
  ],
)
def test_a_process_says_whether_it_is_the_one_that_failed(
  error, told, status, monkeypatch, capsys
):
  """The first text is what a killed neighbour gave, seen in a run."""
  monkeypatch.setattr(cluster, "alone", lambda: False)
  monkeypatch.setattr(os, "_exit", sys.exit)
  with pytest.raises(SystemExit) as leaving, cluster.parting():
    raise error
  assert leaving.value.code == status
  message = capsys.readouterr().err
  assert told in message
  assert ("another one is gone" in message) == (told == "gone")
