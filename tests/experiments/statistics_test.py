"""The statistics of paired runs, against statsmodels and by simulation."""

import numpy as np
import pytest

from experiments.common.statistics import (
  Difference,
  detectable_difference,
  equivalence_p_value,
  fraction_interval,
  holm,
  image_interval,
  paired_difference,
  verdict,
)

TREATMENT = dict(enumerate((23.4, 22.9, 24.1, 23.0, 23.7)))
BASE = dict(enumerate((22.7, 22.8, 22.9, 22.1, 22.6)))
# DescrStatsW, ttost_paired, multipletests, TTestPower of statsmodels 0.15.0.
MEAN, LOW, HIGH, P_VALUE = 0.8, 0.25877121, 1.34122879, 0.01480559
DEVIATION = 0.43588989
EQUIVALENCE = {1.5: 0.01147145, 0.5: 0.90067785}
EFFECTS = {
  (2, 0.8): 11.5498898,
  (5, 0.8): 1.68199708,
  (10, 0.8): 0.99600191,
  (30, 0.8): 0.52923570,
}
EFFECTS[5, 0.9] = 1.96588885


def close(value):
  return pytest.approx(value, rel=1e-6)


def test_a_paired_difference_is_that_of_statsmodels():
  found = paired_difference(TREATMENT, BASE)
  assert found[:6] == close((MEAN, LOW, HIGH, P_VALUE, DEVIATION, 5))
  assert found.detectable == close(DEVIATION * EFFECTS[5, 0.8])


def test_seeds_are_paired_by_number_and_not_by_position():
  shuffled = {seed: TREATMENT[seed] for seed in (3, 0, 4, 2, 1)}
  assert paired_difference(shuffled, BASE) == paired_difference(TREATMENT, BASE)
  swapped = TREATMENT | {0: TREATMENT[2], 2: TREATMENT[0]}
  found = paired_difference(swapped, BASE)
  assert found.mean == close(MEAN)
  assert found.deviation != close(DEVIATION)


def test_only_common_seeds_count_and_one_is_too_few():
  assert paired_difference(TREATMENT | {9: 99.0}, BASE).seeds == 5
  with pytest.raises(ValueError, match="at least 2 common seeds"):
    paired_difference({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0})


@pytest.mark.parametrize(("seeds", "power"), EFFECTS)
def test_the_detectable_difference_is_that_of_statsmodels(seeds, power):
  found = detectable_difference(2.0, seeds, power)
  assert found == close(2 * EFFECTS[seeds, power])


@pytest.mark.parametrize("margin", EQUIVALENCE)
def test_equivalence_is_that_of_statsmodels(margin):
  difference = paired_difference(TREATMENT, BASE)
  assert equivalence_p_value(difference, margin) == close(EQUIVALENCE[margin])
  opposite = paired_difference(BASE, TREATMENT)
  assert equivalence_p_value(opposite, margin) == close(EQUIVALENCE[margin])


def test_holm_is_that_of_statsmodels():
  found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
  assert found == close({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_the_interval_of_a_rate_is_exact():
  # Clopper and Pearson: with no death in n runs, 1 - .025^(1/n).
  assert fraction_interval(0, 8) == close((0.0, 1 - 0.025**0.125))
  low, high = fraction_interval(1, 3)
  assert (low, high) == close((1 - 0.975 ** (1 / 3), 0.90570097))


def simulate(true_difference, studies, seeds=5, deviation=0.7):
  """Verdict inputs of many studies whose true difference is known."""
  random = np.random.default_rng(0)
  differences = random.normal(true_difference, deviation, (studies, seeds))
  zeros = dict.fromkeys(range(seeds), 0.0)
  return [paired_difference(dict(enumerate(d)), zeros) for d in differences]


def test_a_null_effect_is_found_in_five_percent_of_studies():
  alarms = sum(study.p_value < 0.05 for study in simulate(0.0, 1000))
  assert 30 <= alarms <= 70  # 50 expected, three standard errors of 7
  agreeing = [s for s in simulate(0.0, 1000) if (s.low > 0) | (s.high < 0)]
  assert len(agreeing) == alarms


def test_a_family_of_nulls_alarms_in_at_most_five_percent_of_families():
  studies = simulate(0.0, 9000)
  alarms = 0
  for start in range(0, 9000, 9):
    family = {str(i): studies[start + i].p_value for i in range(9)}
    alarms += min(holm(family).values()) < 0.05
  assert 20 <= alarms <= 70  # of 1,000 families of nine contrasts


def test_a_planted_effect_is_found_as_often_as_the_power_says():
  planted = detectable_difference(0.7, 5)
  found = sum(study.p_value < 0.05 for study in simulate(planted, 1000))
  assert 760 <= found <= 840


def test_the_bootstrap_covers_the_normal_interval_of_many_images():
  random = np.random.default_rng(1)
  base = random.random(4000) < 0.4
  changed = random.random(4000) < 0.1
  treatment = base ^ changed
  difference = treatment.astype(float) - base
  error = difference.std() / np.sqrt(4000)
  low, high = image_interval(treatment, base)
  assert low == pytest.approx(difference.mean() - 1.96 * error, abs=error / 5)
  assert high == pytest.approx(difference.mean() + 1.96 * error, abs=error / 5)


def difference(mean, reach):
  """A difference of 5 seeds whose interval is mean +- reach."""
  deviation = reach / 2.776445 * np.sqrt(5)  # the t quantile of 4 degrees
  return Difference(mean, mean - reach, mean + reach, 0.5, deviation, 5, 0.0)


@pytest.mark.parametrize(
  ("mean", "reach", "claimed", "expected"),
  [
    (-1.5, 0.5, -1.4, "supported"),
    (1.5, 0.5, -1.4, "contradicted"),
    (-0.3, 0.8, -1.4, "undecided"),
    (0.0, 0.2, -1.4, "contradicted"),  # equivalent within the margin
    (0.0, 0.2, -0.4, "undecided"),  # too small a claim to contradict
    (0.0, 0.2, 0.0, "supported"),
    (0.4, 0.8, 0.0, "undecided"),
    (2.0, 0.5, 0.0, "contradicted"),
  ],
)
def test_verdicts(mean, reach, claimed, expected):
  assert verdict(difference(mean, reach), claimed, margin=0.5) == expected
