"""The training loop, on images that the tests write themselves."""

import contextlib
import io
import json
import re
import shutil
import signal

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image
from safetensors.numpy import load_file
from sample_data import Tiny
from tiny_runs import arrays, lines, train

import alexnet_jax
from alexnet_jax.data import sources
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.runtime import status
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import kernel_history, predictions, step
from alexnet_jax.training.job import Recipe
from alexnet_jax.training.run_data import RunData
from alexnet_jax.training.run_evaluation import evaluate_runs
from alexnet_jax.training.runs import load_config


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with a dataset, a cache and the runs of these tests."""
  with tiny_runs.place(tmp_path_factory.mktemp("loop")) as folder:
    yield folder


@pytest.fixture(scope="module")
def whole(place):
  """Trains ten steps of eight images, two epochs; returns what is printed."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    assert train(place, "whole", total_steps=10)
  return output.getvalue()


def test_a_run_writes_what_the_design_specifies(place, whole):
  assert "ln(3) = 1.099" in whole
  assert "data:1 x model:2 on 2 cpu devices" in whole
  written = lines(place, "whole")
  training = [line for line in written if line["split"] == "train"]
  assert [line["step"] for line in training] == list(range(1, 11))
  assert training[0]["learning_rate"] == 0.01
  validation = [line for line in written if line["split"] == "validation"]
  assert [line["epoch"] for line in validation] == [1, 2]
  for line in validation:
    assert line["num_examples"] == 10  # of batches of 8: none twice
    assert line["views"] == 1
    assert line["top5_error"] == 0  # of three classes
    assert line["top1_error"] * 10 == pytest.approx(
      round(line["top1_error"] * 10), abs=1e-5
    )
  names = {path.name.split(".")[0] for path in (place / "whole").iterdir()}
  assert {"config", "metrics", "checkpoints", "events"} <= names


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(place, whole):
  config = place / "parts" / "config.json"
  for steps in (3, 7, 10):
    config.unlink(missing_ok=True)  # the copy in the checkpoint replaces it
    assert train(place, "parts", total_steps=steps)
    assert json.loads(config.read_text())["total_steps"] == steps
  for (path, one), (_, other) in zip(
    jax.tree.leaves_with_path(arrays(place, "whole")),
    jax.tree.leaves_with_path(arrays(place, "parts")),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other, err_msg=str(path))
  # The parts were also evaluated at their ends; all else is the same.
  rest = [
    line
    for line in lines(place, "parts")
    if not (line["split"] == "validation" and line["step"] in (3, 7))
  ]
  assert rest == lines(place, "whole")
  for name in ("kernels.npz", "predictions.npz"):
    whole_bytes = (place / "whole" / name).read_bytes()
    assert (place / "parts" / name).read_bytes() == whole_bytes, name


def test_the_kernels_are_kept_at_the_start_and_after_each_epoch(place, whole):
  kept = kernel_history.read(str(place / "whole"))
  assert kept.step.tolist() == [0, 5, 10] and kept.epoch.tolist() == [0, 1, 2]
  recipe = Recipe.from_config(load_config(str(place / "whole")))
  initial = AlexNet(recipe.network, jax.random.key(0)).towers.conv1.kernel[...]
  trained = arrays(place, "whole")["net"]["towers"]["conv1"]["kernel"]
  for kernels, expected in (
    (kept.kernels[0], initial),
    (kept.kernels[2], trained),
  ):
    by_tower = np.moveaxis(np.asarray(expected), -1, 1)
    np.testing.assert_allclose(kernels, by_tower, rtol=1e-3, atol=1e-6)


def test_the_predictions_of_the_last_evaluation_are_kept(place, whole):
  source = sources.open_split("tiny", "validation", str(place))
  found = predictions.read(str(place / "whole"), 10, source.fingerprint)
  assert found.index.tolist() == list(range(10))
  assert found.label.tolist() == [source[i][1] for i in range(10)]
  error = lines(place, "whole")[-1]["top1_error"]
  assert np.mean(found.label != found.predicted) == pytest.approx(error)
  assert ((found.probability > 1 / 3) & (found.probability <= 1)).all()
  # Those of another step or of other images are not taken for them.
  assert predictions.read(str(place / "whole"), 9, source.fingerprint) is None
  assert predictions.read(str(place / "whole"), 10, "other") is None


