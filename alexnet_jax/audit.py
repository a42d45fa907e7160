"""What do the towers tell each other? Read from the compiled program itself.

  python -m alexnet_jax.audit --config=configs/paper.py --mesh=data:1,model:2
  python -m alexnet_jax.audit --config=configs/paper.py --topology=v5e:2x4

Compiles the training and the evaluation step as training does and lists every
collective in them. Exit status 1 if those between towers are not exactly what
the configuration's network.exchanges declares. With --topology it compiles for
a TPU slice, with the real compiler and without a TPU.
"""

import collections
import dataclasses
import json
import math
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from alexnet_jax.analysis import chips
from alexnet_jax.analysis.collectives import (
  GRADIENTS,
  Collective,
  Traffic,
  expected,
)
from alexnet_jax.analysis.collectives import find as find_collectives
from alexnet_jax.model import sharding
from alexnet_jax.model.sharding import DATA, MODEL
from alexnet_jax.runtime import command
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import recipe as recipes
from alexnet_jax.training.recipe import Recipe

PROGRAMS = ("train", "evaluate")


@dataclasses.dataclass(frozen=True)
class Audit:
  """What was compiled and what it communicates.

  Attributes:
    mesh: devices along each axis.
    platform: "cpu", "gpu" or "tpu".
    batch_size: global.
    collectives: of all programs.
    declared: by program, what `network.exchanges` asks for.
    findings: how the two differ, in words; empty if they do not.
    memory: of the training step: bytes on one device, by use.
    flops, bytes_accessed: of the training step on one device, as the compiler
      counts; 0 where it does not.
  """

  mesh: dict[str, int]
  platform: str
  batch_size: int
  collectives: list[Collective]
  declared: dict[str, list[Traffic]]
  findings: list[str]
  memory: dict[str, int]
  flops: float
  bytes_accessed: float


def audit(
  recipe: Recipe, mesh: Mesh, programs: Sequence[str] = PROGRAMS
) -> Audit:
  """Compiles the programs for `mesh` and reads their collectives.

  Nothing runs and no weights exist, so the devices may be elsewhere.

  Args:
    recipe: of training; its network declares the exchanges.
    mesh: of the devices to compile for.
    programs: which of them; "train" among them.

  Raises:
    UserError: the batch cannot be split over the mesh.
  """
  network, batch_size = recipe.network, recipe.batch_size
  sharding.check_batch_size(batch_size, mesh)
  state, batch, statistics, *_ = arguments = recipe.abstract(mesh)
  images = batch["image"]
  lowered = {
    "train": recipe.train_step(mesh).lower(*arguments),
    "evaluate": recipe.predict(mesh).lower(state.net, images, statistics),
  }
  compiled = {name: lowered[name].compile() for name in programs}
  parameters = set()
  for leaf in jax.tree.leaves(state.net):
    shape = leaf.sharding.shard_shape(leaf.shape)
    # Of a device's towers at once, or of each: the compiler may choose.
    parameters |= {math.prod(shape), math.prod(shape[1:] or shape)}
  found: list[Collective] = []
  declared = {}
  for program in programs:
    declared[program] = expected(network, mesh, batch_size, program)
    found += find_collectives(
      compiled[program].as_text(), program, mesh, declared[program], parameters
    )
  memory = compiled["train"].memory_analysis()
  cost = compiled["train"].cost_analysis() or {}
  return Audit(
    mesh=dict(mesh.shape),
    platform=mesh.devices.flat[0].platform,
    batch_size=batch_size,
    collectives=found,
    declared=declared,
    findings=[
      finding
      for program in programs
      for finding in compare(found, declared[program], program, mesh)
    ],
    memory={
      "arguments": memory.argument_size_in_bytes,
      "temporary": memory.temp_size_in_bytes,
      "program": memory.generated_code_size_in_bytes,
    },
    flops=cost.get("flops", 0.0),
    bytes_accessed=cost.get("bytes accessed", 0.0),
  )


