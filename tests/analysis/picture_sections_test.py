"""Sections with pictures: mistakes, and kernels over time."""

import base64
import io
import re

import jax
import numpy as np
import pytest
from overview_test import make_run
from PIL import Image

from alexnet_jax.analysis import picture_sections as sections
from alexnet_jax.analysis import run_facts
from alexnet_jax.analysis.figures import Specialisation
from alexnet_jax.data.sources import Source
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.kernel_history import KernelHistory
from alexnet_jax.training.predictions import Predictions
from alexnet_jax.training.run_data import RunData

COLOURS = {0: (200, 30, 30), 1: (30, 160, 30), 2: (30, 30, 200)}
CLASSES = ("<script>red</script>", "green", "blue")


def encoded(label):
  buffer = io.BytesIO()
  Image.new("RGB", (32, 32), COLOURS[label]).save(buffer, "PNG")
  return buffer.getvalue()


def pictures(html):
  """The mean colours of the pictures, f64[N,3]."""
  data = re.findall(r"base64,([^\"]*)", html)
  images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in data]
  return [np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images]


def test_the_surest_mistakes_come_first_with_their_pictures(monkeypatch):
  label = np.array([0, 1, 2, 0, 1])
  predicted = np.array([0, 2, 0, 1, 0])
  probability = np.array([0.99, 0.5, 0.9, 0.75, 0.8])
  none = np.zeros(5)
  found = Predictions(np.arange(5), label, predicted, probability, none, none)
  records = [(encoded(i), i) for i in label]
  source = Source(records, CLASSES, "tiny", "tiny validation")
  data = RunData("tiny", "tiny", CLASSES, None)
  run = make_run("x", [], step=1, image_size=32)
  monkeypatch.setattr(sections.stored_runs, "open_split", lambda *_: source)
  html = sections._confident_mistakes(run, data, "", found, CLASSES)
  shown = [
    min(COLOURS, key=lambda i: np.abs(COLOURS[i] - mean).sum())
    for mean in pictures(html)
  ]
  assert shown == [2, 1, 0, 1]  # the labels, by falling probability
  assert "The 4 of 4 wrong predictions" in html
  assert "<script>" not in html and "&lt;script&gt;red" in html
  assert re.findall(r"\d+\.\d%", html) == ["90.0%", "80.0%", "75.0%", "50.0%"]


def test_kernels_over_time_are_shown_from_the_first_epoch_to_the_last(tmp_path):
  """Kernels are red at the start, green in between, blue in the checkpoint."""
  network = Network(width=1 / 24, crop_size=64, num_classes=3)
  net = AlexNet(network, jax.random.key(0))
  shape = net.towers.conv1.kernel[...].shape
  history = KernelHistory(str(tmp_path), 0)
  for epoch, channel in ((0, 0), (1, 1), (2, 1)):
    kernels = np.zeros(shape, np.float32)
    kernels[:, :, :, channel] = 1 + epoch
    history.add(10 * epoch, epoch, kernels)
  now = np.zeros((2, shape[-1], 11, 11, 3), np.float32)
  now[..., 2] = 1
  lines = [{"split": "train", "step": 30, "epoch": 3.0}]
  run = make_run(tmp_path, lines, step=30)
  html = sections._kernels_over_time(run, now)
  found = [int(mean.argmax()) for mean in pictures(html)]
  assert found == [0, 1, 1, 2] * 2
  assert re.findall(r"<small>(.*?)</small>", html) == ["0", "1", "2", "3"] * 2
  # The checkpoint of epoch 1 does not show what came later.
  html = sections._kernels_over_time(run._replace(step=10), now)
  assert [int(mean.argmax()) for mean in pictures(html)] == [0, 2] * 2


def test_an_older_run_has_no_history(tmp_path):
  now = np.zeros((2, 2, 11, 11, 3), np.float32)
  html = sections._kernels_over_time(make_run(tmp_path, [], step=30), now)
  assert "kept no kernels" in html


@pytest.mark.parametrize(
  "section, arguments",
  [
    (sections.kernels, ()),
    (sections.figure4, (0, "")),
    (sections.mistakes, ("",)),
  ],
)
def test_a_run_without_a_checkpoint_has_a_reason_instead(section, arguments):
  with pytest.raises(UserError, match="no checkpoint"):
    section(make_run("x", []), *arguments)


def test_the_comparison_of_towers_says_what_was_measured():
  text = sections.specialisation_text(
    Specialisation((0.5, 0.4), 0, 0.2, 12, 0.15)
  )
  assert text.startswith("No difference between the towers found: 0.500 and")
  assert "p = 0.200" in text
  assert "12 kernels" in text and "0.150 is found in 80.0%" in text
  text = sections.specialisation_text(
    Specialisation((0.2, 0.6), 1, 0.001, 12, 0.1)
  )
  assert text.startswith("Tower 1 is more coloured")


def test_only_recorded_predictions_that_fit_are_used(tmp_path):
  run = make_run(tmp_path, [], step=30)
  assert run_facts.recorded_predictions(run) is None
