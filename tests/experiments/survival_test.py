"""Survival curves and tests against hand calculations and a simulation."""

import math

import numpy as np
import pytest

from experiments import plateau
from experiments.common import survival
from experiments.common.survival import Times

# Gehan 1965: weeks of remission, 6-mercaptopurine and placebo. The figures are
# those of Kleinbaum and Klein, Survival Analysis, chapter 2.
TREATED = Times(
  [6, 6, 6, 7, 10, 13, 16, 22, 23],
  [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35],
)
PLACEBO = Times(
  [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], []
)


def test_remaining_and_median():
  at, left = survival.remaining(TREATED)
  assert at == [6, 7, 10, 13, 16, 22, 23]
  expected = [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482]
  np.testing.assert_allclose(left, expected, atol=1e-4)
  assert survival.median(TREATED) == 23
  assert survival.median(PLACEBO) == 8
  assert survival.median(Times([5], [9, 9])) is None
  assert survival.remaining(Times([], [9, 9])) == ([], [])


def test_log_rank():
  found = survival.compare(TREATED, PLACEBO)
  # Chi-squared 16.79 with one degree of freedom.
  assert found["p_value"] == pytest.approx(
    math.erfc(math.sqrt(16.79 / 2)), rel=0.02
  )
  assert found["events"] == 30
  # Schoenfeld: 4 (1.96 + .8416)^2 / log(ratio)^2 events.
  needed = (
    4 * (1.95996 + 0.84162) ** 2 / math.log(found["detectable_ratio"]) ** 2
  )
  assert needed == pytest.approx(30, rel=1e-4)
  assert survival.compare(Times([], [4.0]), Times([], [4.0]))["p_value"] == 1


def test_the_detectable_ratio_is_found_in_four_of_five_studies():
  random = np.random.default_rng(0)
  ratio = survival.compare(Times([1.0] * 32, []), Times([2.0] * 32, []))[
    "detectable_ratio"
  ]
  seen = [
    survival.compare(
      Times(random.exponential(ratio, 32).tolist(), []),
      Times(random.exponential(1.0, 32).tolist(), []),
    )["p_value"]
    < 0.05
    for _ in range(400)
  ]
  assert np.mean(seen) == pytest.approx(0.8, abs=0.06)  # 3 standard errors


def test_factors_pool_the_cells_of_a_level():
  """All runs of the wide weights leave; one of the others died."""

  def cell(std, diverged):
    left = 8 * [100_000 if std == 0.03 else None]
    trained = [100_000 if std == 0.03 else plateau.IMAGES] * 8
    if diverged:
      trained[0] = 3_000
    deaths = [diverged] + 7 * [False]
    return {
      "images_to_leave": left,
      "images_trained": trained,
      "diverged": deaths,
    }

  cells = {
    run.name: cell(values[0], values == (0.01, 0.1, 1.0))
    for values, run in plateau.RUNS.items()
  }
  found = plateau.factors(cells)
  assert found["std"]["left"] == {"0.01": "0 of 32", "0.03": "32 of 32"}
  assert found["bias"]["left"] == {"1.0": "16 of 32", "0.1": "16 of 32"}
  assert found["std"]["adjusted_p_value"] < 1e-9 < 0.9 < found["k"]["p_value"]
  died = plateau.times(cells["std0.01-bias0.1-k1"])
  assert died == Times([], [plateau.IMAGES] * 8)
