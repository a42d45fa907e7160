"""Contrasts: what an experiment compares, stated before it is measured.

The unit is the seed. Seed s gives all arms the same order of images, crops and
flips, and the same initial weights where their layers have the same shape, so
the arms are compared within a seed. `statistics` draws the conclusion from
these differences.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.common import statistics
from experiments.common.outcome import Outcome, Outcomes


def error_on_test_images(outcome: Outcome) -> float:
  """The top-1 error on the test images, in points."""
  return 100 * outcome.error("test")


def error_on_training_images(outcome: Outcome) -> float:
  """The top-1 error on training images, evaluated like test images, points."""
  return 100 * outcome.error("train")


def generalisation_gap(outcome: Outcome) -> float:
  """By how much the test error exceeds the training error, in points."""
  return error_on_test_images(outcome) - error_on_training_images(outcome)


DIRECTIONS = {"less": -math.inf, "more": math.inf}


class Contrast(NamedTuple):
  """A linear combination of arms, and what the paper says of it.

  Attributes:
    name: of the contrast.
    arms: the weight of each run; their sum is 0. {"a": 1, "b": -1} is a minus
      b; four weights make an interaction.
    claimed: the paper's difference in the unit of the measure, of which the
      sign is the direction; 0: that there is none; "less" or "more": a
      direction without a number; None: nothing.
    margin: the largest difference that counts as none.
    measure: of one run.
    primary: whether its verdict counts in the study (docs/study.md).
    unit: of the measure, or "" if the name says it.
  """

  name: str
  arms: Mapping[str, float]
  claimed: float | str | None
  margin: float
  measure: Callable[[Outcome], float] = error_on_test_images
  primary: bool = False
  unit: str = "points"


def difference(treatment: str, base: str) -> dict[str, float]:
  """The weights of a plain difference."""
  return {treatment: 1.0, base: -1.0}


def compare(
  contrasts: Sequence[Contrast], outcomes: Outcomes
) -> dict[str, dict[str, Any]]:
  """Measures every contrast over the seeds that all of its arms have.

  A contrast with an arm that was not carried out is left out.

  A run whose parameters became non-finite counts with the error of guessing
  and is never dropped. If a run died, `survivors` has the difference over the
  seeds without deaths.

  Returns:
    By name of the contrast: its definition; the difference `by_seed`; and, from
    two seeds on, `difference`, `equivalence_p_value`, `verdict` and
    `adjusted_p_value` (Holm, over the contrasts given); for test errors also
    `image_intervals` by seed; the number of `deaths` by arm.
  """
  found = {
    contrast.name: _compare(contrast, outcomes)
    for contrast in contrasts
    if all(name in outcomes for name in contrast.arms)
  }
  measured = {
    name: p_value(values)
    for name, values in found.items()
    if "difference" in values
  }
  for name, adjusted in statistics.holm(measured).items():
    found[name]["adjusted_p_value"] = adjusted
  return found


def p_value(values: Mapping[str, Any]) -> float:
  """Of a measured contrast: of equivalence if that is what is claimed."""
  if values["claimed"] == 0:
    return values["equivalence_p_value"]
  return values["difference"]["p_value"]


def _compare(contrast: Contrast, outcomes: Outcomes) -> dict[str, Any]:
  arms = {
    name: {outcome.seed: outcome for outcome in outcomes[name]}
    for name in contrast.arms
  }
  seeds = sorted(set.intersection(*(set(arm) for arm in arms.values())))
  values = {
    seed: sum(
      weight * contrast.measure(arms[name][seed])
      for name, weight in contrast.arms.items()
    )
    for seed in seeds
  }
  result: dict[str, Any] = {
    "arms": dict(contrast.arms),
    "measure": contrast.measure.__name__,
    "claimed": contrast.claimed,
    "margin": contrast.margin,
    "primary": contrast.primary,
    "unit": contrast.unit,
    "by_seed": values,
    "deaths": {
      name: sum(arm[seed].died for seed in seeds) for name, arm in arms.items()
    },
  }
  if len(seeds) > 1:
    result |= conclude(contrast, values)
  if contrast.measure is error_on_test_images:
    result["image_intervals"] = {
      seed: _image_interval(contrast, arms, seed) for seed in seeds
    }
  alive = {
    seed: value
    for seed, value in values.items()
    if not any(arm[seed].died for arm in arms.values())
  }
  if 1 < len(alive) < len(seeds):
    result["survivors"] = conclude(contrast, alive)
  return result


def conclude(contrast: Contrast, values: Mapping[int, float]) -> dict[str, Any]:
  """The difference, from at least two seeds' values, and the verdict."""
  found = statistics.paired_difference(values, dict.fromkeys(values, 0.0))
  result = {
    "difference": found._asdict(),
    "equivalence_p_value": statistics.equivalence_p_value(
      found, contrast.margin
    ),
  }
  if contrast.claimed is not None:
    claimed = DIRECTIONS.get(contrast.claimed, contrast.claimed)
    result["verdict"] = statistics.verdict(found, claimed, contrast.margin)
  return result


