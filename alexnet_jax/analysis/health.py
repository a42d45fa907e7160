"""Health of a run: checks of what its training logged, one line per check."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy import stats

from alexnet_jax.analysis.number_format import epochs, number, percent, points
from alexnet_jax.training.diagnostics import MARGIN

GOOD, WATCH, BAD, UNKNOWN = "good", "watch", "bad", "unknown"

DEAD = 0.5, 0.9  # fractions of a layer's units from which to watch, or bad
# Norm of an update divided by that of the weights, at the highest rate. (About
# 0.001 is usual.)
VANISHING, EXPLODING = 1e-6, 0.1
GAP = 0.1  # validation error minus training error
RISE = 0.02  # of the validation error above its lowest value
WAITING = 0.1  # fraction of the time spent waiting for images

Line = dict[str, Any]  # of metrics.jsonl


class Check(NamedTuple):
  """One check of a run."""

  name: str
  verdict: str  # GOOD, WATCH, BAD or UNKNOWN
  text: str  # what was measured
  advice: str = ""  # what to do; "" unless the verdict is WATCH or BAD


def checks(lines: Sequence[Line], num_classes: int) -> list[Check]:
  """The checks of a run, from its metrics.

  Args:
    lines: of metrics.jsonl.
    num_classes: classes of the dataset.
  """
  train = [line for line in lines if line["split"] == "train"]
  validation = [line for line in lines if line["split"] == "validation"]
  return [
    _finite(lines),
    _plateau(train, num_classes),
    _dead_units(train),
    _updates(train),
    _overfitting(train, validation),
    _input(train),
    *_skipped_images(train),
  ]


def last_epoch(train: Sequence[Line]) -> list[Line]:
  """The training lines of the last epoch; at least one, if there is one."""
  end = train[-1]["epoch"] if train else 0
  return [line for line in train if line["epoch"] > end - 1]


def mean(lines: Sequence[Line], key: str) -> float | None:
  """The mean of a key over the lines that have it; None if none has."""
  values = [line[key] for line in lines if line.get(key) is not None]
  return statistics.fmean(values) if values else None


def interval(error: float, num_examples: int) -> tuple[float, float]:
  """The 95% interval (Wilson's) of an error measured on so many images."""
  wrong = min(max(round(error * num_examples), 0), num_examples)
  found = stats.binomtest(wrong, num_examples).proportion_ci(method="wilson")
  return float(found.low), float(found.high)


def best_evaluation(validation: Sequence[Line]) -> Line | None:
  """The line with the lowest top-1 error, of equal ones the first."""
  known = [line for line in validation if line.get("top1_error") is not None]
  return min(known, key=lambda line: line["top1_error"], default=None)


def _finite(lines: Sequence[Line]) -> Check:
  name = "Finite numbers"
  wrong = [x["step"] for x in lines if "loss" in x and x["loss"] is None]
  if wrong:
    text = f"The loss is not finite at step {wrong[0]:,}."
    advice = "Train with a lower `schedule.learning_rate` in a new workdir."
    return Check(name, BAD, text, advice)
  if not lines:
    return Check(name, UNKNOWN, "Nothing has been logged yet.")
  return Check(name, GOOD, "Every logged loss is finite.")


def _plateau(train: Sequence[Line], num_classes: int) -> Check:
  name, chance = "Learning", math.log(num_classes)
  loss = mean(last_epoch(train)[-5:], "loss")
  if loss is None:
    return Check(name, UNKNOWN, "No training loss has been logged yet.")
  text = f"Training loss {number(loss)}; guessing has {number(chance)}."
  if loss < chance - MARGIN:
    return _spike(train, chance) or Check(name, GOOD, text)
  if loss > chance + 10 * MARGIN:
    advice = "That is worse than guessing. Lower `schedule.learning_rate`."
    return Check(name, BAD, text, advice)
  advice = (
    "The loss is on the plateau of guessing, where AlexNet often starts."
    " `docs/plateau.md` says how long it may last and what to try."
  )
  return Check(name, WATCH, text, advice)


def _spike(train: Sequence[Line], chance: float) -> Check | None:
  """A loss worse than guessing after it had been well below; None if none."""
  lowest = math.inf
  for line in train:
    loss = line.get("loss") or math.inf
    if lowest < chance / 2 and chance + 10 * MARGIN < loss < math.inf:
      text = (
        f"The training loss had fallen to {number(lowest)}, and rose to"
        f" {number(loss)} at epoch {epochs(line['epoch'])}; guessing has"
        f" {number(chance)}."
      )
      advice = "The learning rate is near its limit; try a lower one."
      return Check("Learning", WATCH, text, advice)
    lowest = min(lowest, loss)
  return None


def _dead_units(train: Sequence[Line]) -> Check:
  name = "Dead units"
  measured = [_by_layer(line, "dead_") for line in train]
  last = next(filter(None, reversed(measured)), None)
  if last is None:
    return Check(name, UNKNOWN, "Not measured (diagnose_every_lines = 0).")
  layer = max(last, key=last.__getitem__)
  text = (
    f"At most {percent(last[layer])} of a layer's units ({layer}) are zero for"
    " all images of the diagnostics."
  )
  watch, bad = DEAD
  if last[layer] < watch:
    return Check(name, GOOD, text)
  advice = "Lower the learning rate, or start with larger biases."
  return Check(name, BAD if last[layer] >= bad else WATCH, text, advice)


def _updates(train: Sequence[Line]) -> Check:
  name = "Size of updates"
  rate = max((line.get("learning_rate") or 0 for line in train), default=0)
  readings: dict[str, list[float]] = {}
  for line in train:
    if (line.get("learning_rate") or 0) >= rate / 2:
      for layer, ratio in _by_layer(line, "update_ratio_").items():
        readings.setdefault(layer, []).append(ratio)
  if not readings:
    return Check(name, UNKNOWN, "Not measured.")
  ratios = {layer: statistics.median(r) for layer, r in readings.items()}
  low, high = (f(ratios, key=ratios.__getitem__) for f in (min, max))
  text = (
    "At the highest learning rate one update changes a layer's weights by"
    f" {_share(ratios[low])} ({low}) to {_share(ratios[high])} ({high}) of"
    " their norm."
  )
  if ratios[high] > EXPLODING:
    advice = "The updates are very large. Lower `schedule.learning_rate`."
    return Check(name, BAD, text, advice)
  if ratios[low] < VANISHING:
    advice = (
      f"The updates of {low} vanish. Look at the standard deviation of the"
      " initial weights (`network.LAYER.std`)."
    )
    return Check(name, WATCH, text, advice)
  return Check(name, GOOD, text)


def _overfitting(train: Sequence[Line], validation: Sequence[Line]) -> Check:
  name = "Overfitting"
  best = best_evaluation(validation)
  error = mean(last_epoch(train), "top1_error")
  if best is None or error is None:
    return Check(name, UNKNOWN, "The run has not been evaluated yet.")
  last = next(x for x in reversed(validation) if x["top1_error"] is not None)
  text = (
    f"Training error {percent(error)} in the last epoch (with dropout and"
    f" augmentation), validation error {percent(last['top1_error'])}."
  )
  rise = last["top1_error"] - best["top1_error"]
  # A rise within the interval of the best error may be chance.
  _, high = interval(best["top1_error"], best.get("num_examples", 1000))
  if rise >= RISE and last["top1_error"] > high:
    text += (
      f" The lowest was {percent(best['top1_error'])} at epoch"
      f" {epochs(best['epoch'])}."
    )
    advice = (
      "The validation error has risen. Use `--checkpoint=best`; let the"
      " learning rate fall earlier, or train for fewer epochs."
    )
    return Check(name, WATCH, text, advice)
  gap = last["top1_error"] - error
  if gap > GAP:
    text += f" The gap is {points(gap)[1:]}."
    advice = "Use more images, more augmentation or a narrower network."
    return Check(name, WATCH, text, advice)
  return Check(name, GOOD, text)


def _input(train: Sequence[Line]) -> Check:
  name = "Input pipeline"
  measured = [line for line in train if line.get("images_per_second")]
  waiting = mean(measured, "data_wait_fraction")
  if waiting is None:
    return Check(name, UNKNOWN, "No speed has been logged yet.")
  speed = statistics.median(line["images_per_second"] for line in measured)
  text = (
    f"The devices waited for images {percent(waiting)} of the time; median"
    f" speed {number(speed)} images/s."
  )
  if waiting < WAITING:
    return Check(name, GOOD, text)
  advice = (
    "The input pipeline limits the speed. Prepare the images once (`python -m"
    " alexnet_jax.prepare`), and measure it with `python -m"
    " alexnet_jax.benchmark input`."
  )
  return Check(name, WATCH, text, advice)


def _skipped_images(train: Sequence[Line]) -> list[Check]:
  skipped = sum(line.get("undecodable") or 0 for line in train)
  if not skipped:
    return []
  text = f"{skipped:,} times an image could not be decoded and was skipped."
  advice = "`python -m alexnet_jax.prepare --check` lists these images."
  return [Check("Skipped images", WATCH, text, advice)]


def _by_layer(line: Line, prefix: str) -> dict[str, float]:
  return {
    key.removeprefix(prefix): value
    for key, value in line.items()
    if key.startswith(prefix) and value is not None
  }


def _share(ratio: float) -> str:
  """A small share with two significant digits, such as "0.012%"."""
  return f"{100 * ratio:.2g}%" if ratio >= 1e-6 else f"{ratio:.0e}"


def verdict(found: Sequence[Check]) -> str:
  """All checks in a few words, such as "good (6 of 6 checks pass)"."""
  wrong = [check.name.lower() for check in found if check.verdict == BAD]
  watch = [check.name.lower() for check in found if check.verdict == WATCH]
  if wrong:
    return f"problem ({', '.join(wrong + watch)})"
  if watch:
    return f"needs a look ({', '.join(watch)})"
  known = sum(check.verdict == GOOD for check in found)
  if not known:
    return "not known yet"
  return f"good ({known} of {len(found)} checks pass)"