def compare(
  found: list[Collective], declared: list[Traffic], program: str, mesh: Mesh
) -> list[str]:
  """How a program's collectives over "model" differ from those declared.

  The op and the dtype are the compiler's business. The place is not, nor is
  more traffic than the arithmetic asks for.
  """
  allowed = {(item.phase, item.layer): item.numbers for item in declared}
  numbers: collections.Counter[tuple[str, str]] = collections.Counter()
  findings = []
  for item in found:
    if item.program != program or MODEL not in item.axes:
      continue
    place = item.phase, item.layer
    whole = item.phase == "backward" and item.op == "all-reduce"
    numbers[place] += item.numbers // (mesh.shape[MODEL] if whole else 1)
    if place not in allowed:
      findings.append(
        f"{program}: undeclared {item.op} of {item.numbers:,} {item.dtype}"
        f" numbers over {' and '.join(item.axes)}, {item.phase} pass,"
        f" {item.layer}"
      )
  for (phase, layer), most in allowed.items():
    if not numbers[phase, layer]:
      findings.append(f"{program}: no exchange at {layer}, {phase} pass")
    elif numbers[phase, layer] > most:
      findings.append(
        f"{program}: {layer}, {phase} pass, moves {numbers[phase, layer]:,}"
        f" numbers where {most:,} would do"
      )
  return findings


def roofline(result: Audit, chip: chips.Chip) -> chips.Roofline:
  """The least time of one training step.

  Args:
    result: compiled for devices of this chip.
    chip: with its published figures.
  """
  seconds = {"model": 0.0, "data": 0.0}
  for item in result.collectives:
    if item.program == "train":
      devices = math.prod(result.mesh[axis] for axis in item.axes)
      axis = MODEL if MODEL in item.axes else DATA
      seconds[axis] += chips.link_seconds(item.op, item.bytes, devices, chip)
  return chips.Roofline(
    compute=result.flops / chip.flops,
    memory=result.bytes_accessed / chip.memory_bandwidth,
    exchange=seconds[MODEL],
    gradients=seconds[DATA],
  )


def to_json(result: Audit) -> dict[str, Any]:
  """As `--json` writes it: mesh, platform, collectives, totals and more."""
  totals: dict[str, Any] = {}
  for program in result.declared:
    total: collections.Counter[str] = collections.Counter()
    for item in result.collectives:
      if item.program == program:
        over = MODEL if MODEL in item.axes else DATA
        total[f"{over}_{item.phase}"] += item.bytes
    totals[program] = dict(total)
  collectives = [dataclasses.asdict(item) for item in result.collectives]
  for item in collectives:
    item["pass"] = item.pop("phase")
  return {
    "mesh": result.mesh,
    "platform": result.platform,
    "batch_size": result.batch_size,
    "collectives": collectives,
    "totals": totals,
    "declared": {
      program: [
        {"pass": item.phase, "layer": item.layer, "numbers": item.numbers}
        for item in declared
      ]
      for program, declared in result.declared.items()
    },
    "findings": result.findings,
    "memory": result.memory,
    "flops": result.flops,
    "bytes_accessed": result.bytes_accessed,
  }


def print_tables(result: Audit, title: str) -> None:
  """The collectives, and what crosses towers against the arithmetic."""
  console = Console()
  table = Table(title=f"Collectives of {title}")
  for column in ("program", "pass", "layer", "op", "axes", "dtype"):
    table.add_column(column)
  table.add_column("bytes", justify="right")
  for item in result.collectives:
    table.add_row(
      item.program,
      item.phase,
      item.layer,
      item.op,
      ", ".join(item.axes),
      item.dtype,
      f"{item.bytes:,}",
    )
  console.print(table)

  images = result.batch_size // result.mesh[DATA]
  table = Table(
    title=f"Between towers, one training step of {images} images a device"
  )
  table.add_column("pass")
  table.add_column("layer")
  for column in (
    "numbers an image",
    "bytes as float32",
    "bytes compiled",
    "sent by a device",
  ):
    table.add_column(column, justify="right")
  for item in result.declared["train"]:
    compiled = [
      found
      for found in result.collectives
      if (found.program, found.phase, found.layer)
      == ("train", item.phase, item.layer)
    ]
    size = sum(found.bytes for found in compiled)
    devices = result.mesh[MODEL]
    sent = sum(
      chips.sent_bytes(found.op, found.bytes, devices) for found in compiled
    )
    table.add_row(
      item.phase,
      item.layer,
      f"{item.numbers // images:,}",
      f"{4 * item.numbers:,}",
      f"{size:,}",
      f"{sent:,.0f}",
    )
  if result.declared["train"]:
    console.print(table)
  gradients = sum(
    item.bytes for item in result.collectives if item.layer == GRADIENTS
  )
  if gradients:
    print(f"gradients summed over images: {gradients:,} bytes on each device")