@pytest.mark.slow
def test_the_cosine_of_an_extended_run_is_that_of_its_new_length(place, capsys):
  cosine = {"schedule.name": "cosine", "schedule.warmup_epochs": 0.4}
  assert train(place, "cosine", total_steps=4, **cosine)
  assert train(place, "cosine", total_steps=6, **cosine)
  message = "at epoch 0.8: it was 0 and is now 0.005"
  assert message in capsys.readouterr().out
  rates = [
    line["learning_rate"]
    for line in lines(place, "cosine")
    if line["split"] == "train"
  ]
  # Five steps an epoch, two of warm-up; then (1 + cos(x)) / 200 with x = 0 and
  # pi / 2 of two steps, and x = pi / 2 and 3 pi / 4 of four.
  expected = [0.005, 0.01, 0.01, 0.005, 0.005, 0.00146447]
  assert rates == pytest.approx(expected, rel=1e-5)


def test_should_stop_is_asked_after_checkpoints_and_ends_the_run(place, capsys):
  steps = []

  def should_stop():
    steps.append(None)
    return len(steps) == 2

  written = []

  def on_metrics():
    file = place / "stopped" / "metrics.jsonl"
    written.append(file.read_text().count("\n"))

  changes = {"total_steps": 10, "checkpoint_every_steps": 2}
  assert train(place, "stopped", should_stop, on_metrics, **changes)
  assert written == [1, 2, 3, 4]  # called when the line is in the file
  assert int(arrays(place, "stopped")["step"]) == 4
  assert "train loss" in capsys.readouterr().out  # the table
  assert status.read(place / "stopped").state == "stopped"
  told = status.last_attempt(place / "stopped")
  assert told.endswith("step 4: stopped by the program that started it")


def test_a_run_that_ends_at_an_existing_checkpoint_is_evaluated(place, capsys):
  assert train(place, "straight", total_steps=3)
  changes = {"checkpoint_every_steps": 3}
  assert train(place, "moved", lambda: True, total_steps=10, **changes)
  assert [line["split"] for line in lines(place, "moved")] == ["train"] * 3
  capsys.readouterr()
  assert train(place, "moved", total_steps=3, **changes)
  assert lines(place, "moved") == lines(place, "straight")
  error = lines(place, "straight")[-1]["top1_error"]
  assert f"{error:.2%}" in capsys.readouterr().out  # the table
  assert train(place, "moved", total_steps=2, **changes)  # is behind it
  assert "finished after 3 steps" in capsys.readouterr().out


def test_early_stopping_ends_a_run_that_does_not_improve(place, capsys):
  """At a rate of 0 all evaluations are alike, and the first is the best."""
  changes = {"schedule.learning_rate": 0.0, "schedule.bias_learning_rate": 0.0}
  changes |= {"total_steps": 8, "eval_every_epochs": 0.2}  # every step

  def evaluated():
    return [x["step"] for x in lines(place, "early") if "views" in x]

  # The count outlives an interruption after the second step.
  asked = iter([False, True])
  assert train(place, "early", lambda: next(asked), **changes)
  assert evaluated() == [1, 2]
  error = lines(place, "early")[-1]["top1_error"]
  reason = "early stopping: 2 evaluations without a lower validation top-1"
  reason += f" error than {error:.2%}"
  for _ in range(2):  # the second time it has finished already
    assert train(place, "early", early_stopping=2, **changes)
    assert f"finished after 3 steps ({reason})" in capsys.readouterr().out
    assert evaluated() == [1, 2, 3]
    assert status.read(place / "early")[:3] == ("finished", 3, reason)
  assert train(place, "early", early_stopping=3, **changes)  # goes on
  assert evaluated() == [1, 2, 3, 4]


def test_one_device_with_both_towers_trains_the_same_network(
  place, whole, capsys
):
  mesh = {"mesh.model": 1, "mesh.data": 1}
  assert train(place, "one_device", total_steps=10, **mesh)
  assert "data:1 x model:1 on 1 cpu device;" in capsys.readouterr().out
  for (path, one), (_, other) in zip(
    jax.tree.leaves_with_path(arrays(place, "whole")),
    jax.tree.leaves_with_path(arrays(place, "one_device", (1, 1))),
    strict=True,
  ):
    scale = np.abs(one).max() + 1e-12
    assert np.abs(one - other).max() <= 2e-5 * scale, path


def test_a_finished_run_prints_its_table_and_writes_nothing(
  place, whole, capsys
):
  folder = place / "whole"
  before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
  assert train(place, "whole", total_steps=10)
  assert "validation top-1" in " ".join(capsys.readouterr().out.split())
  after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
  assert after == before


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"batch_size": 9, "mesh.data": 2}, "(got 9)"),
    ({"mesh.data": 5, "mesh.model": 2}, "needs 10 devices"),
    ({"checkpoints_to_keep": 0}, "must be an integer from 1 to"),
    ({"num_classes": 4}, "--config.num_classes=3"),
    ({"dataset": "nothing"}, "alexnet_jax.prepare"),
    ({"schedule.name": "linear"}, "plateau"),
    ({"network.conv1.then": ("gelu",)}, "relu"),
    ({"network.crop_size": 30}, "too small"),
    ({"network.towers": 0}, "network.towers must be an integer from 1"),
    ({"network.exchanges": ("conv5", "fc8")}, "'conv5'"),
    ({"optimizer.layer_rates": (("conv9", 0.0),)}, "layer_rates names conv9"),
    ({"start_from": "nowhere"}, "start_from=nowhere does not exist"),
    ({"early_stopping": 1, "eval_every_epochs": 0.0}, "counts evaluations"),
  ],
)
def test_a_mistake_raises_an_error_before_anything_is_written(
  place, changes, message
):
  with pytest.raises(UserError, match=re.escape(message)):
    train(place, "mistaken", **changes)
  assert not (place / "mistaken" / "config.json").exists()


