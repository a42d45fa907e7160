"""One training step over meshes and batch sizes: where does it pay to exchange?

  python -m experiments.mesh_sweep [--quick] [--output=DIR]
      [--points=here/2x2/64,v5e:2x4/4x2/1024] [--executor=here|local|slurm]

A point is PLACE/DATAxMODEL/BATCH. On "here", the devices of this machine, the
step runs and is timed. On a TPU slice it is compiled only, with the real
compiler, and its time is a roofline estimate from published figures: a range,
from "nothing overlaps" to "all communication hides behind the rest". Measured
and estimated stay apart in the table, in the JSON and in the plot. A point that
has been done is not done again; --work holds them.
"""

import csv
import dataclasses
import io
import json
import pathlib
import re
import sys
import time
import zlib
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from alexnet_jax import audit
from alexnet_jax.analysis import chips
from alexnet_jax.model import sharding
from alexnet_jax.runtime import command, files, processes, provenance
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import recipe as recipes
from alexnet_jax.training.recipe import Recipe
from experiments import launch

HERE = "here"
QUICK = ("here/1x1/8", "here/1x2/8", "here/2x1/8")
LINES_OF = "v5e"  # the chip whose scaling is drawn
DEFAULT = (
  # Strong scaling, one batch for all; weak scaling, as many images a device.
  *(f"here/{mesh}/64" for mesh in ("1x1", "1x2", "2x1", "2x2", "4x1", "4x2")),
  *("here/1x1/16", "here/1x2/32", "here/2x1/32"),
  *("v5e:1x2/2x1/256", "v5e:1x2/1x2/256"),
  *("v5e:2x4/8x1/1024", "v5e:2x4/4x2/1024"),
  *("v5e:16x16/256x1/1024", "v5e:16x16/128x2/1024"),
)


@dataclasses.dataclass(frozen=True)
class Point:
  """One mesh, one batch size, one place.

  Attributes:
    place: "here" or a TPU slice such as "v5e:2x4".
    data, model: devices along the axes.
    batch_size: global.
  """

  place: str
  data: int
  model: int
  batch_size: int

  @property
  def devices(self) -> int:
    """All of the mesh."""
    return self.data * self.model

  @property
  def name(self) -> str:
    """As the command line writes it."""
    return f"{self.place}/{self.data}x{self.model}/{self.batch_size}"


def parse_point(text: str) -> Point:
  """The inverse of `Point.name`.

  Raises:
    UserError: it is not of this form.
  """
  match = re.fullmatch(r"([^/]+)/(\d+)x(\d+)/(\d+)", text)
  if not match:
    raise UserError(
      f"--points: {text!r} is no point; write PLACE/DATAxMODEL/BATCH, such as"
      " here/1x2/64 or v5e:2x4/4x2/1024."
    )
  return Point(match[1], *map(int, match.groups()[1:]))


def run_point(point: Point, config: ConfigDict, repeats: int) -> dict[str, Any]:
  """Measures or estimates one point.

  Args:
    point: where, on which mesh, how many images.
    config: of the network and its training; its mesh and batch size are not
      used.
    repeats: timed steps, if the step runs.

  Returns:
    JSON: the point's fields, what the audit found, and either `measured` or
    `estimated`, each with `images_per_second`.
  """
  began = time.monotonic()
  recipe = recipes.from_config(config.to_dict(), point.batch_size)
  network = recipe.network
  here = point.place == HERE
  mesh = sharding.make_mesh(
    point.data,
    point.model,
    towers=network.towers,
    devices=None if here else chips.slice_devices(point.place),
  )
  if here:
    processes.configure()
  result = audit.audit(recipe, mesh, ["train"])
  row = dataclasses.asdict(point) | {
    "seconds_to_audit": time.monotonic() - began,
    "devices": point.devices,
    "width": network.width,
    "platform": result.platform,
    "findings": result.findings,
    "totals": audit.to_json(result)["totals"],
    "exchanges": sorted(
      {
        f"{item.program} {item.phase} {item.layer} {item.op} {item.dtype}"
        for item in result.collectives
        if sharding.MODEL in item.axes
      }
    ),
    "memory": result.memory,
    "flops": result.flops,
    "bytes_accessed": result.bytes_accessed,
  }
  if here:
    row["measured"] = _time_steps(recipe, mesh, repeats)
    row["measured"]["images_per_second"] = (
      point.batch_size / row["measured"]["seconds"]["median"]
    )
    return row
  chip = chips.CHIPS[point.place.split(":")[0]]
  estimate = audit.roofline(result, chip)
  row["estimated"] = {
    "seconds": dataclasses.asdict(estimate),
    "images_per_second": {
      "nothing_overlaps": point.batch_size / estimate.seconds(overlap=False),
      "all_overlaps": point.batch_size / estimate.seconds(overlap=True),
    },
  }
  return row


