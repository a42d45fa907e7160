"""One training step on many meshes: where does the exchange of towers pay?

  python -m experiments.mesh_sweep [--quick] [--output=DIR]
      [--points=here/2x2/64,v5e:2x4/4x2/1024,h100:2x8/8x2/1024]
      [--executor=here|local|slurm]

A point is PLACE/DATAxMODEL/BATCH. On "here", the devices of this machine, the
step is run and timed. For TPUs and GPUs it is only compiled, by their compiler,
as `alexnet_jax.audit --topology` does, and its time is a roofline estimate from
published figures: a range from "nothing overlaps" to "all communication is
hidden". Tables, JSON and plot keep measured and estimated points apart.
Finished points are kept in --work and are not repeated. Writes mesh_sweep.json,
.csv and .png.
"""

import dataclasses
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

from alexnet_jax.analysis import programs, roofline, topologies
from alexnet_jax.analysis.chips import CHIPS
from alexnet_jax.model import sharding
from alexnet_jax.runtime import command, files, paths, processes, provenance
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.job import Recipe, make_recipe
from experiments import launch
from experiments.common.mesh_tables import (
  HERE,
  plot,
  print_tables,
  to_csv,
  where_it_pays,
)

QUICK = ("here/1x1/8", "here/1x2/8", "here/2x1/8")
DEFAULT = (
  # Strong scaling: one batch for all meshes.
  *(f"here/{mesh}/64" for mesh in ("1x1", "1x2", "2x1", "2x2", "4x1", "4x2")),
  # Weak scaling: as many images on every device.
  *("here/1x1/16", "here/1x2/32", "here/2x1/32"),
  *("v5e:1x2/2x1/256", "v5e:1x2/1x2/256"),
  *("v5e:2x4/8x1/1024", "v5e:2x4/4x2/1024"),
  *("v5e:16x16/256x1/1024", "v5e:16x16/128x2/1024"),
)


@dataclasses.dataclass(frozen=True)
class Point:
  """A place, a mesh and a batch size.

  Attributes:
    place: "here", or chips as `compile_only_devices` takes them.
    data, model: devices along the axes.
    batch_size: images per step, over all devices.
  """

  place: str
  data: int
  model: int
  batch_size: int

  @property
  def devices(self) -> int:
    """Number of devices of the mesh."""
    return self.data * self.model

  @property
  def name(self) -> str:
    """The form of --points."""
    return f"{self.place}/{self.data}x{self.model}/{self.batch_size}"


def parse_point(text: str) -> Point:
  """The point that `Point.name` names.

  Raises:
    UserError: the text does not have this form.
  """
  match = re.fullmatch(r"([^/]+)/(\d+)x(\d+)/(\d+)", text)
  if not match:
    raise UserError(
      f"--points: {text!r} is not a point. Write PLACE/DATAxMODEL/BATCH, such"
      " as here/1x2/64 or v5e:2x4/4x2/1024."
    )
  return Point(match[1], *map(int, match.groups()[1:]))


def run_point(point: Point, config: ConfigDict, repeats: int) -> dict[str, Any]:
  """Measures or estimates one point.

  Args:
    point: the place, the mesh and the batch size.
    config: the network and its training; its own mesh and batch size are not
      used.
    repeats: number of timed steps, if the step is run.

  Returns:
    The point's fields, what the audit found, and either `measured` or
    `estimated`, each with `images_per_second`; as JSON.
  """
  began = time.monotonic()
  recipe = make_recipe(config, point.batch_size)
  network = recipe.network
  here = point.place == HERE
  mesh = sharding.make_mesh(
    point.data,
    point.model,
    towers=network.towers,
    devices=None if here else topologies.compile_only_devices(point.place),
  )
  if here:
    processes.configure()
  result = programs.audit(recipe, mesh, ["train"])
  row = dataclasses.asdict(point) | {
    "seconds_to_audit": time.monotonic() - began,
    "devices": point.devices,
    "width": network.width,
    "platform": result.platform,
    "findings": result.findings,
    "totals": programs.to_json(result)["totals"],
    "exchanges": sorted(
      {
        f"{item.program} {item.phase} {item.layer} {item.op} {item.dtype}"
        for item in result.collectives
        if sharding.MODEL in item.axes
      }
    ),
    "memory": result.memory,
    "flops": roofline.flops(result),
    "products": result.products,
    "bytes_accessed": roofline.moved_bytes(result),
    "kernels": result.traffic.kernels if result.traffic else None,
  }
  if here:
    row["measured"] = _time_steps(recipe, mesh, repeats)
    row["measured"]["images_per_second"] = (
      point.batch_size / row["measured"]["seconds"]["median"]
    )
    return row
  chip = CHIPS[point.place.split(":")[0]]
  estimate = roofline.roofline(result, chip)
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
  state, *inputs = recipe.random_arguments(mesh)
  seconds = []
  for _ in range(repeats + 1):
    began = time.monotonic()
    state, metrics = train_step(state, *inputs)
    jax.block_until_ready((state, metrics))
    seconds.append(time.monotonic() - began)
  seconds = sorted(seconds[1:])  # the first step compiles
  return {
    "seconds": {
      "min": seconds[0],
      "median": float(np.median(seconds)),
      "max": seconds[-1],
    },
    "steps": repeats,
  }