@pytest.mark.parametrize(
  "override, message",
  [
    ("--config.seed=7", "seed (was 0, now 7)"),
    pytest.param(
      "--config.network.within_map_n=3",
      "no layer is followed by 'within",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_the_command_reports_a_mistake_in_one_paragraph(
  place, whole, override, message
):
  before = sorted((place / "whole").rglob("*"))
  workdir = "whole" if "seed" in override else "mistaken"
  flags = tiny_runs.flags(place, workdir, "--config.total_steps=10", override)
  result = tiny_runs.command(place, "main", *flags)
  assert result.returncode == 2, result.stderr
  assert message in result.stderr
  assert "Traceback" not in result.stderr
  assert sorted((place / "whole").rglob("*")) == before


def test_a_loss_that_is_not_finite_stops_the_run(place):
  """At the same step for any logging cadence; nothing later is saved."""
  messages = []
  for every in (1, 100):
    changes = {"schedule.learning_rate": 1e6, "log_every_steps": every}
    with pytest.raises(UserError, match=r"learning rate 1e\+06") as error:
      train(place, f"exploding{every}", total_steps=20, **changes)
    assert not list((place / f"exploding{every}" / "checkpoints").iterdir())
    messages.append(str(error.value))
    found = status.read(place / f"exploding{every}")
    assert (found.state, found.message) == ("failed", messages[-1])
  assert messages[0] == messages[1]


def test_the_host_does_not_wait_between_two_steps(place, monkeypatch):
  """It waits for a step after the next is sent, or when a line is due."""
  events = []
  make, fetch = step.make_train_step, sharding.fetch

  def make_train_step(*arguments):
    compiled = make(*arguments)

    def train_step(*arguments):
      events.append("sent")
      return compiled(*arguments)

    return train_step

  def fetched(tree):
    if "finite" in tree:
      events.append("waited")
    return fetch(tree)

  monkeypatch.setattr(step, "make_train_step", make_train_step)
  monkeypatch.setattr(sharding, "fetch", fetched)
  changes = {"log_every_steps": 3, "eval_every_epochs": 0, "total_steps": 7}
  train(place, "ahead", **changes)
  # Lines are written after steps 1, 3, 6 and 7.
  expected = ("sw", "ssww", "sswsww", "sw")
  assert "".join(event[0] for event in events) == "".join(expected)


@pytest.mark.parametrize("views", [1, 10])
def test_evaluation_counts_every_example_and_repeats_the_training_s_errors(
  place, whole, views
):
  workdir = str(place / "whole")
  found = evaluate_runs([workdir], views=views, split="validation").result
  assert found["num_examples"] == 10
  assert found["views"] == views
  if views == 1:
    last = lines(place, "whole")[-1]
    for name in ("loss", "top1_error", "top5_error"):
      assert found[name] == pytest.approx(last[name], rel=1e-6)


def test_a_moved_workdir_needs_no_training_image(place, whole, tmp_path):
  """The validation images alone, in another folder, and an empty cache."""
  shutil.copytree(place / "whole", tmp_path / "moved")
  shutil.copytree(place / "tiny", tmp_path / "tiny")
  for path in tmp_path.glob("tiny/*/*-train.*"):
    path.unlink()
  data_dir, workdir = str(tmp_path), str(tmp_path / "moved")
  written = json.loads((tmp_path / "moved" / "classes.json").read_text())
  assert written["names"] == ["ash", "elm", "oak"]
  assert written["dataset"] == "tiny"
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="incomplete"):
      sources.open_split("tiny", "train", data_dir)
    found = evaluate_runs(
      [workdir], views=1, split="validation", data_dir=data_dir
    ).result
    net = alexnet_jax.load(workdir)
  last = lines(place, "whole")[-1]
  for name in ("loss", "top1_error", "top5_error"):
    assert found[name] == pytest.approx(last[name], rel=1e-6)
  assert net.classes == ("ash", "elm", "oak")
  validation = sources.open_split("tiny", "validation", data_dir)
  pictures, labels = zip(*map(validation.__getitem__, range(10)), strict=True)
  probabilities = net.predict([Image.open(io.BytesIO(p)) for p in pictures])
  own = probabilities[np.arange(10), list(labels)]
  assert -np.log(own).mean() == pytest.approx(last["loss"], rel=1e-6)


def test_a_run_without_checkpoints_does_not_resume_on_other_images(
  place, whole, tmp_path
):
  """The mean image in the workdir is that of the images it began with."""
  kept = RunData.read(place / "whole", load_config(str(place / "whole")))
  kept._replace(fingerprint="tiny/1.2.0:train:40:0123456789ab").save(tmp_path)
  with pytest.raises(UserError, match="the train images have changed"):
    train(place, tmp_path, total_steps=10)
  assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_the_commands_agree_without_training_images(place, whole, tmp_path):
  """Moved, in processes of their own: evaluate, predict, export, report."""
  work, data = tmp_path / "work", tmp_path / "data"
  shutil.copytree(place / "whole", work)
  shutil.copytree(place / "tiny", data / "tiny")
  for path in data.glob("tiny/*/*-train.*"):
    path.unlink()
  pictures = []
  for index, pixels in enumerate(Tiny.pictures[40:]):
    pictures.append(str(tmp_path / f"{index}.png"))
    Image.fromarray(pixels).save(pictures[-1])
  flags = [f"--workdir={work}", "--checkpoint=10"]
  data_dir, result = f"--data_dir={data}", f"--json={tmp_path / 'result.json'}"
  for arguments in (
    ("evaluate", *flags, data_dir, result),
    ("predict", *flags, f"--json={tmp_path / 'predicted.json'}", *pictures),
    ("weights", "export", *flags, f"--output={tmp_path / 'net.safetensors'}"),
    ("report", *flags, data_dir, f"--output={tmp_path / 'page.html'}"),
  ):
    done = tiny_runs.command(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
  evaluated = json.loads((tmp_path / "result.json").read_text())
  assert evaluated["step"] == 10
  predicted = json.loads((tmp_path / "predicted.json").read_text())
  names, labels = ("ash", "elm", "oak"), np.arange(40, 50) % 3
  found = [
    {entry["name"]: entry["probability"] for entry in picture["classes"]}
    for picture in predicted
  ]
  own = [row[names[label]] for row, label in zip(found, labels, strict=True)]
  assert evaluated["loss"] == pytest.approx(-np.log(own).mean(), abs=1e-6)
  net = alexnet_jax.load(work)
  for row, probabilities in zip(found, net.predict(pictures), strict=True):
    expected = dict(zip(names, probabilities, strict=True))
    assert row == pytest.approx(expected, abs=1e-6)
  grouped = load_file(tmp_path / "net.safetensors")
  kernel = arrays(tmp_path, "work")["net"]["towers"]["conv1"]["kernel"]
  both = np.concatenate(kernel, axis=-1)  # f32[11,11,3,maps], HWIO
  np.testing.assert_array_equal(
    grouped["conv1.weight"], both.transpose(3, 2, 0, 1)
  )
  text = (tmp_path / "page.html").read_text()
  assert (
    "10 checkpoint, step 10" in text and "Not searched: Dataset tiny" in text
  )
  assert text.count("<img") >= 2 + 8  # the towers' kernels, eight predictions


@pytest.mark.slow
def test_the_evaluate_command_writes_what_it_prints(place, whole):
  out = place / "evaluation.json"
  flags = [f"--workdir={place / 'whole'}", f"--json={out}"]
  result = tiny_runs.command(place, "evaluate", *flags)
  assert result.returncode == 0, result.stderr
  found = json.loads(out.read_text())
  assert f"{found['top1_error']:.2%}" in result.stdout


def test_an_interrupt_in_a_notebook_saves_and_returns(place, whole, capsys):
  """Ctrl-C during a run that a program calls; the next call goes on."""

  def interrupt():
    signal.raise_signal(signal.SIGINT)
    return False

  options = {"total_steps": 10, "checkpoint_every_steps": 3}
  handler = signal.getsignal(signal.SIGINT)
  assert not train(place, "notebook", interrupt, **options)
  assert signal.getsignal(signal.SIGINT) is handler
  assert "stopped after step 3; it is saved" in capsys.readouterr().out
  ended = "the last attempt ended at step 3: stopped by SIGINT"
  assert status.last_attempt(place / "notebook") == ended
  assert train(place, "notebook", **options)
  assert ended in capsys.readouterr().out
  found = status.read(place / "notebook")
  assert (found.state, found.step) == ("finished", 10)
  ours, expected = (arrays(place, name) for name in ("notebook", "whole"))
  jax.tree.map(np.testing.assert_array_equal, ours, expected)
