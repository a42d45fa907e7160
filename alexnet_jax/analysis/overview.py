"""The first section of the report: what matters for this run.

What was trained, how good it is and compared with what, whether the training
was healthy, and what to do next.
"""

import pathlib
import shlex
from collections.abc import Sequence

from alexnet_jax.analysis import claims, comparison, health, page
from alexnet_jax.analysis.differences import in_short
from alexnet_jax.analysis.health import (
  BAD,
  GOOD,
  UNKNOWN,
  WATCH,
  Check,
  Line,
)
from alexnet_jax.analysis.number_format import epochs, percent
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.analysis.run_facts import describe_training, evaluation_of
from alexnet_jax.runtime import config_files, status
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import metrics
from alexnet_jax.training import runs as stored_runs
from alexnet_jax.training.runs import Run

MAX_OTHER_RUNS = 5  # of the same folder that are compared
_MARKS = {GOOD: "✓", WATCH: "!", BAD: "✗", UNKNOWN: "?"}


def overview(run: Run) -> Html:
  """The first section of a report about one run."""
  found = health.checks(run.lines, run.config["num_classes"])
  parts = [element("p", describe_training(run)), _headline(run)]
  parts.append(ending_note(run))
  parts.append(element("h3", "Compared with"))
  parts.append(_comparisons(run))
  parts += [element("h3", "Health: ", health.verdict(found)), check_list(found)]
  parts += [element("h3", "What next"), _next_steps(run, found)]
  return page.join(parts)


def _headline(run: Run) -> Html:
  """The validation error in large type, with its interval."""
  line = evaluation_of(run)
  if line is None:
    text = "The run has not been evaluated yet."
    return element("p", text, class_="note")
  low, high = health.interval(line["top1_error"], line["num_examples"])
  which = f"{run.checkpoint} checkpoint, step {run.step:,}"
  if line["step"] != run.step:
    which = f"step {line['step']:,}; no checkpoint of this step was read"
  about = (
    f"95% interval {percent(low)} to {percent(high)}: one view of"
    f" {line['num_examples']:,} images; {which}"
  )
  return element(
    "div",
    element("b", percent(line["top1_error"])),
    element("span", "validation top-1 error"),
    element("small", about),
    class_="headline",
  )


def ending_note(run: Run) -> Html:
  """Why the run has ended early, or its last attempt; else nothing."""
  reason = _early_stop(run)
  sentence = status.last_attempt(run.workdir)
  if reason:
    sentence = f"finished at epoch {epochs(run.lines[-1]['epoch'])}: {reason}"
  if not sentence:
    return Html("")
  text = f"{sentence[0].upper()}{sentence[1:]}".removesuffix(".") + "."
  return element("p", text, class_="ending")


def check_list(found: Sequence[Check]) -> Html:
  """The checks of a run as a list, with their marks and advice."""
  items = []
  for check in found:
    mark = element("b", _MARKS[check.verdict], title=check.verdict)
    name = element("strong", f"{check.name}. ")
    advice = [" ", element("em", _with_code(check.advice))]
    text = element("span", name, check.text, *advice)
    items.append(element("li", mark, text, class_=check.verdict))
  return element("ul", *items, class_="checks")


def _with_code(text: str) -> Html:
  """The text, with code where it has `backticks`."""
  parts = text.split("`")
  return page.join(
    page.code(part) if i % 2 else part for i, part in enumerate(parts)
  )


def _comparisons(run: Run) -> Html:
  """A table of errors: the checkpoint, guessing, other evaluations and runs."""
  line, validation = evaluation_of(run), run.split("validation")
  rows: list[tuple[Html, str, str]] = []

  def add(name: str, found: Line, note: str) -> None:
    top1, top5 = (percent(found.get(f"top{k}_error")) for k in (1, 5))
    rows.append((_noted(name, note), top1, top5))

  if line:
    add("this checkpoint", line, f"epoch {epochs(line['epoch'])}")
    before = [x for x in validation if x["step"] < line["step"]]
    if before:
      add(
        "evaluation before", before[-1], f"epoch {epochs(before[-1]['epoch'])}"
      )
    best = health.best_evaluation(validation)
    if best and best["top1_error"] < line["top1_error"]:
      add("best evaluation", best, f"epoch {epochs(best['epoch'])}")
  classes = run.config["num_classes"]
  guessing = {f"top{k}_error": 1 - min(k / classes, 1) for k in (1, 5)}
  add("guessing", guessing, f"{classes:,} classes of equal size")
  rows += _paper(run)
  for other, last in _other_runs(run):
    name = pathlib.Path(other.workdir).name
    note = f"same images; {in_short(run.config, other.config)}"
    add(f"run {name}", last, note)
  return page.table(("", "top-1 error", "top-5 error"), rows)