def print_estimate(
  result: Audit,
  topology: str,
  chip: chips.Chip,
  estimate: chips.Roofline,
) -> None:
  """Memory and time on a slice nobody here owns."""
  needed = result.memory["arguments"] + result.memory["temporary"]
  print(
    f"{topology}, from published figures ({chip.source}):\n"
    f"  memory of a device: {needed / 1e9:.2f} GB of"
    f" {chip.memory / 1e9:.1f}\n"
    f"  {result.flops / 1e9:.1f} GFLOP and {result.bytes_accessed / 1e9:.2f} GB"
    " a device and step, as the compiler counts\n"
    f"  at best {1e3 * estimate.compute:.2f} ms for the operations,"
    f" {1e3 * estimate.memory:.2f} ms for the memory,"
    f" {1e3 * estimate.exchange:.2f} ms for the exchanges,"
    f" {1e3 * estimate.gradients:.2f} ms for the gradients\n"
    "  estimate, not measured: between"
    f" {result.batch_size / estimate.seconds(overlap=False):,.0f} (nothing"
    " overlaps) and"
    f" {result.batch_size / estimate.seconds(overlap=True):,.0f} images/s"
    " (everything does)"
  )


def parse_mesh(text: str) -> dict[str, int]:
  """ "data:1,model:2" -> {"data": 1, "model": 2}.

  Raises:
    UserError: it is not of this form.
  """
  sizes = dict(re.findall(rf"({DATA}|{MODEL}):(\d+)", text))
  if ",".join(f"{name}:{size}" for name, size in sizes.items()) != text:
    raise UserError(
      f"--mesh={text} is no mesh; write it as --mesh={DATA}:1,{MODEL}:2"
    )
  return {name: int(size) for name, size in sizes.items()}


def make_mesh(config: ConfigDict, sizes: dict[str, int], topology: str) -> Mesh:
  """The mesh to compile for.

  Args:
    config: whose `mesh` holds unless `sizes` says otherwise.
    sizes: devices along axes, as `parse_mesh` returns; 0: fit.
    topology: a TPU slice; "": the devices of this machine.

  Raises:
    UserError: there are too few devices, or no such slice.
  """
  data = sizes.get(DATA, config.mesh.data)
  model = sizes.get(MODEL, config.mesh.model)
  if not topology:
    return sharding.make_mesh(data, model, towers=config.network.towers)
  return sharding.make_mesh(
    data,
    model,
    towers=config.network.towers,
    devices=chips.slice_devices(topology),
  )


def main() -> int:
  """The command; the exit status is 1 if the programs do not comply."""
  config, topology = _CONFIG.value, _TOPOLOGY.value
  mesh = make_mesh(config, parse_mesh(_MESH.value), topology)
  print(
    f"compiling the training and the evaluation step for"
    f" {topology or 'this machine'}, mesh {sharding.describe_mesh(mesh)},"
    f" batch size {config.batch_size}",
    file=sys.stderr,
  )
  result = audit(recipes.from_config(config.to_dict()), mesh)
  values = to_json(result)
  title = f"{configs.path()} on {sharding.describe_mesh(mesh)}"
  print_tables(result, title)
  if topology:
    chip = chips.CHIPS[topology.split(":")[0]]
    estimate = roofline(result, chip)
    print_estimate(result, topology, chip, estimate)
    values |= {"topology": topology, "roofline": dataclasses.asdict(estimate)}
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(values, indent=2) + "\n")
  for finding in result.findings:
    print(f"NOT AS DECLARED: {finding}")
  if not result.findings:
    exchanges = ", ".join(config.network.exchanges) or "no layer"
    print(f"as declared: the towers meet at {exchanges} and nowhere else")
  return 1 if result.findings else 0


if __name__ == "__main__":
  _CONFIG = configs.DEFINE_config()
  _MESH = flags.DEFINE_string(
    "mesh", "", "devices, such as data:1,model:2; default: the config's"
  )
  _TOPOLOGY = flags.DEFINE_string(
    "topology", "", "compile for this TPU slice, such as v5e:2x4"
  )
  _JSON = flags.DEFINE_string("json", None, "also write the result here")
  command.run(main)
