"""Times until something happens in a training, or until the training ends.

Kaplan-Meier curves and the log-rank test, by SciPy. A run that ends without the
event is censored: it counts until its end.
"""

import math
from typing import Any, NamedTuple

from scipy import stats

from experiments.common.statistics import LEVEL, POWER


class Times(NamedTuple):
  """When runs had the event, or where they ended without it.

  Attributes:
    events: times of the event.
    censored: the ends of the other runs.
  """

  events: list[float]
  censored: list[float]

  def data(self) -> stats.CensoredData:
    """As SciPy takes them."""
    return stats.CensoredData(uncensored=self.events, right=self.censored)


def remaining(times: Times) -> tuple[list[float], list[float]]:
  """The Kaplan-Meier estimate: times of events, the share left after each."""
  if not times.events:
    return [], []
  function = stats.ecdf(times.data()).sf
  pairs = [
    (float(time), float(share))
    for time, share in zip(
      function.quantiles, function.probabilities, strict=True
    )
    if time in times.events
  ]
  return [time for time, _ in pairs], [share for _, share in pairs]


def median(times: Times) -> float | None:
  """The time by which half of the runs have had the event, if they have."""
  at, left = remaining(times)
  return next((t for t, s in zip(at, left, strict=True) if s <= 0.5), None)


def compare(first: Times, second: Times) -> dict[str, Any]:
  """The log-rank test of two groups.

  Returns:
    `events`: of both groups; `p_value`; and `detectable_ratio`: the least ratio
    of the rates of the event that so many events, of two groups of the same
    size, show at the level .05 in 80% of studies (Schoenfeld, Biometrika 1981).
    Without an event they are 1 and None.
  """
  count = len(first.events) + len(second.events)
  if not count:
    return {"events": 0, "p_value": 1.0, "detectable_ratio": None}
  found = stats.logrank(x=first.data(), y=second.data())
  reach = stats.norm.isf(LEVEL / 2) + stats.norm.ppf(POWER)
  return {
    "events": count,
    "p_value": float(found.pvalue),
    "detectable_ratio": math.exp(2 * float(reach) / math.sqrt(count)),
  }
