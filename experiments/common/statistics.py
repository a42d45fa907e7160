"""Statistics of paired runs: intervals, power, equivalence, several contrasts.

The unit of analysis is the seed: seed s gives both arms of a contrast the same
initial weights, order and crops, so that the difference within a seed is one
observation. A conclusion is drawn from the mean of these differences.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95
LEVEL = 0.05  # of a test
POWER = 0.8


class Difference(NamedTuple):
  """The mean paired difference of a contrast, in the unit of its measure.

  Attributes:
    mean: over seeds, treatment minus base.
    low, high: its 95% t interval.
    p_value: two-sided t test of a mean of 0.
    deviation: standard deviation of the differences (n - 1 in the divisor).
    seeds: number of pairs.
    detectable: least true difference that these seeds would have shown with a
      probability of 80%, if the differences vary as they do here.
  """

  mean: float
  low: float
  high: float
  p_value: float
  deviation: float
  seeds: int
  detectable: float


def paired_difference(
  treatment: Mapping[int, float], base: Mapping[int, float]
) -> Difference:
  """Compares two arms over the seeds that both of them have.

  Args:
    treatment, base: the measure by seed, such as the test error in points.

  Raises:
    ValueError: fewer than two common seeds; one difference has no interval.
  """
  seeds = sorted(treatment.keys() & base.keys())
  if len(seeds) < 2:
    raise ValueError(
      f"a paired difference needs at least 2 common seeds (got {len(seeds)}:"
      f" treatment has {sorted(treatment)}, base has {sorted(base)})"
    )
  differences = np.array([treatment[seed] - base[seed] for seed in seeds])
  mean = float(differences.mean())
  deviation = float(differences.std(ddof=1))
  error = deviation / math.sqrt(len(seeds))
  reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)) * error
  return Difference(
    mean,
    mean - reach,
    mean + reach,
    _two_sided(mean, error, len(seeds) - 1),
    deviation,
    len(seeds),
    detectable_difference(deviation, len(seeds)),
  )


def detectable_difference(
  deviation: float, seeds: int, power: float = POWER
) -> float:
  """The least true difference that a two-sided paired t test detects.

  Args:
    deviation: standard deviation of the paired differences.
    seeds: number of pairs, at least 2.
    power: the probability of a p-value below .05.
  """
  return deviation * _detectable_effect(seeds, power)


@functools.cache
def _detectable_effect(seeds: int, power: float) -> float:
  """The detectable difference in standard deviations of the differences."""
  # The square of a noncentral t is a noncentral F, which scipy computes for
  # any effect; its noncentral t is NaN far from the solution.
  critical = stats.f.ppf(CONFIDENCE, 1, seeds - 1)

  def excess_power(effect: float) -> float:
    shift = seeds * effect**2
    return float(stats.ncf.sf(critical, 1, seeds - 1, shift)) - power

  return float(optimize.brentq(excess_power, 1e-6, 100))


def equivalence_p_value(difference: Difference, margin: float) -> float:
  """Two one-sided t tests (TOST) of a true difference beyond +-`margin`.

  Args:
    difference: of the contrast.
    margin: the largest difference that counts as none, above 0.

  Returns:
    The p-value; below .05 the arms are equivalent within the margin.
  """
  error = difference.deviation / math.sqrt(difference.seeds)
  nearest = margin - abs(difference.mean)
  if error == 0:
    return 0.0 if nearest > 0 else 1.0
  return float(stats.t.sf(nearest / error, difference.seeds - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
  """Adjusts the p-values of a family of contrasts (Holm 1979).

  A contrast whose adjusted value is below .05 stands though the whole family
  was tested: the chance of one false alarm in the family is at most 5%.
  """
  adjusted, largest = {}, 0.0
  for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
    raised = min(1.0, p_values[name] * (len(p_values) - rank))
    adjusted[name] = largest = max(largest, raised)
  return {name: adjusted[name] for name in p_values}


def image_interval(
  treatment_wrong: np.ndarray, base_wrong: np.ndarray, seed: int = 0
) -> tuple[float, float]:
  """A paired bootstrap over the test images, within one seed.

  It says how far the difference of these two networks depends on which images
  are in the test set; it says nothing about other seeds.

  Args:
    treatment_wrong, base_wrong: bool[images] (or the fraction wrong), the same
      images in the same order.
    seed: of the resampling.

  Returns:
    The ends of the 95% percentile interval of the difference in error.
  """
  difference = np.subtract(treatment_wrong, base_wrong, dtype=np.float64)
  result = stats.bootstrap(
    (difference,),
    np.mean,
    confidence_level=CONFIDENCE,
    n_resamples=2000,
    batch=100,  # bounds the memory: 100 resamples of 10,000 images are 8 MB
    method="percentile",
    rng=np.random.default_rng(seed),
  )
  interval = result.confidence_interval
  return float(interval.low), float(interval.high)


def verdict(difference: Difference, claimed: float, margin: float) -> str:
  """What the seeds say about a claimed difference.

  Args:
    difference: measured, treatment minus base.
    claimed: the paper's; its sign is the direction of the claim. 0 claims
      equivalence.
    margin: the largest difference that counts as none.

  Returns:
    "supported": the interval lies on the claimed side of 0 (for a claim of
    equivalence: TOST at .05); "contradicted": it lies on the other side, or
    the arms are equivalent where a difference beyond the margin was claimed;
    "undecided": neither.
  """
  equivalent = equivalence_p_value(difference, margin) < 1 - CONFIDENCE
  excludes_zero = difference.low > 0 or difference.high < 0
  if claimed == 0:
    if equivalent:
      return "supported"
    beyond = difference.low > margin or difference.high < -margin
    return "contradicted" if beyond else "undecided"
  if excludes_zero and difference.mean * claimed > 0:
    return "supported"
  if excludes_zero or (equivalent and abs(claimed) > margin):
    return "contradicted"
  return "undecided"


def fraction_interval(deaths: int, runs: int) -> tuple[float, float]:
  """The exact (Clopper-Pearson) 95% interval of a rate, such as of dead runs.

  Raises:
    ValueError: not 0 <= deaths <= runs, or no run.
  """
  interval = stats.binomtest(deaths, runs).proportion_ci(CONFIDENCE, "exact")
  return float(interval.low), float(interval.high)


def _two_sided(mean: float, error: float, freedom: int) -> float:
  if error == 0:
    return 1.0 if mean == 0 else 0.0
  return float(2 * stats.t.sf(abs(mean) / error, freedom))
