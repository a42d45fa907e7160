"""The table of docs/results.md: each claim of the paper, and what was found.

The differences come from the records of the registered study (docs/study.md)
in experiments/results; `python -m docs.generate` writes the table. The authors'
log is public with the 2012 source; what others measured are single runs.
"""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiments import study
from experiments.common import markdown, specialisation
from experiments.common.statistics import LEVEL

RESULTS = pathlib.Path(__file__).parent / "results"
OURS = ("here, with 95% interval", "seeds", "verdict")


class Row(NamedTuple):
  """A claim, and the contrast that measures it."""

  claim: str
  paper: str
  log: str  # the authors' own runs
  others: str
  stage: str
  contrast: str
  unit: str = "points"
  telling: bool = False  # shown in README


ROWS = (
  Row(
    "Response normalisation lowers the error (3.3), from the source's initial"
    " weights",
    "-1.4",
    "-1.37 (#145 and #148, which lacks three norms)",
    "+.1",
    "lrn",
    "LRN, source's start",
    telling=True,
  ),
  Row(
    "The same from the text's initial weights",
    "-1.4",
    "",
    "",
    "lrn",
    "LRN, text's start",
  ),
  Row(
    "Dropout lowers the error (4.2), twice the budget",
    "less",
    "",
    "rate .5 +2.6 beside .3",
    "dropout",
    "dropout minus its mean, twice the budget",
    telling=True,
  ),
  Row(
    "Dropout doubles the iterations (4.2): equal training errors",
    "0",
    "",
    "",
    "dropout",
    "dropout with twice the budget minus its mean, training error",
  ),
  Row(
    "Two towers have a lower error than one with half the kernels (3.2)",
    "-1.7",
    "-1.70 (#145 and #145-half)",
    "",
    "two_towers",
    "two towers minus half",
    telling=True,
  ),
  Row(
    "Removing a middle layer costs error (7)",
    "+2",
    "",
    "",
    "depth",
    "a middle layer removed",
    telling=True,
  ),
  Row(
    "Crops and reflections lower the error (4.1)",
    "less",
    "",
    "",
    "augmentation",
    "crops, test error",
    telling=True,
  ),
  Row(
    "Lighting noise lowers the error (4.1)",
    "-1",
    "",
    "-.3 (#170 and CaffeNet)",
    "augmentation",
    "lighting, test error",
  ),
  Row(
    "Overlapping pooling is worth no more than half a point (3.4)",
    "-0.4",
    "-.39 (#145 and #147)",
    "+1.3, larger maps without overlap",
    "pooling",
    "overlap minus none",
  ),
  Row(
    "tanh takes more epochs than ReLU to 25% training error (3.1)",
    "6 times",
    "",
    "error 7 points higher",
    "relu_tanh",
    "log of tanh's epochs over ReLU's, source weights",
    "times",
  ),
  Row(
    "The same from Glorot's initial weights",
    "6 times",
    "",
    "",
    "relu_tanh",
    "log of tanh's epochs over ReLU's, glorot weights",
    "times",
  ),
  Row(
    "Biases of 1 accelerate the early stages (5): loss of the first tenth",
    "less",
    "",
    "",
    "biases",
    "biases 1 minus 0, early loss",
    "nats",
  ),
  Row(
    "Weight decay lowers the training error (5)",
    "less",
    "",
    "-2.1 (5e-4 and 1e-4, validation)",
    "weight_decay",
    "decay minus none, training error",
  ),
  Row(
    "Features made by hand have a higher error than the network (Table 1)",
    "+8.2 (SIFT and Fisher vectors)",
    "",
    "",
    "hand_made_features",
    "the best method minus the network",
  ),
)


def table() -> str:
  """All claims, beside the authors' log and what others measured."""
  headings = ("claim", "paper", "authors' log", "others", *OURS)
  cells = [
    [row.claim, row.paper, row.log, row.others, *ours]
    for row, ours in _measured(ROWS)
  ]
  claim = "One of two towers takes the colours (6.1)"
  cells.append([claim, "in every run", "", "", *_figure3()])
  return f"{markdown.table(headings, cells)}\n\n{_spent()}"


def telling() -> str:
  """The claims that README shows."""
  chosen = [row for row in ROWS if row.telling]
  return markdown.table(
    ("claim", "paper", *OURS),
    [[row.claim, row.paper, *cells] for row, cells in _measured(chosen)],
  )


def _measured(rows: Iterable[Row]) -> list[tuple[Row, tuple[str, str, str]]]:
  """Every row with the cells of OURS."""
  records = {row.stage: _record(row.stage) for row in ROWS}
  primary = {
    (row["stage"], row["contrast"]): row["verdict"]
    for row in study.family(records)
  }
  found = []
  for row in rows:
    contrasts = records[row.stage].get("result", {}).get("contrasts", {})
    values = contrasts.get(row.contrast, {})
    verdict = primary.get((row.stage, row.contrast), values.get("verdict"))
    found.append((row, _ours(row, values, verdict)))
  return found


def _figure3() -> tuple[str, str, str]:
  """It has a test against random halves instead of a difference."""
  found = _record("figure3").get("result", {}).get("source")
  if not found:
    return "", "", "registered, not run"
  apart = sum(found["apart"]) / len(found["apart"])
  text = (
    f"AUC of the colours {apart:.2f} from .5; in random halves"
    f" {found['null_mean']:.2f} (p = {found['p_value']:.2g})"
  )
  least = specialisation.share_in_words(found)
  verdict = f"undecided ({least} dealt by colour would have been found)"
  seen = found["p_value"] < LEVEL
  return text, str(len(found["seeds"])), "supported" if seen else verdict


def _spent() -> str:
  """The trainings so far; the stages of the study share those of the base."""
  shared = ("rates", *(stage.name for stage in study.STAGES))
  trainings = {
    ("" if stage in shared else stage, training["run"], training["seed"]): (
      training
    )
    for stage in (*shared, "figure3", "plateau")
    for training in _record(stage).get("trainings", [])
  }
  hours = sum(each["seconds"] for each in trainings.values()) / 3600
  died = sum(bool(each.get("died")) for each in trainings.values())
  return (
    f"So far {len(trainings)} trainings, which ran for {hours:.1f} hours in"
    f" all, each on one core or a share of it; {died} died. Repeats, and what"
    " [study.md](study.md) discards, are not counted."
  )


def _record(stage: str) -> dict[str, Any]:
  path = RESULTS / f"{stage}.json"
  return json.loads(path.read_text()) if path.exists() else {}


def _ours(
  row: Row, found: Mapping[str, Any], verdict: str | None
) -> tuple[str, str, str]:
  """The difference with its interval, the seeds, the verdict."""
  if "difference" not in found:
    return "", "", "registered, not run"
  d = found["difference"]
  if row.unit == "times":
    mean, low, high = (math.exp(d[key]) for key in ("mean", "low", "high"))
    text = f"{mean:.2f} times ({low:.2f} to {high:.2f})"
    least = f"{math.exp(d['detectable']):.2f} times"
  else:
    digits = 1 if row.unit == "points" else 3
    mean, low, high = (
      f"{d[key]:+.{digits}f}" for key in ("mean", "low", "high")
    )
    text = f"{mean} {row.unit} ({low} to {high})"
    least = f"{d['detectable']:.{digits}f} {row.unit}"
  if verdict == "undecided" and found.get("verdict") != "undecided":
    verdict = f"undecided ({found['verdict']} before the adjustment)"
  elif verdict == "undecided":
    verdict = f"undecided ({least} would have been found)"
  return text, str(d["seeds"]), verdict or ""
