"""One self-contained page with everything that runs know.

  python -m alexnet_jax.report --workdir=DIR[,DIR...] --output=FILE.html

Curves, the paper's tables, Figures 3 and 4, exchanges, throughput, what
differs from configs/paper.py, and the environment. The page loads nothing from
elsewhere: it opens offline, on a phone, and can be sent by mail.
"""

import json
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from jax.sharding import Mesh

from alexnet_jax.analysis import comparison, exchanges, gallery, page
from alexnet_jax.analysis.comparison import Ours
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.runtime import command
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.training import metrics, recipe
from alexnet_jax.training import runs as stored_runs
from alexnet_jax.training.checkpoint import latest_step

PAPER = "configs/paper.py"


class Run(NamedTuple):
  """What is on disk of a run.

  Attributes:
    workdir: its folder, the run's name.
    config: as it began.
    lines: of metrics.jsonl.
    net: of the newest checkpoint, or None if there is none.
    metadata: saved with it.
    mesh: that `net` lies on here.
  """

  workdir: str
  config: dict[str, Any]
  lines: list[dict[str, Any]]
  net: AlexNet | None
  metadata: dict[str, Any]
  mesh: Mesh


def load(workdir: str) -> Run:
  """Reads a run.

  Raises:
    UserError: `workdir` holds none.
  """
  config = stored_runs.load_config(workdir)
  mesh = sharding.make_mesh(towers=config["network"]["towers"])
  net, metadata = None, {}
  if latest_step(f"{workdir}/checkpoints") >= 0:
    net, metadata = stored_runs.load_net(workdir, mesh)
  return Run(workdir, config, metrics.read(workdir), net, metadata, mesh)


def make(workdirs: Sequence[str], search: int = 0, data_dir: str = "") -> str:
  """The page.

  Args:
    workdirs: of the runs.
    search: how many training images to search for neighbours; 0: all.
    data_dir: "" for the configurations'.
  """
  runs = [load(workdir) for workdir in workdirs]
  title = "AlexNet: " + ", ".join(workdirs)
  parts: list[Any] = [element("h1", title), _summary(runs), _curves(runs)]
  parts.append(_paper_tables(runs))

  def figure4(run: Run) -> Html:
    return gallery.figure4(run.net, run.config, run.mesh, search, data_dir)

  for run in runs:
    suffix = f": {run.workdir}" if len(runs) > 1 else ""
    parts += _section(
      f"Figure 3{suffix}", lambda run: gallery.figure3(run.net), run
    )
    parts += _section(f"Figure 4{suffix}", figure4, run)
    parts += _section(f"Exchanges{suffix}", _exchanges, run)
  parts += [_differences(runs), _environment(runs)]
  return page.document(title, page.join(parts))


def _section(
  title: str, content: Callable[[Run], Html], run: Run
) -> list[Html]:
  """A section, or the reason why there is none."""
  try:
    return [element("h2", title), content(run)]
  except UserError as error:
    return [element("h2", title), element("p", error, class_="note")]


def _summary(runs: Sequence[Run]) -> Html:
  rows = []
  for run in runs:
    validation = [ln for ln in run.lines if ln["split"] == "validation"]
    speed = [ln["images_per_second"] for ln in _training(run)]
    speed = [images for images in speed if images]
    last = validation[-1] if validation else {}
    rows.append(
      (
        run.workdir,
        run.config["dataset"],
        f"{run.lines[-1]['epoch']:.4g}" if run.lines else "-",
        _percent(last.get("top1_error")),
        _percent(last.get("top5_error")),
        f"{run.lines[-1]['seconds'] / 60:.1f}" if run.lines else "-",
        f"{statistics.median(speed):,.0f}" if speed else "-",
      )
    )
  return page.table(
    (
      "run",
      "data",
      "epochs",
      "validation top-1 error, one view",
      "top-5 error",
      "minutes",
      "images/s, median",
    ),
    rows,
  )


def _training(run: Run) -> list[dict[str, Any]]:
  return [line for line in run.lines if line["split"] == "train"]


def _percent(error: float | None) -> str:
  return "-" if error is None else f"{error:.2%}"


