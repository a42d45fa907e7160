"""Two real processes on this machine train what one process trains."""

import io
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
import tiny_runs
from sample_data import Tiny, write_tiny
from tiny_runs import arrays, lines

from alexnet_jax.data import sources
from alexnet_jax.model import sharding
from alexnet_jax.training import metrics
from alexnet_jax.training.run_data import RunData
from alexnet_jax.training.runs import load_config, load_state

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp("two_processes")
  write_tiny(folder)
  return folder


class Run:
  """One or two processes of a run, on this machine."""

  def __init__(self, place, workdir, data, model, *overrides, processes=2):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    self.workdir, self.started = place / workdir, time.time()
    self.outputs = [place / f"{workdir}.{i}.txt" for i in range(processes)]
    self.processes = []
    environment = {
      "XDG_CACHE_HOME": str(place / "cache"),
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles in half of the time
    }
    for i, output in enumerate(self.outputs):
      flags = [
        *tiny_runs.flags(place, workdir, *overrides),
        f"--config.mesh.data={data}",
        f"--config.mesh.model={model}",
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
    """Waits for all processes; each must succeed."""
    statuses = [process.wait(400) for process in self.processes]
    assert set(statuses) == {0}, self.all_output()
    return self

  def output(self, i):
    """Everything that process i printed."""
    return self.outputs[i].read_text() + self.errors(i)

  def errors(self, i):
    """What process i printed on stderr."""
    return pathlib.Path(f"{self.outputs[i]}.err").read_text()

  def all_output(self):
    """Everything that all processes printed."""
    return "".join(self.output(i) for i in range(len(self.outputs)))

  def wait_for_step(self, step):
    """Waits until the metrics have this step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
      file = self.workdir / metrics.FILE_NAME
      # Until a resumed run writes, the file is that of the run before.
      is_new = file.exists() and file.stat().st_mtime > self.started
      found = metrics.read(str(self.workdir)) if is_new else []
      if any(line["step"] >= step for line in found):
        return
      assert all(process.poll() is None for process in self.processes), (
        self.all_output()
      )
      time.sleep(0.2)
    raise AssertionError(f"no step {step}: {self.all_output()}")


def newest_checkpoint(run):
  """The step of the newest checkpoint of a run."""
  return max(
    int(folder.name)
    for folder in (run.workdir / "checkpoints").iterdir()
    if folder.name.isdigit()
  )


# Each test starts several processes that train; minutes on two cores.
pytestmark = pytest.mark.slow

TEN = "--config.total_steps=10"


@pytest.fixture(scope="module")
def single(place):
  Run(place, "single", 1, 2, TEN, processes=1).finish()
  return lines(place, "single")


@pytest.fixture(scope="module")
def tower_each(place):
  return Run(place, "tower_each", 1, 2, TEN).finish()


@pytest.fixture(scope="module")
def half_each(place):
  return Run(place, "half_each", 2, 1, TEN).finish()


@pytest.mark.parametrize("pair", ["tower_each", "half_each"])
def test_two_processes_train_what_one_does(place, single, pair, request):
  request.getfixturevalue(pair)
  ours = lines(place, pair)
  assert [(x["step"], x["split"]) for x in ours] == [
    (x["step"], x["split"]) for x in single
  ]
  for line, other in zip(ours, single, strict=True):
    assert line["loss"] == pytest.approx(other["loss"], rel=2e-5)
    assert line["top1_error"] == pytest.approx(other["top1_error"])
  validation = [line for line in ours if line["split"] == "validation"]
  assert [line["num_examples"] for line in validation] == [10, 10]
  # Both write one checkpoint, which any single process can read.
  for (path, one), (_, two) in zip(
    jax.tree.leaves_with_path(arrays(place, "single")),
    jax.tree.leaves_with_path(arrays(place, pair)),
    strict=True,
  ):
    scale = np.abs(one).max() + 1e-12
    assert np.abs(one - two).max() <= 1e-4 * scale, path


@pytest.mark.parametrize("pair", ["tower_each", "half_each"])
def test_one_process_prints_and_writes(place, pair, request):
  run = request.getfixturevalue(pair)
  assert "validation top-1 error" in run.output(0)
  assert run.output(1) == ""
  assert len(list((place / pair).glob("events.*"))) == 1
  kept = RunData.read(place / pair, load_config(str(place / pair)))
  assert kept.classes == ("ash", "elm", "oak") and kept.statistics is not None
  steps = [x["step"] for x in lines(place, pair) if x["split"] == "train"]
  assert steps == list(range(1, 11))


def test_a_run_resumes_after_a_process_died_or_was_stopped(place):
  """The first is killed, then the second receives SIGTERM."""
  command = (place, "resumed", 1, 2, "--config.checkpoint_every_steps=2")
  run = Run(*command)
  run.wait_for_step(5)
  run.processes[0].send_signal(signal.SIGKILL)
  run.processes[0].wait()
  status = run.processes[1].wait(120)  # the promised two minutes
  assert status not in (0, 2)
  errors = run.errors(1)
  assert "another process died" in errors or "another task died" in errors
  saved = newest_checkpoint(run)

  run = Run(*command)
  run.wait_for_step(saved + 1)
  run.processes[1].send_signal(signal.SIGTERM)
  run.finish()
  assert f"resumed after step {saved}" in run.output(0)
  last = newest_checkpoint(run)
  assert f"stopped after step {last}; it is saved" in run.output(0)
  # Each line was written once; an epoch has five steps.
  written = [(x["split"], x["step"]) for x in lines(place, "resumed")]
  steps = [step for split, step in written if split == "train"]
  assert steps == list(range(1, last + 1))
  validated = [step for split, step in written if split == "validation"]
  assert validated in (
    list(range(5, last + 1, 5)),
    list(
      range(5, last, 5)
    ),  # stopped during the last evaluation, which is still due
  )


class TwoBad(Tiny):
  """Tiny, with two training images that cannot be decoded."""

  name = "tiny"

  def _generate_examples(self, numbers):
    for number, example in super()._generate_examples(numbers):
      bad = number in (37, 38)  # not of the images that diagnostics measure
      yield number, example | ({"image": io.BytesIO(b"")} if bad else {})


def test_undecodable_images_of_all_processes_count_together(tmp_path):
  """Each process meets one of two bad images in the first epoch."""
  folder = tmp_path / "data"
  TwoBad(
    data_dir=str(folder), file_format="array_record"
  ).download_and_prepare()
  source = sources.open_split("tiny", "train", str(folder))
  bad = [i for i in range(len(source)) if not source[i][0]]

  def processes_of_the_bad(seed, epoch):
    places = np.argsort(sources.permutation(len(source), seed, epoch))[bad]
    return (places % 8 // 4).tolist()  # halves of a batch of eight

  # In the next epoch too, whose first batches are loaded ahead.
  seed = next(
    seed
    for seed in range(999)
    if processes_of_the_bad(seed, 0) == processes_of_the_bad(seed, 1) == [0, 1]
  )
  options = f"--config.seed={seed}", "--config.total_steps=5"
  allowed = "--config.max_undecodable="
  run = Run(folder, "refused", 2, 1, *options, f"{allowed}1")
  assert [process.wait(400) for process in run.processes] == [2, 2]
  for i in (0, 1):
    assert "max_undecodable allows 1" in run.errors(i), run.all_output()
    assert "Traceback" not in run.errors(i)
  run = Run(folder, "allowed", 2, 1, *options, f"{allowed}2").finish()
  written = [x for x in lines(folder, "allowed") if x["split"] == "train"]
  assert sum(line["undecodable"] for line in written) == 2
  # A run that is resumed in any process knows both.
  _, saved = load_state(str(run.workdir), sharding.make_mesh(1, 1))
  assert saved["left_out"] == bad
