"""What the explorer shows of a picture, without its page.

The answers of cut networks are compared with float64 NumPy in
tests/training/classifier_test.py; the page in tests/explore_test.py.
"""

import dataclasses
import re
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from sample_data import png_header

from alexnet_jax import explore
from alexnet_jax.analysis import explorer_panels as panels
from alexnet_jax.analysis.explorer import NO_CUT, Explorer
from alexnet_jax.analysis.kernel_responses import kernel_responses
from alexnet_jax.analysis.neighbours import NeighbourSearch
from alexnet_jax.analysis.traces import Trace, trace
from alexnet_jax.data.augment import ImageStatistics
from alexnet_jax.model.alexnet import abstract_net
from alexnet_jax.model.network import Network
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.classifier import Classifier

SIZE, CROP = 72, 64
NAMES = ("<b>ash</b>", "elm", "oak", "'\"&amp;${1}")
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (9, 6, 6, 3), np.uint8)
IMAGES = IMAGES.repeat(SIZE // 6, 1).repeat(SIZE // 6, 2)


class Images:
  """Stands for the training images of a run."""

  split = "train"

  def __len__(self):
    return len(IMAGES)

  def read(self, indices):
    return IMAGES[indices], np.asarray(indices) % len(NAMES)


@pytest.fixture(scope="module")
def net():
  def leaf(path, like):
    if path[-2].name != "kernel":
      return jax.numpy.zeros(like.shape)
    scale = np.sqrt(2 / np.prod(like.shape[1:-1]))
    if path[1].name == "conv1":
      scale /= 60  # of levels
    kernel = scale * RANDOM.normal(size=like.shape)
    return jax.numpy.asarray(kernel, jax.numpy.float32)

  network = Network(num_classes=len(NAMES), width=1 / 24, crop_size=CROP)
  model = jax.tree.map_with_path(leaf, abstract_net(network))
  mean = np.full((SIZE, SIZE, 3), 120, np.float32)
  statistics = ImageStatistics(mean, np.zeros((3, 3), np.float32))
  return Classifier(
    model, statistics, image_size=SIZE, classes=NAMES, source="<i>run</i>"
  )


def test_the_answers_of_a_trace_are_the_predictions(net):
  """Also of each tower: fc8 without the weights of the other one."""
  found = trace(net, IMAGES[0])
  (wanted,) = net.predict(IMAGES[0])
  assert list(found.answers) == ["tower 0 + tower 1"]
  np.testing.assert_allclose(
    found.answers["tower 0 + tower 1"], wanted, atol=1e-5
  )
  total = found.scores.sum(axis=0) + found.bias
  powers = np.exp(total - total.max())
  np.testing.assert_allclose(powers / powers.sum(), wanted, atol=1e-5)
  apart = trace(net, IMAGES[0], summed=False)
  for tower in (0, 1):
    kept = np.eye(2, dtype=np.float32)[tower].reshape(2, 1, 1)
    alone = jax.tree.map_with_path(
      lambda path, x, kept=kept: x * kept if path[1].name == "fc8" else x,
      net.model,
    )
    other = Classifier(alone, net._statistics, image_size=SIZE, classes=NAMES)
    other._make_predict = net._make_predict  # the compiled program
    (wanted,) = other.predict(IMAGES[0])
    np.testing.assert_allclose(
      apart.answers[f"tower {tower}"], wanted, atol=1e-5
    )
  silent = trace(net, IMAGES[0], silent=(1,), summed=False)
  assert list(silent.answers) == ["tower 0"]


def test_a_kernel_responds_to_its_own_pattern_in_the_picture(net):
  """Each kernel's pattern is drawn once, on a grey picture, and is found."""
  shape = net.model.towers.conv1.kernel[...].shape  # [2,11,11,3,2]
  patterns = RANDOM.integers(0, 256, (4, 11, 11, 3), np.uint8)
  picture = np.full((SIZE, SIZE, 3), 120, np.uint8)
  for pattern, (y, x) in zip(
    patterns, [(4, 4), (4, 24), (24, 4), (28, 40)], strict=True
  ):
    picture[y : y + 11, x : x + 11] = pattern
  kernels = (patterns.astype(np.float32) - 120) / 1000
  kernels = np.moveaxis(kernels.reshape(2, 2, *shape[1:4]), 1, -1)
  model = jax.tree.map_with_path(
    lambda path, x: (
      jax.numpy.asarray(kernels)
      if [k.name for k in path[1:3]] == ["conv1", "kernel"]
      else x
    ),
    net.model,
  )
  own = Classifier(model, net._statistics, image_size=SIZE, classes=NAMES)
  found = kernel_responses(own, picture)
  np.testing.assert_array_equal(found.patches.reshape(4, 11, 11, 3), patterns)
  energy = np.square(patterns.astype(float) - 120).sum((1, 2, 3)) / 1000
  np.testing.assert_allclose(found.strengths.ravel(), energy, rtol=1e-5)


def test_the_nearest_images_are_those_of_an_exhaustive_search(net):
  search = NeighbourSearch(net, Images(), limit=0)
  features = net.activations(IMAGES, "fc7")
  shares = []
  found = search.nearest(features[3], shares.append)
  distances = np.linalg.norm(
    features.astype(np.float64) - features[3].astype(np.float64), axis=1
  )
  order = np.argsort(distances, kind="stable")[:6]
  assert order[0] == 3
  np.testing.assert_array_equal(found.images, IMAGES[order])
  np.testing.assert_array_equal(found.labels, order % len(NAMES))
  np.testing.assert_allclose(found.distances, distances[order], atol=1e-4)
  assert shares[-1] == 1 and search.ready
  few = NeighbourSearch(net, Images(), limit=3)
  assert (few.searched, few.total) == (3, 9)
  labels = few.nearest(features[8], shares.append).labels
  assert sorted(labels) == [0, 0, 0]  # of the images 0, 4 and 8
  text = panels.neighbours(few.nearest(features[8], shares.append), NAMES, few)
  assert "3 of 9 training images" in text and "&lt;b&gt;ash" in text


def test_a_picture_fills_every_panel_and_names_are_text(net, tmp_path):
  file = tmp_path / "picture.png"
  Image.fromarray(IMAGES[0]).save(file)
  shown = Explorer(net, "no dataset", NeighbourSearch(net, Images(), 0))
  shown.find_nearest(str(file), lambda share: None)
  for cut, tower in ([], NO_CUT), (["conv3", "fc8"], NO_CUT), ([], "tower 1"):
    found = shown.look(str(file), cut, tower)
    assert len(found) == 5 and all(len(panel) > 300 for panel in found)
    for panel in found:
      assert "<b>ash" not in panel and "onerror" not in panel
    classes = re.sub("<[^>]+>", " ", found[0])
    whole = net.predict(IMAGES[0])[0]
    assert f"{whole.max():.1%}" in classes
    if tower != NO_CUT:
      (after,) = net.cut(towers=[1]).predict(IMAGES[0])
      assert f"{after.max():.1%}" in classes
    answers = {
      (): ["whole network"],
      ("conv3", "fc8"): [
        "without conv3, fc8, tower 0",
        "without conv3, fc8, tower 1",
      ],
    }[tuple(cut)]
    for name in answers if tower == NO_CUT else ["without tower 1"]:
      assert name in classes


def test_what_is_no_picture_gets_a_sentence(net, tmp_path):
  shown = Explorer(net, "no dataset", "no training images")
  contents = {
    "bomb.png": png_header(60_000, 60_000),
    "cut.jpg": b"\xff\xd8\xff and no more",
    "<img src=x onerror=alert(1)>.png": b"<script>alert(1)</script>",
    "empty.png": b"",
  }
  for name, content in contents.items():
    file = tmp_path / name
    file.write_bytes(content)
    first, *others = shown.look(str(file), [], NO_CUT)
    assert "This picture cannot be read: " in first and others == [""] * 4
    assert "<script" not in first and str(tmp_path) not in first
    assert "cannot be read" in shown.find_nearest(str(file), print)
  assert "Drop a picture" in shown.look(None, [], NO_CUT)[0]


def test_the_exchanges_have_the_paper_s_sizes():
  """Section 3.5: 13 x 13 x 128 and 6 x 6 x 128 numbers, 2048 units."""
  network = Network()
  sizes = {"conv2": (13, 13, 128), "conv5": (6, 6, 128), "fc6": (2048,)}
  maps = {
    name: [np.zeros(size, np.float32)] * 2 for name, size in sizes.items()
  }
  zeros = np.zeros((2, 1000), np.float32)
  uncut, cut = np.eye(1000)[[7, 8]]
  found = Trace(maps, zeros, zeros[0], {"": uncut})
  names = [f"class {i}" for i in range(1000)]
  without = dict.fromkeys(("conv3", "fc6", "fc7"), cut)
  text = panels.exchanges(network, names, found, without, uncut)
  text = re.sub("<[^>]+>", " ", text)
  for size in (
    "128 maps of 13×13 of conv2, 86.5 kB",
    "128 maps of 6×6 of conv5, 18.4 kB",
    "2,048 units of fc6, 8.2 kB",
    "its part of 1,000 class scores",
    "class 8, 100.0%, instead of class 7 (with it 100.0%)",
  ):
    assert size in text
  half = dataclasses.replace(network, exchange_dtype="bfloat16")
  assert "43.3 kB" in panels.exchanges(half, names, found, without, uncut)
  alone = dataclasses.replace(network, towers=1, exchanges=())
  assert "one tower" in panels.exchanges(alone, names, found, {}, uncut)


def test_all_maps_have_one_range_of_colours():
  """Of both towers: 0 is the darkest, the largest value the brightest."""
  towers = [np.zeros((2, 2, 4), np.float32), np.zeros((2, 2, 4), np.float32)]
  towers[1][0, 0, 3] = 5
  first, second = panels._grids(towers)
  dark, bright = (68, 1, 84), (253, 231, 37)  # viridis
  lines = (128, 128, 128)
  assert {tuple(c) for c in first.reshape(-1, 3)} == {dark, lines}
  assert {tuple(c) for c in second.reshape(-1, 3)} == {dark, bright, lines}


def test_without_gradio_the_command_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "gradio", None)
  monkeypatch.delitem(
    sys.modules, "alexnet_jax.analysis.explorer_page", raising=False
  )
  with pytest.raises(UserError, match=r"pip install -r requirements-explore"):
    explore.explore("runs/none")
