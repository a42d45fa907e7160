"""Tables and plots of a mesh sweep, with measured and estimated rows apart.

A row is what `mesh_sweep.run_point` returns: `place`, `data`, `model`,
`devices`, `batch_size`, and either `measured` or `estimated`.
"""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from alexnet_jax.analysis.roofline import Roofline
from experiments.common import markdown

HERE = "here"
# What limits an estimated step; the first estimates had no network.
RESOURCES = tuple(field.name for field in dataclasses.fields(Roofline))
# By kind of row, the headings of its table after those that both kinds have.
HEADINGS = {
  "measured": ("images/s, measured (least to most)",),
  "estimated": (
    *(f"{name}, ms" for name in RESOURCES),
    "images/s, estimated (nothing overlaps to all does)",
  ),
}
Row = dict[str, Any]
Line = list[tuple[int, list[float]]]  # devices, and speeds as `speeds` says


def speeds(row: Row) -> list[float]:
  """Images/s: one number if measured; without and with overlap if estimated."""
  if "measured" in row:
    return [row["measured"]["images_per_second"]]
  return list(row["estimated"]["images_per_second"].values())


def where_it_pays(rows: Sequence[Row]) -> list[Row]:
  """Speed with one tower a device over speed with both towers on each.

  Returns:
    For each place, number of devices and batch that has both meshes: `ratio`,
    images/s of `model` 2 over images/s of `model` 1. Above 1 the exchange
    pays. Estimates have two ratios, without and with overlap.
  """
  found = {}
  for row in rows:
    key = row["place"], row["devices"], row["batch_size"]
    found.setdefault(key, {})[row["model"]] = speeds(row)
  return [
    {
      "place": place,
      "devices": devices,
      "batch_size": batch_size,
      "ratio": [both / one for both, one in zip(pair[2], pair[1], strict=True)],
    }
    for (place, devices, batch_size), pair in found.items()
    if set(pair) == {1, 2}
  ]


