"""The collectives of a compiled program, read from its own text.

What the compiler was given does not count here, only what it made of it: it
merges collectives, splits them, renames them and changes their dtypes. Each
result is attributed to a layer by the named scope that survived, else by its
size, which only one exchange has.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from alexnet_jax.model.network import LAYERS, Network, shapes
from alexnet_jax.model.sharding import DATA, MODEL

GRADIENTS = "gradients"
METRICS = "metrics"
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Collective:
  """What one device gets from others at one place of a program.

  Attributes:
    program: "train" or "evaluate".
    phase: "forward", "backward" or "update" (the sum of the gradients).
    layer: whose exchange it is; "gradients", "metrics" or "unknown" else.
    op: the compiler's name, such as "all-gather".
    axes: of the mesh, along which the devices of a group differ.
    dtype: the compiler's name, such as "f32".
    numbers: how many the result has on one device.
    bytes: of the result on one device.
  """

  program: str
  phase: str
  layer: str
  op: str
  axes: tuple[str, ...]
  dtype: str
  numbers: int
  bytes: int


class Traffic(NamedTuple):
  """What an exchange must move, by arithmetic.

  Attributes:
    phase: "forward" or "backward".
    layer: where.
    op: as the program is written; the compiler may choose another.
    numbers: of the result on one device: all towers' in the forward pass, this
      device's in the backward pass (the sum over the towers of what they have
      to say about its own maps).
  """

  phase: str
  layer: str
  op: str
  numbers: int


def expected(
  network: Network, mesh: Mesh, batch_size: int, program: str
) -> list[Traffic]:
  """The exchanges that `network` declares, as they must appear on `mesh`.

  Paper's network, per image: conv3 13 x 13 x 256 numbers, fc6 9,216, fc7 4,096
  and fc8 the class scores. The sum of scores costs the backward pass nothing:
  its transpose hands the same gradient to all.

  Args:
    network: whose `exchanges` count.
    mesh: the devices; one along "model" exchanges nothing.
    batch_size: global.
    program: "train" or "evaluate", which has no backward pass.
  """
  devices = mesh.shape[MODEL]
  if devices == 1:
    return []
  images = batch_size // mesh.shape[DATA]
  gathered = {
    shape.name: images * math.prod(shape.inputs)
    for shape in shapes(network)
    if shape.name in network.exchanges and shape.name != "fc8"
  }
  scores = images * network.num_classes
  traffic = [
    Traffic("forward", layer, "all-gather", numbers)
    for layer, numbers in gathered.items()
  ]
  traffic.append(Traffic("forward", "fc8", "all-reduce", scores))
  if program == "train":
    traffic += [
      Traffic("backward", layer, "reduce-scatter", numbers // devices)
      for layer, numbers in gathered.items()
    ]
  return traffic


def find(
  text: str,
  program: str,
  mesh: Mesh,
  declared: list[Traffic],
  parameters: set[int],
) -> list[Collective]:
  """All collectives of one compiled program, in its text's order.

  Args:
    text: `compiled.as_text()`.
    program: "train" or "evaluate".
    mesh: that it was compiled for.
    declared: `expected(...)`, to attribute by size what has lost its scope.
    parameters: the sizes of the parameters' arrays on one device, and of one
      tower's part: what has one of them is a gradient.

  Returns:
    One entry for each instruction, layer and dtype: a merged instruction has
    several. Groups of one device are no collectives and are left out.
  """
  sizes = {(item.op, item.numbers): item for item in reversed(declared)}
  for item in declared:
    if item.op == "reduce-scatter":  # as TPUs may do it: sum all, keep a part
      whole = item.numbers * mesh.shape[MODEL]
      sizes.setdefault(("all-reduce", whole), item)
  found = []
  for instruction in _instructions(text):
    axes = _axes(instruction.groups, mesh)
    if not axes:
      continue
    rows: dict[tuple[str, str, str], int] = {}
    for dtype, numbers in instruction.results:
      if axes == (DATA,):
        phase, layer = _sum_over_images(instruction, numbers, parameters)
      else:
        phase, layer = _exchange(instruction, numbers, sizes)
      row = phase, layer, dtype
      rows[row] = rows.get(row, 0) + numbers
    for (phase, layer, dtype), numbers in rows.items():
      size = numbers * _bits(dtype) // 8
      found.append(
        Collective(
          program, phase, layer, instruction.op, axes, dtype, numbers, size
        )
      )
  return found


class _Instruction(NamedTuple):
  op: str
  results: list[tuple[str, int]]  # dtype, numbers
  groups: list[list[int]]  # of devices that talk to each other
  scope: str  # "jit(train_step)/transpose(jvp())/shard_map/fc6/reduce_scatter"


_OPS = (
  "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all"
  "|collective-permute|collective-broadcast"
)
# %name = RESULT op(operands), attributes
_INSTRUCTION = re.compile(rf"= (.+?) ({_OPS})(-start)?\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


def _instructions(text: str) -> Iterator[_Instruction]:
  for line in text.splitlines():
    match = _INSTRUCTION.search(line)
    if not match:
      continue
    result, op, started, rest = match.groups()
    arrays = [
      (dtype, math.prod(int(d) for d in dims.split(",") if d))
      for dtype, dims in _ARRAY.findall(result)
    ]
    if started and op != "all-reduce":
      # The result of a start is (operands, results, contexts).
      arrays = [array for array in arrays if array != ("u32", 1)]
      arrays = arrays[len(arrays) // 2 :]
    scope = re.search(r'op_name="([^"]*)"', rest)
    yield _Instruction(op, arrays, _groups(rest), scope[1] if scope else "")


def _groups(attributes: str) -> list[list[int]]:
  """Groups of device numbers, of any of the three ways to write them.

  `{{0,1},{2,3}}` is a list; `[2,2]<=[2,2]T(1,0)` is 0 to 3 reshaped, transposed
  and reshaped again; a permutation lists pairs of source and target.
  """
  listed = re.search(
    r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}",
    attributes,
  )
  if listed:
    return [
      [int(number) for number in group.split(",")]
      for group in re.findall(r"\{([\d,]+)\}", listed[1])
    ]
  iota = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
  )
  if not iota:
    raise ValueError(f"a collective without groups: {attributes[:300]}")
  shape, reshape, order = (
    [int(number) for number in (part or "").split(",") if number]
    for part in iota.groups()
  )
  devices = np.arange(math.prod(reshape)).reshape(reshape)
  return devices.transpose(order or None).reshape(shape).tolist()


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
  """The mesh axes along which devices of one group differ.

  Programs number devices in the mesh's own order. No groups at all: everybody.
  """
  groups = groups or [list(range(mesh.devices.size))]
  places = np.stack(np.unravel_index(range(mesh.size), mesh.devices.shape))
  differ = np.zeros(len(mesh.axis_names), bool)
  for group in groups:
    differ |= np.ptp(places[:, group], axis=1) > 0
  return tuple(
    name for name, yes in zip(mesh.axis_names, differ, strict=True) if yes
  )


def _sum_over_images(
  instruction: _Instruction, numbers: int, parameters: set[int]
) -> tuple[str, str]:
  """(phase, layer) of what crosses "data" alone: sums over the batch.

  Gradients, and losses and errors; the compiler sends both at once.
  """
  if "transpose(" in instruction.scope and numbers in parameters:
    return "update", GRADIENTS
  if numbers == 1:
    return "forward", METRICS
  return _phase(instruction.scope), UNKNOWN


def _exchange(
  instruction: _Instruction,
  numbers: int,
  sizes: dict[tuple[str, int], Traffic],
) -> tuple[str, str]:
  """(phase, layer) of what crosses towers: by scope, else by size."""
  if len(instruction.results) == 1:  # of several merged, one scope is left
    for part in reversed(instruction.scope.split("/")):
      if part in LAYERS:
        return _phase(instruction.scope), part
  traffic = sizes.get((instruction.op, numbers))
  if traffic:
    return traffic.phase, traffic.layer
  return _phase(instruction.scope), UNKNOWN


def _phase(scope: str) -> str:
  return "backward" if "transpose(" in scope else "forward"


def _bits(dtype: str) -> int:
  """f32 -> 32, bf16 -> 16, f8e4m3fn -> 8, pred -> 8."""
  digits = re.search(r"\d+", dtype)
  return int(digits[0]) if digits else 8