def _curves(runs: Sequence[Run]) -> Html:
  """Every number of metrics.jsonl that anybody would look at over time."""
  known = {key for run in runs for line in run.lines for key in line}
  both = {"loss": "", "top1_error": "fraction", "top5_error": "fraction"}
  training = {
    "learning_rate": "",
    "images_per_second": "",
    "data_wait_fraction": "",
  }
  diagnostics = sorted(known - both.keys() - training.keys() - set(_NO_CURVE))
  charts = {}
  for key, unit in (both | training | dict.fromkeys(diagnostics, "")).items():
    if key not in known:
      continue
    curves = {}
    for run in runs:
      for split in ("train", "validation"):
        points = [
          (line["epoch"], line[key])
          for line in run.lines
          if line["split"] == split and isinstance(line.get(key), int | float)
          # The first line after a pause has no speed yet.
          if line[key] or key != "images_per_second"
        ]
        name = split if len(runs) == 1 else f"{run.workdir} {split}"
        curves[name] = points
    if any(curves.values()):
      title = key.replace("top1", "top-1").replace("top5", "top-5")
      title = title.replace("_", " ")
      charts[key] = page.chart(title, "epoch", unit, curves)
  inside = [charts.pop(key) for key in diagnostics if key in charts]
  note = "Drag over a chart to zoom into a range. Training lines are single"
  note += " batches, augmented and with dropout; validation is one view."
  parts = [
    element("h2", "Curves"),
    element("p", note, class_="note"),
    element("div", *charts.values(), class_="charts"),
  ]
  if inside:
    summary = element("summary", "Inside the network")
    opened = element("div", *inside, class_="charts")
    parts.append(element("details", summary, opened))
  return page.join(parts)


_NO_CURVE = (
  "step",
  "epoch",
  "split",
  "seconds",
  "views",
  "num_examples",
  "undecodable",
)


def _paper_tables(runs: Sequence[Run]) -> Html:
  text = comparison.sizes(configs.load(PAPER)) if _at_root() else {}
  ours = {key: Ours(value, PAPER) for key, value in text.items()}
  rows = comparison.table(ours | comparison.committed())

  def lines(chosen):
    return [
      (
        row["where"],
        row["what"],
        row["measure"],
        *comparison.shown(row),
        row["run"],
        row["note"],
      )
      for row in chosen
    ]

  headings = ("", "", "", "paper", "logged", "ours", "difference")
  headings += ("the authors' run", "note")
  errors = [row for row in rows if not row["key"].startswith("size.")]
  sizes = [row for row in rows if row["key"].startswith("size.")]
  datasets_here = ", ".join(sorted({run.config["dataset"] for run in runs}))
  note = element(
    "p",
    f"These runs are on {datasets_here}. Ours is what has been measured and"
    " committed; ",
    element("code", "python -m experiments.paper_tables --workdir=..."),
    " evaluates runs on ImageNet for these tables.",
    class_="note",
  )
  return page.join(
    [
      element("h2", "The paper's numbers"),
      note,
      page.table(headings, lines(errors)),
      element(
        "details",
        element("summary", "Sizes and settings of the text"),
        page.table(headings, lines(sizes)),
      ),
    ]
  )


def _exchanges(run: Run) -> Html:
  return exchanges.section(recipe.from_config(run.config), run.mesh)


def _differences(runs: Sequence[Run]) -> Html:
  """The keys in which the configurations are not the paper's."""
  if not _at_root():
    text = f"there is no {PAPER} below {os.getcwd()} to compare with."
    return page.join([element("h2", "Configuration"), element("p", text)])
  paper = dict(configs.flatten(configs.to_json(configs.load(PAPER))))
  each = [dict(configs.flatten(run.config)) for run in runs]
  keys = list(paper) + sorted({key for one in each for key in one} - set(paper))
  rows = []
  for key in keys:
    values = [json.dumps(one.get(key, "absent")) for one in each]
    expected = json.dumps(paper.get(key, "absent"))
    if any(value != expected for value in values):
      rows.append((key, expected, *values))
  headings = ("key", PAPER, *(run.workdir for run in runs))
  return page.join(
    [
      element("h2", "Configuration: what differs from the paper"),
      page.table(headings, rows),
    ]
  )


def _environment(runs: Sequence[Run]) -> Html:
  rows = []
  for run in runs:
    known = {
      key: value
      for key, value in run.metadata.items()
      if key not in ("config", "schedule", "evaluation_due")
    }
    rows += [
      (run.workdir, key, value if isinstance(value, str) else json.dumps(value))
      for key, value in configs.flatten(known)
    ]
  here = f"{jax.default_backend()}, {len(jax.devices())} device(s)"
  rows.append(("this page", "made on", here))
  return page.join(
    [
      element("h2", "Environment"),
      page.table(("run", "", ""), rows),
    ]
  )


def _at_root() -> bool:
  return pathlib.Path(PAPER).is_file()


def main() -> None:
  flag = flags.FLAGS
  text = make(flag.workdir, flag.search, flag.data_dir)
  try:
    write_atomic(flag.output, text)
  except OSError as error:
    raise UserError(
      f"the report cannot be written to {flag.output}: {error.strerror}. Name"
      " a file in a folder that exists with --output."
    ) from None
  print(f"{flag.output}: {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
  flags.DEFINE_list("workdir", None, "of a run, or of several", required=True)
  flags.DEFINE_string("output", None, "HTML file to write", required=True)
  flags.DEFINE_integer("search", 0, "training images for Figure 4; 0: all")
  flags.DEFINE_string("data_dir", "", "of the data set, if it has moved")
  command.run(main)
