"""Audits the compiled programs: what they communicate, need and cost.

Compiles the training and the evaluation step for a mesh, lists their
collectives and compares those between towers with the exchanges that the
network declares.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax.analysis import collectives, topologies, traffic
from alexnet_jax.analysis.collectives import Collective, DeclaredExchange
from alexnet_jax.analysis.timing import training_flops
from alexnet_jax.analysis.traffic import Traffic
from alexnet_jax.model import sharding
from alexnet_jax.model.sharding import DATA, MODEL
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.job import Recipe, make_recipe

PROGRAMS = ("train", "evaluate")


@dataclasses.dataclass(frozen=True)
class Audit:
  """The audited programs of one recipe on one mesh."""

  mesh: dict[str, int]  # number of devices along each axis
  platform: str  # "cpu", "gpu" or "tpu"
  batch_size: int  # global
  collectives: list[Collective]  # of all programs
  declared: dict[str, list[DeclaredExchange]]  # by program
  findings: list[str]  # differences between programs and declaration
  memory: dict[str, int]  # bytes of the training step on one device, by use
  # Of the training step on one device; 0 if the compiler does not count them.
  flops: float
  bytes_accessed: float
  arithmetic: float  # FLOPs of its products on one device, from their sizes
  products: str  # their precision, a key of `Chip.rates`
  traffic: Traffic | None  # of the training step, if compiled for GPUs


def audit(
  recipe: Recipe, mesh: Mesh, programs: Sequence[str] = PROGRAMS
) -> Audit:
  """Compiles the programs for `mesh` and reads their collectives.

  Nothing is executed and no weights are allocated, so the devices of `mesh` do
  not have to exist on this machine.

  Args:
    recipe: its network declares the exchanges.
    mesh: the devices to compile for.
    programs: a subset of PROGRAMS that includes "train".

  Raises:
    UserError: the batch size is not divisible by the size of the "data" axis,
      or a part of the compiler is missing.
  """
  network, batch_size = recipe.network, recipe.batch_size
  sharding.check_batch_size(batch_size, mesh)
  state, batch, statistics, *_ = arguments = recipe.abstract_arguments(mesh)
  images = batch["image"]
  lowered = {
    "train": recipe.train_step(mesh).lower(*arguments),
    "evaluate": recipe.predict(mesh).lower(state.net, images, statistics),
  }
  with topologies.compiling():
    compiled = {name: lowered[name].compile() for name in programs}
  sizes = parameter_sizes(state.net)
  all_found, declared, findings, texts = [], {}, [], {}
  for name in programs:
    expected = collectives.declared_exchanges(network, mesh, batch_size, name)
    declared[name] = expected
    texts[name] = text = compiled[name].as_text()
    found = collectives.find(text, name, mesh, expected, sizes)
    all_found += found
    findings += compare(found, expected, name, mesh)
  memory = compiled["train"].memory_analysis()
  cost = compiled["train"].cost_analysis() or {}
  platform = mesh.devices.flat[0].platform
  is_narrow = network.compute_dtype == "bfloat16"
  return Audit(
    mesh=dict(mesh.shape),
    platform=platform,
    batch_size=batch_size,
    collectives=all_found,
    declared=declared,
    findings=findings,
    memory={
      "arguments": memory.argument_size_in_bytes,
      "temporary": memory.temp_size_in_bytes,
      "program": memory.generated_code_size_in_bytes,
    },
    flops=cost.get("flops", 0.0),
    bytes_accessed=cost.get("bytes accessed", 0.0),
    arithmetic=batch_size * training_flops(network) / mesh.size,
    products="bfloat16" if is_narrow else network.precision,
    traffic=traffic.measure(texts["train"]) if platform == "gpu" else None,
  )


def training_collectives(config: ConfigDict, mesh: Mesh) -> list[Collective]:
  """The collectives of the training step of a configuration.

  The step is compiled for `mesh`; nothing is executed.

  Args:
    config: such as `config.load` returns.
    mesh: devices along "data" and "model", such as
      `jax.make_mesh((1, 2), ("data", "model"))`.

  Raises:
    UserError: the configuration is not valid, or does not fit the mesh.
  """
  return audit(make_recipe(config), mesh, ["train"]).collectives


def parameter_sizes(net: Any) -> set[int]:
  """Numbers of elements of the parameters on one device.

  The compiler may sum the gradients of a device's towers together or one by
  one, so the size of one tower's part is included.
  """
  sizes = set()
  for leaf in jax.tree.leaves(net):
    shape = leaf.sharding.shard_shape(leaf.shape)
    sizes |= {math.prod(shape), math.prod(shape[1:] or shape)}
  return sizes


def compare(
  found: list[Collective],
  declared: list[DeclaredExchange],
  program: str,
  mesh: Mesh,
) -> list[str]:
  """Differences between a program's collectives over "model" and `declared`.

  The operation and the dtype are the compiler's choice. A layer without a
  declared exchange is a difference, and so is more traffic than declared.
  """
  allowed = {(item.phase, item.layer): item.numbers for item in declared}
  moved: collections.Counter[tuple[str, str]] = collections.Counter()
  findings = []
  for item in found:
    if MODEL not in item.axes:
      continue
    # A backward all-reduce replaces a reduce-scatter: each device uses its
    # part of the result.
    whole = item.phase == "backward" and item.op == "all-reduce"
    place = item.phase, item.layer
    moved[place] += item.numbers // (mesh.shape[MODEL] if whole else 1)
    if place not in allowed:
      findings.append(
        f"undeclared {item.op} of {item.numbers:,} {item.dtype} numbers over"
        f" {' and '.join(item.axes)}, {item.phase} pass, {item.layer}"
      )
  for (phase, layer), limit in allowed.items():
    numbers = moved[phase, layer]
    if not numbers:
      findings.append(f"no exchange at {layer}, {phase} pass")
    elif numbers > limit:
      findings.append(
        f"the exchange at {layer}, {phase} pass, moves {numbers:,} numbers;"
        f" {limit:,} are enough"
      )
  return [f"{program}: {finding}" for finding in findings]


def crossed_axis(item: Collective) -> str:
  """The axis that a collective is counted under."""
  return MODEL if MODEL in item.axes else DATA


def to_json(result: Audit) -> dict[str, Any]:
  """The content of `audit --json`."""
  values = dataclasses.asdict(result)
  totals = {program: collections.Counter() for program in result.declared}
  kernels = values["traffic"]["layers"] if result.traffic else []
  for fields in (*values["collectives"], *kernels):
    fields["pass"] = fields.pop("phase")
  for item in result.collectives:
    totals[item.program][f"{crossed_axis(item)}_{item.phase}"] += item.bytes
  for program, exchanges in result.declared.items():
    values["declared"][program] = [
      {"pass": item.phase, "layer": item.layer, "numbers": item.numbers}
      for item in exchanges
    ]
  return values | {"totals": {name: dict(c) for name, c in totals.items()}}


HEADINGS = ("program", "pass", "layer", "operation", "axes", "dtype", "bytes")


def rows(result: Audit) -> list[tuple[str, ...]]:
  """The collectives as the rows of a table with the columns HEADINGS.

  The bytes are those of the result on one device, for one step.
  """
  table = []
  for item in result.collectives:
    place = item.program, item.phase, item.layer, item.op, ", ".join(item.axes)
    table.append((*place, item.dtype, f"{item.bytes:,}"))
  return table


def make_mesh(
  sizes: Mapping[str, int], flag: str, towers: int, topology: str = ""
) -> Mesh:
  """The mesh of a configuration, changed by the flags of a command.

  Args:
    sizes: the configuration's devices along "data" and "model"; 0: fit.
    flag: the value of --mesh, such as "data:1,model:2"; "" changes nothing.
    topology: as for `compile_only_devices`; "": the devices of this machine.

  Raises:
    UserError: `flag` cannot be parsed, there are too few devices or no such
      topology.
  """
  sizes = dict(sizes) | parse_mesh(flag)
  devices = topologies.compile_only_devices(topology) if topology else None
  return sharding.make_mesh(
    sizes[DATA], sizes[MODEL], towers=towers, devices=devices
  )


def parse_mesh(text: str) -> dict[str, int]:
  """ "data:1,model:2" -> {"data": 1, "model": 2}; "" -> {}.

  Raises:
    UserError: the text has another form.
  """
  sizes = dict(re.findall(rf"({DATA}|{MODEL}):(\d+)", text))
  if ",".join(f"{name}:{size}" for name, size in sizes.items()) != text:
    raise UserError(
      f"--mesh={text} is not a valid mesh; expected the form"
      f" --mesh={DATA}:1,{MODEL}:2"
    )
  return {name: int(size) for name, size in sizes.items()}
