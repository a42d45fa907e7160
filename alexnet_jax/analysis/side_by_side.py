"""Several runs side by side: numbers, paired errors, differences, health."""

from collections.abc import Sequence

from scipy import stats

from alexnet_jax.analysis import health, page
from alexnet_jax.analysis.differences import differing_keys
from alexnet_jax.analysis.number_format import (
  count,
  duration,
  epochs,
  number,
  percent,
  points,
)
from alexnet_jax.analysis.overview import check_list, ending_note
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.analysis.run_facts import (
  describe_training,
  evaluation_of,
  median_speed,
  recorded_predictions,
  short_names,
)
from alexnet_jax.training.runs import Run


def side_by_side(runs: Sequence[Run]) -> Html:
  """The first section of a report about several runs."""
  names = short_names(runs)
  checked = [health.checks(r.lines, r.config["num_classes"]) for r in runs]
  rows = [
    (label, *(value(run) for run in runs)) for label, value in _COLUMNS.items()
  ]
  rows.append(("health", *map(health.verdict, checked)))
  parts = [page.table(("", *names), rows, class_="wide sides")]
  if len(runs) == 2:
    parts.append(element("p", paired(*runs)))
  note = (
    "One run each: the same recipe with another seed may differ as much"
    " (docs/study.md pairs several seeds)."
  )
  parts.append(element("p", note, class_="note"))
  parts.append(element("h3", "Differences in configuration"))
  keys = differing_keys([run.config for run in runs])
  if keys:
    rows = [(key, *values) for key, values in keys.items()]
    parts.append(page.table(("key", *names), rows, class_="wide sides"))
  else:
    parts.append(element("p", "None: the configurations are equal."))
  for run, name, found in zip(runs, names, checked, strict=True):
    parts += [element("h3", f"{name}: ", health.verdict(found))]
    parts.append(element("p", describe_training(run)))
    parts.append(ending_note(run))
    parts.append(check_list(found))
  return page.join(parts)


def _error(key: str):
  def value(run: Run) -> str:
    line = evaluation_of(run)
    return percent(line[key]) if line else "-"

  return value


def _interval(run: Run) -> str:
  line = evaluation_of(run)
  if line is None:
    return "-"
  ends = health.interval(line["top1_error"], line["num_examples"])
  return " to ".join(map(percent, ends))


def _best(run: Run) -> str:
  best = health.best_evaluation(run.split("validation"))
  return (
    f"{percent(best['top1_error'])}, epoch {epochs(best['epoch'])}"
    if best
    else "-"
  )


def _last(key: str, form):
  def value(run: Run) -> str:
    return form(run.lines[-1][key]) if run.lines else "-"

  return value


def _loss(run: Run) -> str:
  line = evaluation_of(run)
  return number(line["loss"]) if line else "-"


_COLUMNS = {
  "validation top-1 error": _error("top1_error"),
  "95% interval": _interval,
  "validation top-5 error": _error("top5_error"),
  "validation loss": _loss,
  "lowest top-1 error": _best,
  "training error, last epoch": lambda run: percent(
    health.mean(health.last_epoch(run.split("train")), "top1_error")
  ),
  "guessing": lambda run: percent(1 - 1 / run.config["num_classes"]),
  "dataset": lambda run: run.config["dataset"],
  "checkpoint": lambda run: (
    f"{run.checkpoint}, step {run.step:,}" if run.net else "-"
  ),
  "epochs": _last("epoch", epochs),
  "images seen": lambda run: (
    count(run.lines[-1]["step"] * run.config["batch_size"])
    if run.lines
    else "-"
  ),
  "time": _last("seconds", duration),
  "images/s (median)": lambda run: number(median_speed(run)),
}


def paired(one: Run, other: Run) -> str:
  """A paired comparison of two runs on the same validation images."""
  found = [recorded_predictions(run) for run in (one, other)]
  if None in found:
    return (
      "The runs have not kept their predictions, so images are not compared."
    )
  first, second = found
  if not (
    one.config["dataset"] == other.config["dataset"]
    and first.index.tolist() == second.index.tolist()
    and first.label.tolist() == second.label.tolist()
  ):
    return "The runs were evaluated on different images."
  wrong = first.predicted != first.label, second.predicted != second.label
  only_first = int((wrong[0] & ~wrong[1]).sum())
  only_second = int((wrong[1] & ~wrong[0]).sum())
  names = short_names([one, other])
  text = (
    f"Of the same {len(first.label):,} images, {names[0]} alone is wrong on"
    f" {only_first:,} and {names[1]} alone on {only_second:,}"
  )
  if not only_first + only_second:
    return f"{text}."
  p_value = stats.binomtest(only_first, only_first + only_second).pvalue
  difference = (only_second - only_first) / len(first.label)
  return (
    f"{text}: the second differs by {points(difference)} from the first"
    f" (McNemar's exact test, p = {number(p_value)})."
  )