def main() -> None:
  flag = flags.FLAGS
  points = flag.points or (QUICK if flag.quick else DEFAULT)
  points = [parse_point(text) for text in points]
  config = _CONFIG.value or configs.load("configs/paper.py")
  if flag.quick:
    config.network.width = 1 / 16
  work = pathlib.Path(flag.work)
  # The file name of a point depends on the configuration and the repeats.
  asked = json.dumps([configs.to_json(config), flag.repeats], sort_keys=True)
  mark = f"{zlib.crc32(asked.encode()):08x}"
  paths = {point: work / f"{_file_name(point)}_{mark}.json" for point in points}
  missing = {point: path for point, path in paths.items() if not path.exists()}
  if flag.executor == HERE:
    _run_here(missing, config, flag.repeats)
  else:
    launch.run_all(
      {_file_name(point): _command(point) for point in missing},
      executor=flag.executor,
      folder=str(work / "jobs"),
    )
  rows = [
    json.loads(path.read_text()) for path in paths.values() if path.exists()
  ]
  print_tables(rows)
  output = flag.output or (flag.work if flag.quick else "experiments/results")
  _write(rows, pathlib.Path(output))


def _run_here(
  points: dict[Point, pathlib.Path], config: ConfigDict, repeats: int
) -> None:
  """Runs points in this process; each one's row is written to its file."""
  devices = [point.devices for point in points if point.place == HERE]
  if devices:  # the first mesh of a process fixes the number of CPU devices
    sharding.make_mesh(data=max(devices), model=1)
  for point, path in points.items():
    print(f"{point.name} ...", file=sys.stderr, flush=True)
    row = run_point(point, config, repeats)
    files.write_atomic(str(path), json.dumps(row, indent=1))


def _write(rows: list[dict[str, Any]], output: pathlib.Path) -> None:
  record = provenance.record(
    "one training step over meshes and batch sizes",
    " ".join(["python -m experiments.mesh_sweep", *sys.argv[1:]]),
    {"points": rows, "where_it_pays": where_it_pays(rows)},
  )
  output.mkdir(parents=True, exist_ok=True)
  text = json.dumps(record, indent=1) + "\n"
  files.write_atomic(str(output / "mesh_sweep.json"), text)
  files.write_atomic(str(output / "mesh_sweep.csv"), to_csv(rows))
  plot(rows, output / "mesh_sweep.png")
  print(f"wrote mesh_sweep.json, .csv and .png to {output}")


def _file_name(point: Point) -> str:
  return re.sub(r"[/:]", "_", point.name)


def _command(point: Point) -> list[str]:
  """This command for a single point, with the same --work."""
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
  flags.DEFINE_bool("quick", False, "three points with a narrow network")
  flags.DEFINE_list(
    "points", [], "PLACE/DATAxMODEL/BATCH,...; default: 15 points"
  )
  flags.DEFINE_integer("repeats", 5, "number of timed steps", 1)
  paths.DEFINE_output_folder(
    "work", "runs/mesh_sweep", "folder for finished points"
  )
  paths.DEFINE_output_folder(
    "output",
    "",
    "folder of the results; default experiments/results, or --work if --quick",
  )
  flags.DEFINE_enum(
    "executor",
    HERE,
    [HERE, "local", "slurm"],
    "where points are run: in this process, or as jobs",
  )
  command.run(main)
