"""One self-contained page with everything that runs know.

  python -m alexnet_jax.report --workdir=DIR[,DIR...] --output=FILE.html

Curves, the paper's tables, Figures 3 and 4, exchanges, throughput, what
differs from configs/paper.py, and the environment. The page loads nothing from
elsewhere: it opens offline, on a phone, and can be sent by mail.
"""

import contextlib
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from rich.progress import track

from alexnet_jax import audit as audits
from alexnet_jax import (
  command,
  comparison,
  datasets,
  evaluate,
  figures,
  metrics,
  network,
  page,
  sharding,
  step,
)
from alexnet_jax import config as configs
from alexnet_jax.augment import Augmentation
from alexnet_jax.command import UserError
from alexnet_jax.comparison import Ours
from alexnet_jax.images import UndecodableImage, decode, rescale
from alexnet_jax.input_pipeline import evaluation_batches
from alexnet_jax.model import AlexNet
from alexnet_jax.optimizer import momentum_sgd
from alexnet_jax.page import Html, element

PREDICTIONS = 8  # images on the left of Figure 4
QUERIES = 5  # and on its right
NEIGHBOURS = 6
THUMBNAIL = 96  # pixels
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
  config = evaluate.load_config(workdir)
  mesh = sharding.make_mesh(towers=config["network"]["towers"])
  net, metadata = None, {}
  if (pathlib.Path(workdir) / "checkpoints").is_dir():
    net, metadata = evaluate.load_net(workdir, mesh)
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
  for run in runs:
    suffix = f": {run.workdir}" if len(runs) > 1 else ""
    parts += _section(f"Figure 3{suffix}", _figure3, run)
    parts += _section(
      f"Figure 4{suffix}", lambda run: _figure4(run, search, data_dir), run
    )
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
    "images_per_second": "images/s",
    "data_wait_fraction": "fraction",
  }
  diagnostics = sorted(known - both.keys() - training.keys() - set(_NO_CURVE))
  charts = []
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
      charts.append(page.chart(title, "epoch", unit, curves))
  note = "Drag over a chart to zoom into a range. Training lines are single"
  note += " batches, augmented and with dropout; validation is one view."
  return page.join(
    [
      element("h2", "Curves"),
      element("p", note, class_="note"),
      element("div", *charts, class_="charts"),
    ]
  )


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
  note = (
    f"These runs are on {datasets_here}. Ours is what has been measured and"
    " committed; `python -m experiments.paper_tables --workdir=...` evaluates"
    " runs on ImageNet for these tables."
  )
  return page.join(
    [
      element("h2", "The paper's numbers"),
      element("p", note, class_="note"),
      page.table(headings, lines(errors)),
      element(
        "details",
        element("summary", "Sizes and settings of the text"),
        page.table(headings, lines(sizes)),
      ),
    ]
  )


def _figure3(run: Run) -> Html:
  if run.net is None or run.config["network"]["channels"] != 3:
    raise UserError("there is no checkpoint of a network that sees colours.")
  kernels = figures.kernels(run.net)
  scores = figures.colour_scores(kernels)
  parts = []
  for index, tower in enumerate(kernels):
    grid = figures.kernel_grid(tower)
    text = f"Tower {index}: mean colour score {scores[index].mean():.3f}"
    image = page.picture(grid, f"kernels of tower {index}")
    parts += [element("p", text), image]
  note = (
    "conv1's kernels, each stretched to its own range. The colour score is the"
    " share of a kernel's energy that red, green and blue do not have in"
    " common: grey 0, random weights 0.667."
  )
  parts.insert(0, element("p", note, class_="note"))
  if len(kernels) == 2:
    parts.append(element("p", _verdict(figures.specialisation(scores))))
  return page.join(parts)


def _verdict(found: figures.Specialisation) -> str:
  first, second = found.means
  said = "have specialised" if found.appears else "have not specialised"
  return (
    f"The towers {said} (section 6.1): tower {found.tower} is the more coloured"
    f" one, {first:.3f} and {second:.3f}; a random deal of the same kernels"
    f" differs as much with probability {found.p_value:.4f}."
  )


