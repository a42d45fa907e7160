"""Figure 3 as a test: are the colours of conv1 in one of two towers?

Kernels of one tower compete, so they are no independent draws: the unit is the
network. The towers are compared with halves dealt at random from networks of
one tower that were trained alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.common.statistics import LEVEL, POWER

DRAWS = 9_999  # studies drawn under the null hypothesis
STUDIES = 300  # studies drawn for each planted share


def auc(scores: np.ndarray) -> float:
  """The chance that a kernel of tower 1 has more colour than one of tower 0.

  Args:
    scores: of the kernels of both towers, f64[2,n].
  """
  return float(_auc(stats.rankdata(scores).reshape(1, -1))[0])


def _auc(ranks: np.ndarray) -> np.ndarray:
  """From ranks f64[N,2n], tower 0's first, by the Mann-Whitney statistic."""
  n = ranks.shape[1] // 2
  return (ranks[:, n:].sum(axis=1) - n * (n + 1) / 2) / n**2


def compare(
  towers: Sequence[np.ndarray], dense: Sequence[np.ndarray]
) -> dict[str, Any]:
  """Compares networks of two towers with random halves of dense networks.

  Args:
    towers: colour scores f64[2,n] of each network of two towers.
    dense: colour scores f64[2n] of each network of one tower.

  Returns:
    `auc`: of each network, above .5 where tower 1 has more colour; `apart`:
    |AUC - .5|; `null_mean`: its mean in random halves; `p_value`: how often
    random halves of as many networks are as far apart on average; `seen_share`:
    the smallest share of kernels, in steps of a tenth, whose dealing by colour
    would have been found at the level .05 in 80% of such studies, or None if
    not even 1 would.
  """
  found = [auc(scores) for scores in towers]
  apart = [abs(each - 0.5) for each in found]
  null = _studies(dense, len(towers), 0.0, DRAWS, seed=0)
  # The tolerance keeps rounding from excluding equal values.
  as_much = int((null >= np.mean(apart) - 1e-12).sum())
  critical = np.quantile(null, 1 - LEVEL)
  seen = (
    share
    for share in np.arange(1, 11) / 10
    if (_studies(dense, len(towers), share, STUDIES, seed=1) > critical).mean()
    >= POWER
  )
  return {
    "auc": found,
    "apart": apart,
    "null_mean": float(null.mean()),
    "p_value": (1 + as_much) / (1 + DRAWS),
    "seen_share": next(seen, None),
  }


def share_in_words(found: Mapping[str, Any]) -> str:
  """The `seen_share` of `compare`, such as "40% of the kernels"."""
  share = found["seen_share"]
  return f"{share:.0%} of the kernels" if share else "not even all kernels"


def _studies(
  dense: Sequence[np.ndarray],
  networks: int,
  share: float,
  count: int,
  seed: int,
) -> np.ndarray:
  """The mean |AUC - .5| of studies whose networks are dealt halves: f64[count].

  Args:
    dense: scores of networks; each study draws `networks` of them.
    networks: of a study.
    share: of the kernels, drawn at random, that are dealt by colour: the more
      coloured half of them to tower 1. The others are dealt at random.
    count: number of studies.
    seed: of the draws.
  """
  random = np.random.default_rng(seed)
  total = np.zeros(count)
  for _ in range(networks):
    chosen = random.integers(len(dense), size=count)
    ranks = np.stack([stats.rankdata(scores) for scores in dense])[chosen]
    dealt = random.permuted(ranks, axis=1)
    n = dealt.shape[1] // 2
    # The planted kernels are the first of tower 0 and the last of tower 1.
    planted = round(share * n)
    columns = [*range(planted), *range(2 * n - planted, 2 * n)]
    dealt[:, columns] = np.sort(dealt[:, columns], axis=1)
    total += np.abs(_auc(dealt) - 0.5)
  return total / networks