def _time_steps(recipe: Recipe, mesh: Mesh, repeats: int) -> dict[str, Any]:
  train_step = recipe.train_step(mesh)
  state, *inputs = recipe.noise(mesh)
  seconds = []
  for _ in range(repeats + 1):
    began = time.monotonic()
    state, metrics = train_step(state, *inputs)
    jax.block_until_ready((state, metrics))
    seconds.append(time.monotonic() - began)
  seconds = sorted(seconds[1:])  # the first one compiles
  return {
    "seconds": {
      "min": seconds[0],
      "median": float(np.median(seconds)),
      "max": seconds[-1],
    },
    "steps": repeats,
  }


def where_it_pays(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Pairs of points that differ in the mesh alone: towers apart, or together.

  Returns:
    For each place, number of devices and batch: images/s of the mesh with
    `model` 2 over that with `model` 1; above 1 the exchange pays. Estimates
    have two, without and with overlap.
  """
  speeds = {}
  for row in rows:
    key = row["place"], row["devices"], row["batch_size"]
    speeds.setdefault(key, {})[row["model"]] = _speeds(row)
  return [
    {
      "place": place,
      "devices": devices,
      "batch_size": batch_size,
      "ratio": [both / one for both, one in zip(pair[2], pair[1], strict=True)],
    }
    for (place, devices, batch_size), pair in speeds.items()
    if set(pair) == {1, 2}
  ]


def _speeds(row: dict[str, Any]) -> list[float]:
  """Images a second: one if measured, two if estimated."""
  if "measured" in row:
    return [row["measured"]["images_per_second"]]
  return list(row["estimated"]["images_per_second"].values())


def to_csv(rows: list[dict[str, Any]]) -> str:
  """One line a point; measured and estimated speeds in columns of their own."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(
    [
      *("place", "data", "model", "batch_size", "width"),
      "measured_images_per_second",
      "estimated_nothing_overlaps",
      "estimated_all_overlaps",
    ]
  )
  for row in rows:
    speeds = [f"{speed:.1f}" for speed in _speeds(row)]
    empty = ["", ""] if "measured" in row else []
    writer.writerow(
      [row[key] for key in ("place", "data", "model", "batch_size", "width")]
      + (speeds + empty if "measured" in row else ["", *speeds])
    )
  return text.getvalue()


def scaling(
  rows: list[dict[str, Any]], per_device: bool
) -> dict[str, list[tuple[int, list[float]]]]:
  """Lines over the number of devices, of one kind of place.

  Args:
    rows: measured ones, or estimates for one chip.
    per_device: weak scaling, the images a device being the same; else strong
      scaling, all images being the same.

  Returns:
    By name the points (devices, images/s as of `_speeds`), two at least.
  """
  lines: dict[tuple[int, int], list[tuple[int, list[float]]]] = {}
  for row in sorted(rows, key=lambda row: row["devices"]):
    devices, images = row["devices"], row["batch_size"]
    key = (images // devices if per_device else images, row["model"])
    lines.setdefault(key, []).append((devices, _speeds(row)))
  each = "images a device" if per_device else "images"
  towers = {1: "both towers on each", 2: "a tower a device"}
  return {
    f"{images} {each}, {towers[model]}": points
    for (images, model), points in sorted(lines.items())
    if len(points) > 1
  }


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Measured above, estimated below: strong and weak scaling, what it pays."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(2, 3, figsize=(14, 7), layout="constrained")
  for kind, (strong, weak, pays) in zip(
    ("measured", "estimated"), axes, strict=True
  ):
    some = [row for row in rows if kind in row]
    lines = [r for r in some if r["place"].startswith((HERE, LINES_OF))]
    where = "on this CPU" if kind == "measured" else f"on {LINES_OF}"
    for axis, per_device in ((strong, False), (weak, True)):
      found = scaling(lines, per_device)
      for name, points in found.items():
        devices = [number for number, _ in points]
        slow, fast = ([speeds[i] for _, speeds in points] for i in (0, -1))
        (drawn,) = axis.plot(devices, slow, "o-", label=name)
        axis.fill_between(
          devices, slow, fast, alpha=0.2, color=drawn.get_color()
        )
      what = "weak" if per_device else "strong"
      axis.set(title=f"{what} scaling, {kind}", xlabel="devices")
      axis.set_ylabel(f"images/s {where}")
      if found:
        counts = sorted({d for line in found.values() for d, _ in line})
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, counts)
        axis.legend(fontsize=7)
      if kind == "estimated":
        axis.set_yscale("log")
      else:
        axis.set_ylim(bottom=0)
    pairs = where_it_pays(some)
    for place, pair in enumerate(pairs):
      low, high = min(pair["ratio"]), max(pair["ratio"])
      pays.plot([low, high], [place, place], "o-", color="tab:blue")
    names = [
      f"{pair['place']}, {pair['devices']} devices, {pair['batch_size']} images"
      for pair in pairs
    ]
    pays.set_yticks(range(len(pairs)), names, fontsize=7)
    pays.axvline(1, color="grey", linewidth=1)
    pays.set(
      title=f"above 1 the exchange pays, {kind}",
      xlabel="images/s, a tower a device over both on each",
    )
    pays.invert_yaxis()
  figure.savefig(path, dpi=90)
  pyplot.close(figure)


