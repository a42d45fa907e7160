"""The memory traffic and the kernels of a compiled program, layer by layer.

A program for a GPU is a list of kernels, one for each line of its entry
computation. Every kernel reads its operands from the device's memory and writes
its results there; what happens inside a fusion moves nothing. The sum of these
sizes is counted here. Of an operand that is only sliced, the slices count. A
cache may save some of this traffic.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator

from alexnet_jax.analysis import hlo
from alexnet_jax.model.network import LAYERS

# They give an existing array another name or type.
_NO_KERNEL = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast"}
_NO_KERNEL |= {"partition-id", "replica-id", "after-all"}
_SLICES = {"slice", "dynamic-slice"}
UPDATE = "update"
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class LayerTraffic:
  """Of the kernels of one layer in one pass, on one device."""

  phase: str  # "forward", "backward" or "update"
  # As the kernel's place in the program says: a fusion of several layers counts
  # for that of its result. "other": preparing the images, loss and metrics.
  layer: str
  kernels: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Of one program on one device."""

  bytes: int
  kernels: int
  layers: list[LayerTraffic]  # forward, backward, update; first layer to last


def measure(text: str) -> Traffic:
  """The traffic of a program, from `compiled.as_text()`."""
  program = hlo.parse(text)
  counts, sizes = collections.Counter(), collections.Counter()
  for _, place, size in _kernels(program, program.entry):
    counts[place] += 1
    sizes[place] += size
  order = [
    (phase, layer)
    for phase in ("forward", "backward", UPDATE)
    for layer in (*LAYERS, OTHER)
  ]
  return Traffic(
    bytes=sizes.total(),
    kernels=counts.total(),
    layers=[
      LayerTraffic(*place, counts[place], sizes[place])
      for place in sorted(counts, key=order.index)
    ],
  )


def places(text: str) -> dict[str, tuple[str, str]]:
  """The pass and the layer of each kernel, by the name of its instruction."""
  program = hlo.parse(text)
  found = _kernels(program, program.entry)
  return {name: place for name, place, _ in found}


def _kernels(
  program: hlo.Program, name: str
) -> Iterator[tuple[str, tuple[str, str], int]]:
  """The name, pass and layer, and bytes, of each kernel of a computation."""
  lines = program.computations[name]
  # "x-start" begins what "x-done" ends: one kernel, with the latter's result.
  ends = {
    line.operands[0]: line
    for line in lines.values()
    if line.op.endswith("-done")
  }
  for line in lines.values():
    if line.op in _NO_KERNEL or line.op.endswith("-done"):
      continue
    if line.op == "call":
      yield from _kernels(program, line.calls)
      continue
    read = [lines[name] for name in line.operands if name in lines]
    size = _bytes(ends.get(line.name, line)) + sum(
      _read_bytes(operand, number, program.computations.get(line.calls, {}))
      for number, operand in enumerate(read)
    )
    yield line.name, _place(line, program, read), size


def _bytes(line: hlo.Instruction) -> int:
  return sum(array.bytes for array in hlo.arrays(line.result))


def _read_bytes(
  operand: hlo.Instruction, number: int, fused: dict[str, hlo.Instruction]
) -> int:
  """What a fusion reads of one of its operands, at most."""
  parameter = next(
    (
      line.name
      for line in fused.values()
      if line.op == "parameter" and line.operands == (str(number),)
    ),
    "",
  )
  uses = [line for line in fused.values() if parameter in line.operands]
  if uses and all(
    line.op in _SLICES and line.operands[0] == parameter for line in uses
  ):
    return min(_bytes(operand), sum(map(_bytes, uses)))
  return _bytes(operand)


def _place(
  line: hlo.Instruction, program: hlo.Program, read: list[hlo.Instruction]
) -> tuple[str, str]:
  """The pass and the layer of a kernel.

  The scope of the kernel decides, then the scopes inside of its fusion, then
  those of its operands, of which parameters are named by their layer
  ("state.net.towers.conv1.kernel.value").
  """
  fused = program.computations.get(line.calls, {}).values()
  inside = [one.scope for one in reversed(fused) if one.scope]
  scopes = [line.scope, *inside]
  names = [*scopes, *(operand.scope for operand in read)]
  layers = (_layer(name) for name in names)
  phases = (_phase(scope) for scope in scopes)
  return (
    next(filter(None, phases), UPDATE),
    next(filter(None, layers), OTHER),
  )


def _layer(scope: str) -> str:
  """The innermost layer that a scope names, or ""."""
  parts = reversed(re.split(r"[/.]", scope))
  return next((part for part in parts if part in LAYERS), "")


def _phase(scope: str) -> str:
  if "transpose(" in scope:
    return "backward"
  return "forward" if "jvp(" in scope else UPDATE if scope else ""
