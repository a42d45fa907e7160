"""Figure 3's test finds what is planted and nothing else."""

import numpy as np
import pytest
from scipy import stats

from experiments.common import specialisation

RANDOM = np.random.default_rng(0)
DENSE = [RANDOM.beta(0.5, 0.5, 24) for _ in range(5)]


def halves(share=0.0, random=RANDOM):
  """Five networks whose kernels are dealt, a share of them by colour."""
  found = []
  for _ in range(5):
    scores = random.beta(0.5, 0.5, 24)
    planted = round(share * 12)
    scores[: 2 * planted] = np.sort(scores[: 2 * planted])
    towers = np.split(scores[: 2 * planted], 2)
    rest = np.split(scores[2 * planted :], 2)
    found.append(
      np.stack([np.append(*pair) for pair in zip(towers, rest, strict=True)])
    )
  return found


def test_auc_counts_pairs():
  scores = RANDOM.random((2, 7))
  scores[1, 3] = scores[0, 2]  # a tie counts half
  pairs = np.sign(scores[1][:, np.newaxis] - scores[0])
  assert specialisation.auc(scores) == pytest.approx((1 + pairs.mean()) / 2)
  u = stats.mannwhitneyu(scores[1], scores[0]).statistic
  assert specialisation.auc(scores) == pytest.approx(u / 49)


def test_planted_colours_are_found_and_the_least_share_is_told():
  found = specialisation.compare(halves(share=1.0), DENSE)
  assert found["auc"] == [1.0] * 5 and found["apart"] == [0.5] * 5
  assert found["p_value"] < 0.001
  assert 0.2 <= found["seen_share"] <= 0.8
  # More networks find less.
  few = specialisation.compare(halves()[:2], DENSE)["seen_share"]
  assert few > found["seen_share"]
  # Two kernels a tower and one network: even all of them would not be found.
  tiny = [np.array([0.1, 0.2, 0.3, 0.4])]
  assert (
    specialisation.compare([np.array([[0.1, 0.2], [0.3, 0.4]])], tiny)[
      "seen_share"
    ]
    is None
  )


def test_false_alarms_are_few(monkeypatch):
  monkeypatch.setattr(specialisation, "DRAWS", 499)
  monkeypatch.setattr(specialisation, "STUDIES", 1)
  random = np.random.default_rng(1)
  alarms = [
    specialisation.compare(halves(random=random), DENSE)["p_value"] < 0.05
    for _ in range(200)
  ]
  # At most 5%; 19 of 200 or more have a chance of .6% then.
  assert 1 <= sum(alarms) <= 18


def test_the_null_mean_is_that_of_random_halves():
  dealt = [RANDOM.permutation(DENSE[k % 5]).reshape(2, 12) for k in range(4000)]
  expected = np.mean([abs(specialisation.auc(x) - 0.5) for x in dealt])
  found = specialisation.compare(halves(), DENSE)["null_mean"]
  assert found == pytest.approx(expected, rel=0.05)