def _image_interval(
  contrast: Contrast, arms: Mapping[str, Mapping[int, Outcome]], seed: int
) -> tuple[float, float] | None:
  """In points, over the test images; None if a run has no predictions."""
  total: float | np.ndarray = 0.0
  for name, weight in contrast.arms.items():
    wrong = arms[name][seed].wrong("test")
    if wrong is None:
      return None
    total = total + weight * wrong
  low, high = statistics.image_interval(total, np.zeros_like(total), seed)
  return 100 * low, 100 * high


def describe(found: Mapping[str, Mapping[str, Any]]) -> str:
  """One clause a contrast: the difference, its interval, the verdict."""
  parts = []
  for name, values in found.items():
    if "difference" not in values:
      parts.append(f"{name}: one seed, no interval")
      continue
    d = values["difference"]
    digits = 1 if values["unit"] == "points" else 2
    mean, low, high, least = (
      f"{d[key]:+.{digits}f}" for key in ("mean", "low", "high", "detectable")
    )
    unit = f" {values['unit']}".rstrip()
    text = f"{name}: {mean}{unit} ({low} to {high}, {d['seeds']} seeds)"
    if values["claimed"]:
      paper = values["claimed"]
      text += f", paper {paper if paper in DIRECTIONS else f'{paper:+.3g}'}"
    if "verdict" in values:
      text += f": {values['verdict']}"
    if values.get("verdict") == "undecided":
      text += f", detectable {least.removeprefix('+')}"
    parts.append(text)
  return "; ".join(parts)


def draw(found: Mapping[str, Mapping[str, Any]], axes) -> None:
  """Each contrast a row: every seed, the mean with its interval, the claim."""
  names = list(found)
  for row, values in enumerate(found.values()):
    each = list(values["by_seed"].values())
    axes.plot(each, [row + 0.15] * len(each), "o", color="C0", alpha=0.5)
    if "difference" in values:
      d = values["difference"]
      axes.plot([d["low"], d["high"]], [row, row], color="black")
      axes.plot([d["mean"]], [row], "|", color="black", markersize=12)
    if not isinstance(values["claimed"], str | None):
      axes.plot([values["claimed"]], [row], "x", color="C3")
    reach = values["margin"]
    axes.fill_betweenx([row - 0.3, row + 0.3], -reach, reach, color="0.9")
  axes.axvline(0, color="grey", linewidth=0.6)
  axes.set_yticks(range(len(names)), [textwrap.fill(n, 28) for n in names])
  axes.invert_yaxis()
  units = dict.fromkeys(values["unit"] for values in found.values())
  axes.set_xlabel(
    f"{' or '.join(filter(None, units))}\ndots: seeds, bar: 95% interval,"
    "\nx: paper, grey: counts as none"
  )
