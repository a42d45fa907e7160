"""Lists every collective in the compiled training and evaluation step.

  python -m alexnet_jax.audit --config=configs/paper.py --mesh=data:1,model:2
  python -m alexnet_jax.audit --config=configs/paper.py --topology=v5e:2x4
  python -m alexnet_jax.audit --config=configs/paper.py --topology=h100:2x8

The exit status is 1 if the collectives between towers are not exactly those
that the configuration's network.exchanges declares. With --topology the
programs are compiled for a TPU slice or for hosts of NVIDIA GPUs, by the real
compiler; neither TPU nor GPU is needed.
"""

import collections
import dataclasses
import json
import sys

from absl import flags
from rich.console import Console
from rich.table import Table

from alexnet_jax.analysis import programs, roofline, topologies
from alexnet_jax.analysis.chips import CHIPS, Chip
from alexnet_jax.analysis.collectives import GRADIENTS
from alexnet_jax.analysis.programs import Audit
from alexnet_jax.analysis.roofline import Roofline
from alexnet_jax.analysis.traffic import Traffic
from alexnet_jax.model import sharding
from alexnet_jax.model.sharding import DATA, MODEL
from alexnet_jax.runtime import command, paths
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.runtime.progress import waiting
from alexnet_jax.training.job import make_recipe


def main() -> int:
  """Returns the exit status: 1 if a program differs from the declaration."""
  flag = flags.FLAGS
  config, topology = flag.config, flag.topology
  towers = config.network.towers
  mesh = programs.make_mesh(config.mesh, flag.mesh, towers, topology)
  where = sharding.describe_mesh(mesh)
  print(
    "compiling the training and the evaluation step for"
    f" {topology or 'this machine'}, mesh {where}, batch size"
    f" {config.batch_size}",
    file=sys.stderr,
  )
  with waiting("compiling, which takes a minute, for TPUs up to ten"):
    result = programs.audit(make_recipe(config), mesh)
  values = programs.to_json(result)
  _print_collectives(result, f"Collectives of {configs.path()} on {where}")
  _print_exchanges(result)
  if result.traffic:
    _print_traffic(result.traffic)
  if topology:
    chip = CHIPS[topology.split(":")[0]]
    bounds = roofline.roofline(result, chip)
    _print_estimate(result, topology, chip, bounds)
    values |= {"topology": topology, "roofline": dataclasses.asdict(bounds)}
  if flag.json:
    write_atomic(flag.json, json.dumps(values, indent=2) + "\n")
  for finding in result.findings:
    print(f"NOT AS DECLARED: {finding}")
  if not result.findings:
    exchanges = ", ".join(config.network.exchanges) or "no layer"
    print(f"as declared: the towers exchange at {exchanges} and nowhere else")
  return 1 if result.findings else 0


def _print_collectives(result: Audit, title: str) -> None:
  table = Table(*programs.HEADINGS, title=title, pad_edge=False)
  table.columns[-1].justify = "right"
  for row in programs.rows(result):
    table.add_row(*row)
  Console().print(table)


def _print_exchanges(result: Audit) -> None:
  """What is exchanged between towers, beside what is declared."""
  images = result.batch_size // result.mesh[DATA]
  title = f"Between towers, one training step of {images} images per device"
  table = Table("pass", "layer", title=title)
  headings = ("numbers per image", "bytes as float32", "bytes as compiled")
  for heading in (*headings, "bytes sent by a device"):
    table.add_column(heading, justify="right")
  compiled, sent = collections.Counter(), collections.Counter()
  for found in result.collectives:
    if found.program == "train":
      place = found.phase, found.layer
      compiled[place] += found.bytes
      sent[place] += roofline.sent_bytes(
        found.op, found.bytes, result.mesh[MODEL]
      )
  for item in result.declared["train"]:
    place, numbers = (item.phase, item.layer), item.numbers
    sizes = (numbers // images, 4 * numbers, compiled[place], sent[place])
    table.add_row(*place, *(f"{size:,.0f}" for size in sizes))
  if result.declared["train"]:
    Console().print(table)
  gradients = compiled["update", GRADIENTS]
  if gradients:
    print(f'gradients summed over "data": {gradients:,} bytes per device')


def _print_traffic(traffic: Traffic) -> None:
  """The kernels of the training step and the memory they read and write."""
  table = Table("pass", "layer", title="Memory traffic of one training step")
  for heading in ("kernels", "MB"):
    table.add_column(heading, justify="right")
  for row in traffic.layers:
    sizes = f"{row.kernels:,}", f"{row.bytes / 1e6:,.1f}"
    table.add_row(row.phase, row.layer, *sizes)
  table.add_section()
  total = f"{traffic.kernels:,}", f"{traffic.bytes / 1e6:,.1f}"
  table.add_row("all", "", *total)
  Console().print(table)


def _print_estimate(
  result: Audit, topology: str, chip: Chip, bounds: Roofline
) -> None:
  needed = result.memory["arguments"] + result.memory["temporary"]
  slowest, fastest = (
    result.batch_size / bounds.seconds(overlap=overlap)
    for overlap in (False, True)
  )
  counted = "the compiler's count" if result.flops else "products and kernels"
  flops, moved = roofline.flops(result), roofline.moved_bytes(result)
  print(
    f"{topology}, from published figures ({chip.source}):\n"
    f"  memory: {needed / 1e9:.2f} GB of {chip.memory / 1e9:.1f} GB per"
    " device\n"
    f"  {counted} per device and step: {flops / 1e9:.1f} GFLOP"
    f" ({result.products}), {moved / 1e9:.2f} GB\n"
    f"  lower bounds per step: {1e3 * bounds.compute:.2f} ms compute,"
    f" {1e3 * bounds.memory:.2f} ms memory,"
    f" {1e3 * bounds.exchange:.2f} ms exchanges and"
    f" {1e3 * bounds.gradients:.2f} ms gradients over the links,"
    f" {1e3 * bounds.network:.2f} ms network\n"
    f"  estimate, not measured: {slowest:,.0f} images/s without overlap of"
    f" communication and compute, {fastest:,.0f} with full overlap"
  )


if __name__ == "__main__":
  configs.DEFINE_config()
  flags.DEFINE_string(
    "mesh", "", "devices, such as data:1,model:2; default: the configuration's"
  )
  flags.DEFINE_string("topology", "", topologies.HELP)
  paths.DEFINE_output("json", None, "JSON file for the result")
  command.run(main)