def scaling(rows: Sequence[Row], per_device: bool) -> dict[str, Line]:
  """Lines of speed over the number of devices, for one kind of place.

  Args:
    rows: measured ones, or estimates for one chip.
    per_device: weak scaling, where every device keeps its number of images;
      otherwise strong scaling, where the batch is the same for all.

  Returns:
    By name, the lines that have two points at least.
  """
  lines: dict[tuple[int, int], Line] = {}
  for row in sorted(rows, key=lambda row: row["devices"]):
    devices, images = row["devices"], row["batch_size"]
    key = (images // devices if per_device else images, row["model"])
    lines.setdefault(key, []).append((devices, speeds(row)))
  unit = "images a device" if per_device else "images"
  towers = {1: "both towers on each", 2: "a tower a device"}
  return {
    f"{images} {unit}, {towers[model]}": points
    for (images, model), points in sorted(lines.items())
    if len(points) > 1
  }


def to_csv(rows: Sequence[Row]) -> str:
  """One line a point, with separate columns for measured and estimated."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  keys = ("place", "data", "model", "batch_size", "width")
  writer.writerow(
    [
      *keys,
      "measured_images_per_second",
      "estimated_nothing_overlaps",
      "estimated_all_overlaps",
    ]
  )
  for row in rows:
    cells = [f"{speed:.1f}" for speed in speeds(row)]
    cells = [*cells, "", ""] if "measured" in row else ["", *cells]
    writer.writerow([row[key] for key in keys] + cells)
  return text.getvalue()


def to_markdown(rows: Sequence[Row]) -> list[str]:
  """A table of the measured points and one of the estimated ones, if any."""
  tables = []
  for kind, headings in HEADINGS.items():
    cells = [_cells(row, kind) for row in rows if kind in row]
    headings = ["place", "data x model", "batch", *headings]
    align = "ll" + "r" * (len(headings) - 2)
    if cells:
      tables.append(markdown.table(headings, cells, align))
  return tables


def _cells(row: Row, kind: str) -> list[str]:
  """The cells of a point below the headings of its table."""
  seconds, text = row[kind]["seconds"], _join(speeds(row))
  if kind == "measured":
    most, least = (row["batch_size"] / seconds[name] for name in ("min", "max"))
    cells = [f"{text} ({least:.1f} to {most:.1f})"]
  else:
    bounds = [f"{1e3 * seconds.get(name, 0):.2f}" for name in RESOURCES]
    cells = [*bounds, text]
  mesh = f"{row['data']} x {row['model']}"
  return [row["place"], mesh, f"{row['batch_size']:,}", *cells]


def print_tables(rows: Sequence[Row]) -> None:
  """Prints measured points, estimated ones, and where the exchange pays."""
  for kind in HEADINGS:
    table = Table(title=f"{kind} images/s")
    for column in ("place", "mesh", "batch", "images/s", "exchanges"):
      table.add_column(column)
    for row in rows:
      if kind in row:
        table.add_row(
          row["place"],
          f"{row['data']}x{row['model']}",
          str(row["batch_size"]),
          _join(speeds(row)),
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


def _join(numbers: Sequence[float]) -> str:
  return " to ".join(f"{number:,.0f}" for number in numbers)


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Draws strong scaling, weak scaling and where the exchange pays.

  Measured points are in the first row, estimates in the next one.
  """
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  kinds = [kind for kind in HEADINGS if any(kind in row for row in rows)]
  size = (14, 3.5 * len(kinds))
  figure, axes = pyplot.subplots(
    len(kinds), 3, figsize=size, layout="constrained", squeeze=False
  )
  for kind, (strong, weak, pays) in zip(kinds, axes, strict=True):
    some = [row for row in rows if kind in row]
    _draw_scaling(strong, some, kind, per_device=False)
    _draw_scaling(weak, some, kind, per_device=True)
    _draw_where_it_pays(pays, some, kind)
  figure.savefig(path, dpi=90)
  pyplot.close(figure)


def _draw_scaling(axis, rows: Sequence[Row], kind: str, per_device: bool):
  """Images/s over devices; estimates are a band between two lines."""
  chips = sorted({row["place"].partition(":")[0] for row in rows})
  lines = {
    f"{chip}: {name}": points
    for chip in chips
    for name, points in scaling(
      [row for row in rows if row["place"].partition(":")[0] == chip],
      per_device,
    ).items()
  }
  for name, points in lines.items():
    devices = [number for number, _ in points]
    slow, fast = ([found[i] for _, found in points] for i in (0, -1))
    (drawn,) = axis.plot(devices, slow, "o-", label=name)
    axis.fill_between(devices, slow, fast, alpha=0.2, color=drawn.get_color())
  what = "weak" if per_device else "strong"
  axis.set(title=f"{what} scaling, {kind}", xlabel="devices")
  axis.set_ylabel("images/s")
  if lines:
    counts = sorted({d for line in lines.values() for d, _ in line})
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, counts)
    axis.legend(fontsize=7)
  if kind == "estimated":
    axis.set_yscale("log")
  else:
    axis.set_ylim(bottom=0)


def _draw_where_it_pays(axis, rows: Sequence[Row], kind: str) -> None:
  """The ratio of each pair of meshes, a horizontal bar if it is a range."""
  pairs = where_it_pays(rows)
  for place, pair in enumerate(pairs):
    ends = [min(pair["ratio"]), max(pair["ratio"])]
    axis.plot(ends, [place, place], "o-", color="tab:blue")
  names = [
    f"{pair['place']}, {pair['devices']} devices, {pair['batch_size']} images"
    for pair in pairs
  ]
  axis.set_yticks(range(len(pairs)), names, fontsize=7)
  axis.axvline(1, color="grey", linewidth=1)
  axis.set(
    title=f"above 1 the exchange pays, {kind}",
    xlabel="images/s, a tower a device over both on each",
  )
  axis.invert_yaxis()
