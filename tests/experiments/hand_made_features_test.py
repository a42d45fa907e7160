"""Descriptors and machines against sums and derivatives computed otherwise."""

import json

import numpy as np
import pytest
import tiny_runs

from alexnet_jax.analysis.run_images import RunImages
from alexnet_jax.data.sources import open_split
from alexnet_jax.runtime.command import UserError
from experiments import hand_made_features

pytest.importorskip("sklearn", reason="scikit-learn is absent")
from experiments.common import descriptors, machines


def drawn(split="train[:40]"):
  return RunImages(open_split("patterns/10", split), 64, "crop")


@pytest.fixture(scope="module")
def pictures():
  return drawn().read(range(40))[0]


def test_sift_of_a_moved_image_is_moved(pictures):
  """Inside, a move by the spacing of the grid moves the descriptors by one."""
  spacing, size = 8, 24
  image, side = pictures[0], pictures.shape[1]
  moved = np.roll(image, -spacing, axis=1)
  grid = len(range(size // 2, side - size // 2 + 1, spacing))
  here, there = (
    descriptors.dense_sift(x, spacing, (size,)).reshape(grid, grid, 130)
    for x in (image, moved)
  )
  inside = slice(1, grid - 2)
  np.testing.assert_allclose(
    there[:, inside, :128], here[:, 2 : grid - 1, :128], atol=0.05
  )
  np.testing.assert_allclose((here[..., :128] ** 2).sum(-1), 1, rtol=1e-4)
  # The places of the centres: x varies along a row.
  np.testing.assert_allclose(here[0, :2, 128] * side, [-20, -12], atol=1e-5)
  np.testing.assert_allclose(here[:2, 0, 129] * side, [-20, -12], atol=1e-5)


def test_fisher_vectors_are_derivatives_of_the_likelihood(pictures):
  """By finite differences of scikit-learn's own likelihood."""
  fisher = descriptors.FisherVectors(components=3, dimensions=4)
  fisher.fit(pictures[:8], seed=0)
  mixture = fisher._mixture
  for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
    setattr(mixture, name, getattr(mixture, name).astype(np.float64))
  found = fisher._reduce(descriptors.dense_sift(pictures[9]).astype(np.float64))
  weights = mixture.weights_[:, np.newaxis]
  deviations = np.sqrt(mixture.covariances_)

  def slope(values, change):
    """The derivatives with respect to each entry of an array, in place."""
    slopes = np.zeros_like(values)
    for place in np.ndindex(values.shape):
      kept, ends = values[place], []
      for step in (1e-5, -1e-5):
        values[place] = kept + step
        change()
        ends.append(mixture.score(found))
      values[place] = kept
      change()
      slopes[place] = (ends[0] - ends[1]) / 2e-5
    return slopes

  of_means = slope(mixture.means_, lambda: None) * deviations / np.sqrt(weights)

  def follow():
    mixture.precisions_cholesky_ = 1 / deviations

  of_deviations = slope(deviations, follow) * deviations / np.sqrt(2 * weights)
  expected = np.concatenate([of_means.ravel(), of_deviations.ravel()])
  gradient = fisher._gradient(found)
  np.testing.assert_allclose(gradient, expected, atol=1e-6)
  encoded = fisher.encode(pictures[9:10])[0]
  rooted = np.sign(gradient) * np.sqrt(np.abs(gradient))
  np.testing.assert_allclose(
    encoded, rooted / np.linalg.norm(rooted), atol=1e-5
  )


def test_visual_words_count_the_nearest(pictures):
  words = descriptors.VisualWords(words=12)
  words.fit(pictures[:8], seed=0)
  (counts,) = words.encode(pictures[9:10])
  found = descriptors.dense_sift(pictures[9])[:, np.newaxis, :128]
  centres = words._clusters.cluster_centers_
  nearest = np.linalg.norm(found - centres, axis=-1).argmin(axis=1)
  expected = [np.mean(nearest == word) for word in range(12)]
  np.testing.assert_allclose(counts, expected, atol=1e-6)


def test_patches_are_white_and_do_not_see_brightness(pictures):
  patches = descriptors.Patches(clusters=10)
  patches.fit(pictures, seed=0)
  sample = np.concatenate([patches._patches(x) for x in pictures])
  white = (sample - patches._mean) @ patches._whiten
  variances = np.linalg.eigvalsh(np.cov(white, rowvar=False))
  assert variances.max() < 1.001 and variances[60] > 0.05
  dark = pictures[:2] // 2
  np.testing.assert_allclose(
    patches.encode(dark), patches.encode(dark + 60), rtol=1e-3, atol=1e-2
  )
  # Only what is in a quarter counts there: patches reach five pixels further.
  left = dark[:1].copy()
  left[:, :, 48:] = 0
  whole, part = (patches.encode(x).reshape(2, 2, 10) for x in (dark[:1], left))
  np.testing.assert_array_equal(whole[:, 0], part[:, 0])
  assert (whole[:, 1] != part[:, 1]).any()


def test_the_linear_kernel_is_of_scaled_vectors():
  rng = np.random.default_rng(0)
  training = rng.normal(3, rng.uniform(1, 50, size=6), size=(40, 6))
  other = rng.normal(3, 20, size=(5, 6))
  mean, deviation = training.mean(axis=0), training.std(axis=0)
  kernel = machines.linear(training)
  expected = [
    [
      np.dot((x - mean) / deviation, (y - mean) / deviation) / 6
      for y in training
    ]
    for x in other
  ]
  np.testing.assert_allclose(kernel(other), expected, rtol=1e-9)
  assert np.diag(kernel(training)).mean() == pytest.approx(1)


@pytest.fixture
def small_samples(monkeypatch):
  """What descriptors are fitted to: enough for drawn images."""
  monkeypatch.setattr(descriptors, "FITTED", 4_000)
  monkeypatch.setattr(machines, "FIT_IMAGES", 50)


@pytest.fixture
def splits():
  return {
    "train": drawn("train[:150]"),
    "validation": drawn("validation[:60]"),
    "test": drawn("validation[60:120]"),
  }


@pytest.mark.slow
@pytest.mark.parametrize("name", machines.METHODS)
def test_a_method_learns_classes(name, splits, small_samples):
  numbers, wrong = machines.measure(machines.METHODS[name], splits, seed=0)
  assert numbers["test_top1_error"] == wrong.mean() < 0.5
  assert numbers["test_top5_error"] <= wrong.mean()


@pytest.mark.slow
def test_nothing_is_learnt_from_mixed_labels(splits, small_samples):
  """So no label of a test image is used."""

  class Mixed(RunImages):
    def read(self, indices):
      images, labels = super().read(indices)
      return images, np.random.default_rng(len(labels)).permutation(labels)

  splits["train"] = Mixed(open_split("patterns/10", "train[:150]"), 64, "crop")
  method = machines.METHODS["visual words, chi-squared kernel"]
  _, wrong = machines.measure(method, splits, seed=0)
  assert wrong.mean() > 0.7


@pytest.mark.slow
def test_the_command_compares_with_runs(tmp_path, small_samples, monkeypatch):
  with tiny_runs.place(tmp_path) as place:
    for seed in (3, 5):
      changes = {"splits.test": "validation", "total_steps": 1, "seed": seed}
      tiny_runs.train(place, f"run{seed}", **changes)
    workdirs = [str(place / f"run{seed}") for seed in (3, 5)]
    saved = []
    done = hand_made_features.compare(
      workdirs, save=lambda result: saved.append(json.dumps(result))
    )
    # What was saved is continued: of the last method, one seed is measured.
    measured = []
    monkeypatch.setattr(
      machines,
      "measure",
      lambda method, splits, seed: measured.append((method, seed)) or last,
    )
    *_, (name, method) = done["methods"].items()
    *_, row = method["seeds"]
    last = dict(row), np.ones(10, bool)
    again = hand_made_features.compare(workdirs, json.loads(saved[-3]))
    assert measured == [(machines.METHODS[name], 5)]
    assert len(again["methods"][name]["seeds"]) == 2
    with pytest.raises(UserError, match="both have the seed 3"):
      hand_made_features.compare([workdirs[0], workdirs[0]])
  assert set(done["methods"]) == set(machines.METHODS)

  network = [row["test_top1_error"] for row in done["network"]]
  for method in done["methods"].values():
    errors = [row["test_top1_error"] for row in method["seeds"]]
    mean = 100 * np.mean(np.subtract(errors, network))
    assert method["minus_network"]["mean"] == pytest.approx(mean)
    assert [row["seed"] for row in method["seeds"]] == [3, 5]
    shown = ", ".join(f"{error:.1%}" for error in errors)
    assert shown in (table := hand_made_features.table(done))
    assert f"| {mean:+.1f} (" in table
  assert json.loads(json.dumps(done))["images"]["test"] == 10


def test_the_method_that_validates_best_is_compared_with_the_network():
  def rows(validation, *errors):
    return {
      "seeds": [
        {
          "seed": seed,
          "test_top1_error": error,
          "validation_top1_errors": {"1.0": validation, "10.0": 0.9},
        }
        for seed, error in enumerate(errors)
      ]
    }

  result = {
    "network": [{"test_top1_error": error} for error in (0.5, 0.52, 0.54)],
    # The test images would choose the first.
    "methods": {"a": rows(0.4, 0.1, 0.1, 0.1), "b": rows(0.3, 0.4, 0.44, 0.42)},
  }
  found = hand_made_features._contrast(result)
  assert found["method"] == "b" and found["verdict"] == "contradicted"
  assert found["by_seed"] == pytest.approx({0: -10, 1: -8, 2: -12})
  # By scipy.stats.ttest_1samp.
  d = found["difference"]
  assert (d["low"], d["high"]) == pytest.approx((-14.96828, -5.03172))
  assert found["adjusted_p_value"] == pytest.approx(0.01307, abs=1e-4)
