"""Two real processes on loopback train the network that one process trains."""

import json
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
from train_test import arrays, lines, train
from train_test import place as place  # the fixture: a data set and a folder

from alexnet_jax import cluster, sharding
from alexnet_jax.command import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Pair:
  """Two processes of one run, on this machine."""

  def __init__(self, place, workdir, data, model, *overrides):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    self.workdir = place / workdir
    self.outputs = [place / f"{workdir}.{i}.txt" for i in range(2)]
    self.processes = []
    for i, output in enumerate(self.outputs):
      with open(output, "w") as out, open(f"{output}.err", "w") as err:
        command = [
          *(sys.executable, "-m", "alexnet_jax.main"),
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
          f"--coordinator=localhost:{port}",
          "--num_processes=2",
          f"--process_id={i}",
          *overrides,
        ]
        environment = {
          "XDG_CACHE_HOME": str(place / "cache"),
          "JAX_PLATFORMS": "cpu",
        }
        self.processes.append(
          subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=out,
            stderr=err,
          )
        )

  def finish(self):
    """Waits; both must succeed."""
    statuses = [process.wait(400) for process in self.processes]
    assert statuses == [0, 0], self.said(0) + self.said(1)
    return self

  def said(self, i):
    """All that process i printed."""
    return self.outputs[i].read_text() + self.told(i)

  def told(self, i):
    """What process i told on stderr."""
    return pathlib.Path(f"{self.outputs[i]}.err").read_text()

  def wait_for_step(self, step):
    """Waits until metrics.jsonl holds this step."""
    metrics = self.workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
      if metrics.exists() and f'"step": {step},' in metrics.read_text():
        return
      assert all(process.poll() is None for process in self.processes), (
        self.said(0) + self.said(1)
      )
      time.sleep(0.2)
    raise AssertionError(f"no step {step}: {self.said(0)}{self.said(1)}")


@pytest.fixture(scope="module")
def alone(place):
  result = train(place, "alone", "--config.total_steps=10")
  assert result.returncode == 0, result.stderr
  return lines(place, "alone")


@pytest.fixture(scope="module")
def tower_each(place):
  return Pair(place, "tower_each", 1, 2, "--config.total_steps=10").finish()


@pytest.fixture(scope="module")
def half_each(place):
  return Pair(place, "half_each", 2, 1, "--config.total_steps=10").finish()


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("pair", ["tower_each", "half_each"])
def test_one_process_talks_and_writes(place, pair, request):
  run = request.getfixturevalue(pair)
  assert "step 10/10" in run.said(0)
  assert run.said(1) == ""
  events = list((place / pair).glob("events.*"))
  assert len(events) == 1
  steps = [
    json.loads(line)["step"]
    for line in (place / pair / "metrics.jsonl").read_text().splitlines()
    if json.loads(line)["split"] == "train"
  ]
  assert steps == list(range(1, 11))


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_the_other_stops_and_the_run_goes_on(place, victim):
  name = f"victim{victim}"
  often = "--config.checkpoint_every_steps=2"
  pair = Pair(place, name, 1, 2, often, "--config.total_steps=100000")
  pair.wait_for_step(5)
  pair.processes[victim].send_signal(signal.SIGKILL)
  pair.processes[victim].wait()
  began = time.monotonic()
  status = pair.processes[1 - victim].wait(120)
  assert time.monotonic() - began < 120
  assert status not in (0, 2)
  told = pair.told(1 - victim)
  assert "another one is gone" in told or "another task died" in told
  saved = max(
    int(folder.name)
    for folder in (place / name / "checkpoints").iterdir()
    if folder.name.isdigit()
  )
  total = saved + 3
  again = Pair(place, name, 1, 2, often, f"--config.total_steps={total}")
  again.finish()
  assert f"resumed after step {saved}" in again.said(0)
  written = [x["step"] for x in lines(place, name) if x["split"] == "train"]
  assert written == list(range(1, total + 1))


@pytest.mark.long
def test_a_signal_to_one_stops_both_with_a_checkpoint(place):
  pair = Pair(place, "signalled", 2, 1, "--config.total_steps=100000")
  pair.wait_for_step(3)
  pair.processes[1].send_signal(signal.SIGTERM)
  pair.finish()
  assert "it is saved" in pair.said(0)
  last = lines(place, "signalled")[-1]["step"]
  assert (place / "signalled" / "checkpoints" / str(last)).is_dir()


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