def to_markdown(rows: list[dict[str, Any]]) -> str:
  """Two tables: what was measured, and what was estimated."""
  tables = []
  for kind, heading in (
    ("measured", "images/s, measured (least to most)"),
    ("estimated", "images/s, estimated (nothing overlaps to all does)"),
  ):
    lines = [
      f"| place | data x model | batch | {heading} |",
      "|---|---|--:|--:|",
    ]
    for row in rows:
      if kind in row:
        speeds = " to ".join(f"{speed:,.0f}" for speed in _speeds(row))
        if kind == "measured":
          most, least = (
            row["batch_size"] / row["measured"]["seconds"][name]
            for name in ("min", "max")
          )
          speeds = f"{speeds} ({least:.1f} to {most:.1f})"
        lines.append(
          f"| {row['place']} | {row['data']} x {row['model']}"
          f" | {row['batch_size']:,} | {speeds} |"
        )
    tables.append("\n".join(lines) + "\n")
  return "\n".join(tables)


def print_table(rows: list[dict[str, Any]]) -> None:
  """Measured points, then estimated ones."""
  for kind in ("measured", "estimated"):
    table = Table(title=f"{kind} images/s")
    for column in ("place", "mesh", "batch", "images/s", "exchanges"):
      table.add_column(column)
    for row in rows:
      if kind in row:
        table.add_row(
          row["place"],
          f"{row['data']}x{row['model']}",
          str(row["batch_size"]),
          " to ".join(f"{speed:,.0f}" for speed in _speeds(row)),
          "NOT as declared" if row["findings"] else "as declared",
        )
    if table.row_count:
      Console().print(table)
  for pair in where_it_pays(rows):
    ratio = " to ".join(f"{ratio:.2f}" for ratio in pair["ratio"])
    print(
      f"{pair['place']}, {pair['devices']} devices, batch"
      f" {pair['batch_size']}: a tower a device is {ratio} times as fast as"
      " both on each"
    )


def main() -> None:
  flag = flags.FLAGS
  points = flag.points or (QUICK if flag.quick else DEFAULT)
  points = [parse_point(text) for text in points]
  config = _CONFIG.value or configs.load("configs/paper.py")
  if flag.quick:
    config.network.width = 1 / 16
  work = pathlib.Path(flag.work)
  # A point of another configuration is another point.
  asked = json.dumps([configs.to_json(config), flag.repeats], sort_keys=True)
  mark = f"{zlib.crc32(asked.encode()):08x}"
  done = {point: work / f"{_file_name(point)}_{mark}.json" for point in points}
  missing = [point for point in points if not done[point].exists()]
  if flag.executor == HERE:
    here = [point.devices for point in missing if point.place == HERE]
    if here:  # the first mesh of a process settles how many devices there are
      sharding.make_mesh(data=max(here), model=1)
    for point in missing:
      print(f"{point.name} ...", file=sys.stderr, flush=True)
      row = run_point(point, config, flag.repeats)
      files.write_atomic(str(done[point]), json.dumps(row, indent=1))
  else:
    launch.run_all(
      {_file_name(point): _command(point) for point in missing},
      executor=flag.executor,
      folder=str(work / "jobs"),
    )
  rows = [
    json.loads(path.read_text()) for path in done.values() if path.exists()
  ]
  print_table(rows)
  record = provenance.record(
    "one training step over meshes and batch sizes",
    " ".join(["python -m experiments.mesh_sweep", *sys.argv[1:]]),
    {"points": rows, "where_it_pays": where_it_pays(rows)},
  )
  output = pathlib.Path(
    flag.output or (flag.work if flag.quick else "experiments/results")
  )
  output.mkdir(parents=True, exist_ok=True)
  for suffix, text in (
    ("json", json.dumps(record, indent=1) + "\n"),
    ("csv", to_csv(rows)),
  ):
    files.write_atomic(str(output / f"mesh_sweep.{suffix}"), text)
  plot(rows, output / "mesh_sweep.png")
  print(f"wrote mesh_sweep.json, .csv and .png into {output}")


def _file_name(point: Point) -> str:
  return re.sub(r"[/:]", "_", point.name)


def _command(point: Point) -> list[str]:
  """The same command for one point, into the same --work."""
  ours = [
    argument
    for argument in sys.argv[1:]
    if not argument.startswith(("--points", "--executor", "--output"))
  ]
  return [
    *(sys.executable, "-m", "experiments.mesh_sweep"),
    *ours,
    f"--points={point.name}",
    f"--output={flags.FLAGS.work}/{_file_name(point)}",
  ]


if __name__ == "__main__":
  _CONFIG = configs.DEFINE_config(required=False)
  flags.DEFINE_bool("quick", False, "three small points")
  flags.DEFINE_list("points", [], "PLACE/DATAxMODEL/BATCH, ...")
  flags.DEFINE_integer("repeats", 5, "timed steps", 1)
  flags.DEFINE_string("work", "runs/mesh_sweep", "folder of finished points")
  flags.DEFINE_string(
    "output", "", "default experiments/results; with --quick --work"
  )
  flags.DEFINE_enum(
    "executor", HERE, [HERE, "local", "slurm"], "where the points are done"
  )
  command.run(main)
