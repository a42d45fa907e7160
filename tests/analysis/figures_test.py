"""Figures 3 and 4 against constructed kernels and plain sorting."""

import jax
import numpy as np
import pytest
from scipy import stats

from alexnet_jax.analysis import figures
from alexnet_jax.data.augment import ImageStatistics
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet, param_specs
from alexnet_jax.model.network import Network
from alexnet_jax.training import step


def test_colour_scores_of_known_kernels():
  random = np.random.default_rng(0)
  grey = np.repeat(random.normal(size=(1, 11, 11, 1)), 3, axis=-1)
  opponent = random.normal(size=(1, 11, 11, 1)) * np.array([1.0, -1.0, 0.0])
  noise = random.normal(size=(1, 99, 99, 3))
  assert figures.colour_scores(grey) == pytest.approx(0)
  assert figures.colour_scores(opponent) == pytest.approx(1)
  assert figures.colour_scores(noise) == pytest.approx(2 / 3, abs=0.01)
  one_channel = np.zeros((1, 11, 11, 3))
  one_channel[..., 0] = 5.0
  assert figures.colour_scores(one_channel) == pytest.approx(2 / 3)


def test_what_training_added_is_found_under_the_noise():
  """A planted grey kernel and a planted opponent one, both half noise."""
  random = np.random.default_rng(3)
  pattern = random.normal(size=(11, 11, 1))
  planted = np.stack([pattern * np.ones(3), pattern * [1.0, -1.0, 0.0]])
  noise = random.normal(size=planted.shape)
  noise *= np.sqrt((planted**2).sum((1, 2, 3)) / (noise**2).sum((1, 2, 3)))[
    :, None, None, None
  ]
  kernels, initial = planted + noise, noise / 0.9
  before = figures.colour_scores(kernels)
  assert before[0] > 0.25  # a grey kernel, by the noise
  rest, share = figures.added_by_training(kernels, initial)
  after = figures.colour_scores(rest)
  # The planted kernel is not exactly orthogonal to 363 random numbers.
  assert after == pytest.approx([0, 1], abs=0.02)
  assert share == pytest.approx([0.5, 0.5], abs=0.1)


def test_specialisation_is_seen_where_it_is_and_not_elsewhere():
  random = np.random.default_rng(1)
  alike = random.uniform(0.3, 0.7, (2, 48))
  apart = np.stack([random.uniform(0, 0.4, 48), random.uniform(0.3, 0.9, 48)])
  assert not figures.specialisation(alike).significant
  seen = figures.specialisation(apart)
  assert seen.significant and seen.tower == 1
  assert figures.specialisation(apart[::-1]).tower == 0
  assert seen.means == pytest.approx(apart.mean(1))


@pytest.mark.parametrize("count", [5, 12, 48])
def test_detectable_difference_is_found_in_four_of_five_cases(count):
  """Of 20,000 pairs of towers whose means differ by just so much."""
  rng = np.random.default_rng(0)
  towers = rng.normal(scale=0.1, size=(20_000, 2, count))
  example = towers[0] / towers[0].std(axis=1, ddof=1, keepdims=True) / 10
  towers[:, 1] += figures.detectable_difference(example)
  p_values = stats.ttest_ind(towers[:, 0], towers[:, 1], axis=1).pvalue
  found = np.mean(p_values < figures.SIGNIFICANCE)
  assert found == pytest.approx(0.8, abs=0.015)


def test_specialisation_by_hand():
  # Of the six deals of 0, 0, 1, 1 to two towers two are as far apart.
  scores = np.array([[0.0, 0.0], [1.0, 1.0]])
  found = figures.specialisation(scores)
  assert found.p_value == pytest.approx(1 / 3, abs=0.02)


def test_the_grid_shows_each_kernel_in_its_place():
  kernels = np.random.default_rng(2).normal(size=(5, 3, 3, 3))
  grid = figures.kernel_grid(kernels, columns=2, scale=4)
  assert grid.shape == (3 * 14 + 2, 2 * 14 + 2, 3)
  fourth = grid[14 + 2 : 14 + 14 : 4, 14 + 2 : 14 + 14 : 4].astype(float)
  low, high = kernels[3].min(), kernels[3].max()
  expected = 255 * (kernels[3] - low) / (high - low)
  np.testing.assert_allclose(fourth, expected, atol=0.5)
  assert (grid[-13:, 15:] == 255).all()  # there is no sixth
  assert figures.kernel_grid(kernels, scale=4).shape == (16, 5 * 14 + 2, 3)


def test_nearest_is_the_sort_of_all_distances():
  random = np.random.default_rng(3)
  vectors = random.normal(size=(101, 7)).astype(np.float32)
  vectors[60] = vectors[20]  # a tie
  queries = random.normal(size=(4, 7)).astype(np.float32)
  queries[0] = vectors[20]
  numbers = np.arange(101)
  expected = np.linalg.norm(
    vectors[np.newaxis].astype(np.float64) - queries[:, np.newaxis], axis=-1
  )
  order = np.argsort(expected, axis=1, kind="stable")[:, :6]
  shuffled = random.permutation(101)
  for size in (1, 10, 101):
    parts = np.array_split(shuffled, -(-101 // size))
    found, distances = figures.nearest(
      queries, ((vectors[part], numbers[part]) for part in parts)
    )
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(
      distances, np.take_along_axis(expected, order, axis=1), rtol=1e-5
    )
  assert found[0, :2].tolist() == [20, 60]


def test_most_probable_labels():
  probabilities = np.array([[0.1, 0.6, 0.05, 0.25], [0.4, 0.1, 0.1, 0.4]])
  labels, found = figures.most_probable(np.log(probabilities), 2)
  assert labels.tolist() == [[1, 3], [0, 3]]
  np.testing.assert_allclose(found, [[0.6, 0.25], [0.4, 0.4]])


def test_features_are_fc7_on_every_mesh():
  """fc7 by hand from fc6's units; what a mesh of one says, two say."""
  net = AlexNet(Network(num_classes=5, width=1 / 16), jax.random.key(0))
  random = np.random.default_rng(4)
  images = random.integers(0, 256, (2, 256, 256, 3), np.uint8)
  mean = np.full((256, 256, 3), 100, np.float32)
  found = {}
  for model in (1, 2):
    mesh = sharding.make_mesh(1, model)
    statistics = sharding.place(
      ImageStatistics(mean, np.zeros((3, 3), np.float32)),
      sharding.REPLICATED,
      mesh,
    )
    placed = sharding.place(net, param_specs(net), mesh)
    features = figures.make_features(net, mesh)
    batch = jax.device_put(images, sharding.batch_sharding(mesh))
    found[model] = np.asarray(features(placed, batch, statistics))
    assert found[model].shape == (2, 256)
  np.testing.assert_allclose(found[2], found[1], rtol=1e-5, atol=1e-6)
  # The scores are what fc8 makes of these very units.
  kernel = np.asarray(net.towers.fc8.kernel[...]).reshape(256, 5)
  predict = step.make_predict(net.towers.network, 1, mesh)
  said = np.asarray(predict(placed, batch, statistics))
  scores = found[2].astype(np.float64) @ kernel
  scores -= np.log(np.exp(scores).sum(1, keepdims=True))
  np.testing.assert_allclose(said, scores, atol=1e-5)