def _noted(name: str, note: str) -> Html:
  """A name and, on the next line, a note about it."""
  return page.join([name, element("br"), element("small", note)])


def _paper(run: Run) -> list[tuple[Html, str, str]]:
  """The paper's errors of this network, if the run is on its images."""
  dataset = run.config["dataset"]
  if not comparison.is_in_the_paper(dataset):
    return []
  known = [name for name in config_files.names() if name != "finetune"]
  name = comparison.name_of(run.config, known)
  found: dict[str, dict[str, str]] = {}
  for claim in claims.ERRORS:
    net = claim.net
    if not net or net.minus or net.nets != 1 or name not in net.configs:
      continue
    if comparison.without_version(dataset) == net.dataset:
      where = f"{claim.where}, {claim.what}; {net.views} views"
      found.setdefault(where, {})[claim.measure] = f"{claim.paper}%"
  rows = []
  for where, values in found.items():
    top1, top5 = (values.get(f"top-{k} error", "-") for k in (1, 5))
    rows.append((_noted("the paper", where), top1, top5))
  return rows


def _other_runs(run: Run) -> list[tuple[Run, Line]]:
  """Evaluated runs of the same images in the same folder, the newest first."""
  own, found = pathlib.Path(run.workdir).resolve(), []
  try:
    files = list(own.parent.glob(f"*/{metrics.FILE_NAME}"))
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
  except OSError:
    return []
  for path in files:
    if path.parent == own or len(found) == MAX_OTHER_RUNS:
      continue
    try:
      config = stored_runs.load_config(str(path.parent))
    except UserError:
      continue
    keys = ("dataset", "num_classes", "splits", "holdout")
    if any(config.get(key) != run.config.get(key) for key in keys):
      continue
    lines = metrics.read(str(path.parent))
    other = Run(str(path.parent), config, lines, None, {}, run.mesh)
    if line := evaluation_of(other):
      found.append((other, line))
  return found


def _next_steps(run: Run, found: Sequence[Check]) -> Html:
  """What a user would do now, with the commands."""
  workdir = shlex.quote(run.workdir)
  steps: list[tuple[str, str]] = []
  if run.lines and not _is_complete(run):
    steps.append(("Resume it: run the training command again.", ""))
  if run.net is None:
    steps.append(
      ("Wait for the first checkpoint; it follows an evaluation.", "")
    )
  elif any(check.verdict == BAD for check in found):
    steps.append(("Correct what is marked ✗ above before training longer.", ""))
  else:
    if _is_improving(run):
      text = (
        "Train longer: the last evaluation was clearly the best one. Run the"
      )
      steps.append(
        (
          f"{text} training command again with a larger number:",
          "--config.total_epochs=N",
        )
      )
    best = health.best_evaluation(run.split("validation"))
    line = evaluation_of(run)
    if line and best and best["top1_error"] < line["top1_error"]:
      text = "Use the checkpoint with the lowest validation error:"
      steps.append((text, "--checkpoint=best"))
    command = f"python -m alexnet_jax.predict --workdir={workdir} PICTURE"
    steps.append(("Classify a picture:", command))
    command = f"python -m alexnet_jax.evaluate --workdir={workdir} --views=10"
    steps.append(("Evaluate with the paper's ten views:", command))
    command = (
      f"python -m alexnet_jax.report --workdir={workdir},OTHER"
      " --output=both.html"
    )
    steps.append(("Compare it with another run:", command))
  items = []
  for text, command in steps:
    code = [" ", page.code(command)] if command else []
    items.append(element("li", text, *code))
  return element("ol", *items, class_="next")


def _early_stop(run: Run) -> str:
  """Why the run has ended before its last step; "" if it has not."""
  if not run.lines:
    return ""
  return stored_runs.stopped_early(run.workdir, run.config["early_stopping"])


def _is_complete(run: Run) -> bool:
  last, config = run.lines[-1], run.config
  if _early_stop(run):
    return True
  if config["total_steps"]:
    return last["step"] >= config["total_steps"]
  return last["epoch"] >= config["total_epochs"]


def _is_improving(run: Run) -> bool:
  """Whether the last evaluation is better than the one before beyond chance."""
  errors = [
    line
    for line in run.split("validation")
    if line.get("top1_error") is not None
  ]
  if len(errors) < 2 or not _is_complete(run):
    return False
  before, last = errors[-2:]
  low, _ = health.interval(before["top1_error"], before["num_examples"])
  return last["top1_error"] < low