def _figure4(run: Run, search: int, data_dir: str) -> Html:
  if run.net is None:
    raise UserError("there is no checkpoint yet.")
  config = run.config
  data_dir = data_dir or config["data_dir"]
  train, test = (
    datasets.open_split(config["dataset"], config["splits"][split], data_dir)
    for split in ("train", "validation")
  )
  seen = evaluate.run_statistics(config, train, run.mesh)
  chosen = np.linspace(0, len(test) - 1, PREDICTIONS).astype(int)
  images, labels = _images(test, chosen, config["image_size"])
  on_device = place(images, run.mesh)
  predict = step.make_predict(run.net.towers.network, 1, run.mesh)
  features = figures.make_features(run.net, run.mesh)
  said = np.asarray(predict(run.net, on_device, seen))[:PREDICTIONS]
  queries = np.asarray(features(run.net, on_device, seen))[:QUERIES]

  searched = search or len(train)
  size = config["batch_size"]
  size += -size % run.mesh.shape[sharding.DATA]
  batches = evaluation_batches(
    train, batch_size=size, size=config["image_size"]
  )
  total = -(-searched // size)

  def vectors():
    shown = track(batches, "Figure 4: training images", total, transient=True)
    for _, batch in zip(range(total), shown, strict=False):
      placed = jax.device_put(batch["image"], sharding.batch_sharding(run.mesh))
      real = (batch["weight"] > 0) & (batch["index"] < searched)
      found = np.asarray(features(run.net, placed, seen))
      yield found[real], batch["index"][real]

  numbers, distances = figures.nearest(queries, vectors(), NEIGHBOURS)
  near, near_labels = _images(train, numbers.ravel(), config["image_size"])
  names = train.class_names
  right = []
  for i in range(len(queries)):
    right.append(_thumbnail(images[i], names[labels[i]]))
    for j in range(numbers.shape[1]):
      k = i * numbers.shape[1] + j
      text = f"{names[near_labels[k]]} {distances[i, j]:.3g}"
      right.append(_thumbnail(near[k], text))
  note = (
    f"{PREDICTIONS} images of {test.name}, evenly spaced, with the five most"
    " probable labels; the correct one is red. Below, the first"
    f" {len(queries)} of them and the {NEIGHBOURS} nearest of {searched:,}"
    " training images by Euclidean distance in the last hidden layer, exact;"
    " the number is the distance."
  )
  return page.join(
    [
      element("p", note, class_="note"),
      element("div", *_predictions(images, labels, said, names),
              class_="predictions"),
      element("h3", "Nearest training images"),
      element("div", *right, class_="neighbours"),
    ]
  )  # fmt: skip


def _predictions(images, labels, said, names) -> list[Html]:
  best, probabilities = figures.most_probable(said)
  found = []
  for image, label, order, values in zip(
    images, labels, best, probabilities, strict=True
  ):
    bars = [
      element(
        "div",
        element("b", style=f"width: {value:.1%}"),
        f"{names[other]} {value:.0%}",
        class_="bar correct" if other == label else "bar",
      )
      for other, value in zip(order, values, strict=True)
    ]
    found.append(
      element(
        "div",
        page.picture(_small(image), "validation image", "JPEG"),
        element("p", names[label], class_="true"),
        *bars,
      )
    )
  return found


def _thumbnail(image: np.ndarray, text: str) -> Html:
  picture = page.picture(_small(image), "training image", "JPEG")
  return element("div", picture, element("br"), text)


def _small(image: np.ndarray) -> np.ndarray:
  size = (THUMBNAIL, THUMBNAIL)
  return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _images(source: datasets.Source, indices: Sequence[int], size: int):
  """uint8[N,S,S,3] and the labels of some examples, black where damaged."""
  found = np.zeros((len(indices), size, size, 3), np.uint8)
  labels = []
  for i, index in enumerate(indices):
    encoded, label = source[int(index)]
    labels.append(label)
    with contextlib.suppress(UndecodableImage):
      found[i] = rescale(decode(encoded), size)
  return found, labels


def place(images: np.ndarray, mesh: Mesh) -> jax.Array:
  """A batch on the devices, filled up so that it divides."""
  missing = -len(images) % mesh.shape[sharding.DATA]
  filled = np.concatenate([images, images[:missing]])
  return jax.device_put(filled, sharding.batch_sharding(mesh))


def _exchanges(run: Run) -> Html:
  config = run.config
  found = audits.audit(
    network.from_dict(config["network"], config["num_classes"]),
    Augmentation(**config["augmentation"]),
    momentum_sgd(**config["optimizer"]),
    run.mesh,
    batch_size=config["batch_size"],
    image_size=config["image_size"],
  )
  rows = [
    (
      entry["program"],
      entry["pass"],
      entry["layer"],
      entry["op"],
      " and ".join(entry["axes"]),
      entry["dtype"],
      f"{entry['bytes']:,}",
    )
    for entry in audits.to_json(found)["collectives"]
  ]
  verdict = "; ".join(found.findings) or (
    "As declared: the towers meet at "
    + ", ".join(config["network"]["exchanges"])
    + " and nowhere else."
  )
  where = sharding.describe_mesh(run.mesh)
  text = f"Compiled here for {where}, batch size {config['batch_size']}."
  if not rows:
    text += " One device holds everything: nothing crosses devices."
  headings = ("program", "pass", "layer", "operation", "over", "type")
  return page.join(
    [
      element("p", verdict),
      element("p", text, class_="note"),
      page.table((*headings, "bytes on a device, a step"), rows),
    ]
  )


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
    pathlib.Path(flag.output).write_text(text, encoding="utf-8")
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
