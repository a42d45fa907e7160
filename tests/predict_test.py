"""The command `predict` on a trained run, as a user types it."""

import json
import math
import types

import numpy as np
import pytest
import tiny_runs
from PIL import Image
from sample_data import Tiny

import alexnet_jax
from alexnet_jax import predict as command
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import run_evaluation

LABELS = [number % 3 for number in range(40, 50)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A run, the ten validation images as files, and one that is damaged."""
  with tiny_runs.place(tmp_path_factory.mktemp("predict")) as folder:
    assert tiny_runs.train(folder, "run", total_steps=5)
    for number in range(40, 50):
      file = folder / "pictures" / "deep" / f"{number}.png"
      file.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(Tiny.pictures[number]).save(file)
    (folder / "pictures" / "bad.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (folder / "pictures" / "notes.txt").write_text("not a picture")
    yield folder


def predict(place, *arguments, folder="pictures"):
  return tiny_runs.command(
    place,
    "predict",
    f"--workdir={place / 'run'}",
    *arguments,
    str(place / folder),
  )


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, 10])
def test_the_probabilities_are_those_of_evaluate(place, views):
  """The loss of `evaluate` is the mean of their logarithms at the labels."""
  file = place / f"{views}.json"
  result = predict(place, f"--views={views}", "--top=3", f"--json={file}")
  assert result.returncode == 1
  assert "bad.jpg cannot be read: " in result.stderr
  assert "notes.txt" in result.stderr
  assert "1 of 11 pictures cannot be read" in result.stderr
  bad, *good = json.loads(file.read_text())
  assert bad.keys() == {"image", "error"} and bad["error"]
  assert bad["image"] == str(place / "pictures" / "bad.jpg")
  wanted = run_evaluation.evaluate_runs(
    [str(place / "run")], views=views, split="validation"
  ).result
  losses, wrong = [], 0
  for one, label in zip(good, LABELS, strict=True):
    probabilities = {c["index"]: c["probability"] for c in one["classes"]}
    names = {c["index"]: c["name"] for c in one["classes"]}
    assert names == {0: "ash", 1: "elm", 2: "oak"}
    assert sum(probabilities.values()) == pytest.approx(1)
    losses.append(-math.log(probabilities[label]))
    wrong += one["classes"][0]["index"] != label
  assert np.mean(losses) == pytest.approx(wanted["loss"], rel=1e-6)
  assert wrong / 10 == pytest.approx(wanted["top1_error"])
  best = good[0]["classes"][0]
  assert f"{best['probability']:.2%}" in result.stdout
  assert best["name"] in result.stdout
  assert "checkpoint 5; views" in result.stdout


@pytest.mark.slow
def test_features_are_those_of_the_library(place):
  file = place / "features.npz"
  result = predict(
    place, "--features=fc7", f"--output={file}", folder="pictures/deep"
  )
  assert result.returncode == 0, result.stderr
  assert "fc7 of 10 pictures" in result.stdout
  with np.load(file, allow_pickle=False) as stored:
    names, found = stored["names"], stored["activations"]
  assert names[3] == str(place / "pictures" / "deep" / "43.png")
  net = alexnet_jax.load(place / "run")
  pixels = list(Tiny.pictures[40:50])
  np.testing.assert_allclose(
    found, net.activations(pixels, "fc7"), rtol=1e-6, atol=1e-7
  )
  # The scores are what fc8 makes of these units: a softmax by hand.
  kernel = np.asarray(net.model.towers.fc8.kernel[...], float)
  scores = found.astype(float) @ kernel.reshape(found.shape[1], 3)
  powers = np.exp(scores + np.asarray(net.model.fc8_bias[...], float))
  np.testing.assert_allclose(
    net.predict(pixels), powers / powers.sum(1, keepdims=True), atol=1e-6
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "arguments, folder, words",
  [
    (["--features=fc9", "--output=x.npz"], "pictures", "nearest is 'fc"),
    (["--checkpoint=77", "missing.png"], "pictures", "missing.png does not"),
    ([], "tiny", "there are no pictures in"),
  ],
)
def test_a_mistake_is_one_sentence(place, arguments, folder, words):
  result = predict(place, *arguments, folder=folder)
  assert result.returncode == 2
  assert words in result.stderr and "Traceback" not in result.stderr
  assert not result.stdout


FLAGS = types.SimpleNamespace(
  workdir="run",
  weights="",
  config=None,
  checkpoint="newest",
  views=1,
  top=5,
  features="",
  output="",
  json="",
)


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"workdir": ""}, "either --workdir=DIR"),
    ({"weights": "x"}, "either --workdir=DIR"),
    ({"workdir": "", "weights": "no.pth"}, r"--weights=no\.pth: no such file"),
    (
      {"workdir": "", "weights": __file__, "checkpoint": "best"},
      "a file has no checkpoints",
    ),
    ({"config": "x"}, "--config is for --weights"),
    ({"views": 3}, r"--views must be 1 .* or 10 .*\(got 3\)"),
    ({"top": 0}, r"--top must be at least 1 \(got 0\)"),
    ({"features": "fc7"}, "--features=LAYER needs --output"),
    ({"output": "x.npz"}, "--output needs --features"),
    ({"features": "fc7", "output": "x", "json": "x"}, "the same file, x"),
  ],
)
def test_flags_that_do_not_fit_are_an_error(changes, words):
  command._check_flags(FLAGS, ["a.jpg"])
  flag = types.SimpleNamespace(**vars(FLAGS) | changes)
  with pytest.raises(UserError, match=words):
    command._check_flags(flag, ["a.jpg"])
  with pytest.raises(UserError, match="give the pictures"):
    command._check_flags(FLAGS, [])
