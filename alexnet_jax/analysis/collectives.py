"""The collectives of a compiled program, read from the program's text.

The compiler merges, splits and renames collectives and changes their dtypes,
so the text of the compiled program is the only reliable source. Each result is
attributed to a layer; `_attribute` has the rules.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from alexnet_jax.analysis import hlo
from alexnet_jax.model.network import LAYERS, Network
from alexnet_jax.model.shapes import shapes
from alexnet_jax.model.sharding import DATA, MODEL

GRADIENTS = "gradients"
METRICS = "metrics"
STATISTICS = "statistics"
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Collective:
  """The result of a collective on one device."""

  program: str  # "train" or "evaluate"
  phase: str  # "forward", "backward" or "update" (the sum of the gradients)
  # The layer that reads the result, or "gradients", "metrics", "statistics" (of
  # batch normalisation), "unknown".
  layer: str
  op: str  # the compiler's name, such as "all-gather"
  axes: tuple[str, ...]  # mesh axes along which the devices of a group differ
  dtype: str  # the compiler's name, such as "f32"
  numbers: int  # the number of array elements
  bytes: int  # the size of those elements
  hosts: int = 1  # over which the devices of a group are spread


class DeclaredExchange(NamedTuple):
  """An exchange between towers that a network declares."""

  phase: str  # "forward" or "backward"
  layer: str  # that reads all towers
  op: str  # as the program is written; the compiler may choose another
  # Array elements of the result on one device: in the forward pass the
  # activations of all towers, in the backward pass the gradients of its own.
  numbers: int


def declared_exchanges(
  network: Network, mesh: Mesh, batch_size: int, program: str
) -> list[DeclaredExchange]:
  """The exchanges that `network` declares, as they must appear on `mesh`.

  For the paper's network, per image: conv3 13 x 13 x 256 elements, fc6 9,216,
  fc7 4,096 and fc8 the class scores. The sum of the scores needs no exchange in
  the backward pass: its gradient is the same for every tower.

  Args:
    network: its `exchanges` names the layers.
    mesh: with one device along "model" there are no exchanges.
    batch_size: global.
    program: "train" or "evaluate"; the latter has no backward pass.
  """
  devices = mesh.shape[MODEL]
  if devices == 1:
    return []
  images = batch_size // mesh.shape[DATA]
  forward, backward = [], []
  for shape in shapes(network):
    layer, numbers = shape.name, images * math.prod(shape.inputs)
    if layer in network.exchanges and layer != "fc8":
      own = layer, "reduce-scatter", numbers // devices
      forward.append(DeclaredExchange("forward", layer, "all-gather", numbers))
      backward.append(DeclaredExchange("backward", *own))
  scores = images * network.num_classes
  forward.append(DeclaredExchange("forward", "fc8", "all-reduce", scores))
  return forward + backward if program == "train" else forward


def find(
  text: str,
  program: str,
  mesh: Mesh,
  declared: list[DeclaredExchange],
  parameter_sizes: set[int],
) -> list[Collective]:
  """All collectives of one compiled program, in the order of its text.

  Args:
    text: `compiled.as_text()`.
    program: "train" or "evaluate".
    mesh: that the program was compiled for.
    declared: from `declared_exchanges`, to attribute results by size.
    parameter_sizes: numbers of elements that the gradient of a parameter can
      have on one device.

  Returns:
    One entry per instruction, layer and dtype: a merged instruction has
    several. Collectives within groups of one device move nothing: left out.
  """
  by_size = _exchanges_by_size(declared, mesh)
  found = []
  for instruction in _collectives(hlo.parse(text)):
    axes = _axes(instruction.groups, mesh)
    if not axes:
      continue
    hosts = _hosts(instruction.groups, mesh)
    counts: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for dtype, count in instruction.results:
      place = _attribute(instruction, count, axes, by_size, parameter_sizes)
      counts[*place, dtype] += count
    for (phase, layer, dtype), numbers in counts.items():
      what = program, phase, layer, instruction.op, axes, dtype
      size = numbers * hlo.bits(dtype) // 8
      found.append(Collective(*what, numbers, size, hosts))
  return found


class _Instruction(NamedTuple):
  """A collective as the text has it."""

  op: str
  results: list[tuple[str, int]]  # dtype and number of elements on one device
  groups: list[list[int]]  # of devices that communicate
  scope: str  # "jit(train_step)/transpose(jvp())/shard_map/fc6/reduce_scatter"


def _attribute(
  instruction: _Instruction,
  numbers: int,
  axes: tuple[str, ...],
  by_size: dict[tuple[str, int], DeclaredExchange],
  parameter_sizes: set[int],
) -> tuple[str, str]:
  """The phase and the layer of one result, by the first rule that applies.

  1. Over "data" alone: in the backward pass, a result of a parameter's size is
     a gradient (or that of a batch statistic); a single number is a metric
     (loss, errors, example count); in the scope of a layer it is a batch
     statistic; anything else is unknown. The compiler may merge gradients and
     metrics.
  2. Over "model": the innermost layer in the scope. A merged instruction keeps
     the scope of one of its parts only, so this rule does not apply to it.
  3. Otherwise: the declared exchange with this operation and size.
  4. Otherwise: unknown.
  """
  phase = "backward" if "transpose(" in instruction.scope else "forward"
  if axes == (DATA,):
    if phase == "backward" and numbers in parameter_sizes:
      return "update", GRADIENTS
    if numbers == 1:
      return "forward", METRICS
    if set(LAYERS) & set(instruction.scope.split("/")):
      return phase, STATISTICS
    return phase, UNKNOWN
  if len(instruction.results) == 1:
    for part in reversed(instruction.scope.split("/")):
      if part in LAYERS:
        return phase, part
  if exchange := by_size.get((instruction.op, numbers)):
    return exchange.phase, exchange.layer
  return phase, UNKNOWN


def _exchanges_by_size(
  declared: list[DeclaredExchange], mesh: Mesh
) -> dict[tuple[str, int], DeclaredExchange]:
  """Declared exchanges by operation and size; of equal ones, the first."""
  by_size = {(item.op, item.numbers): item for item in reversed(declared)}
  for item in declared:
    if item.op == "reduce-scatter":
      # TPU compilers may sum everything and keep a part instead.
      whole = item.numbers * mesh.shape[MODEL]
      by_size.setdefault(("all-reduce", whole), item)
  return by_size


OPS = (
  "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all"
  "|collective-permute|collective-broadcast"
)
_COLLECTIVE = re.compile(rf"({OPS})(-start)?")
_LIST = re.compile(r"(?:groups|target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(
  r"groups=mesh\[([^\]]*)\](?:, device_ids=\(([\d,]*)\))? ?\{([^}]*)\}"
)
_AXIS = re.compile(r"'?([^',=:]+)'?(?:=(\d+)|:\((\d+)\)(\d+))?")


def _collectives(program: hlo.Program) -> Iterator[_Instruction]:
  for computation in program.computations.values():
    for line in computation.values():
      if not (match := _COLLECTIVE.fullmatch(line.op)):
        continue
      op, started = match.groups()
      arrays = hlo.arrays(line.result)
      if started and (op != "all-reduce" or line.result.startswith("((")):
        # The result of a start is (operands, results, contexts); that of an
        # all-reduce is either this or its results alone.
        arrays = [array for array in arrays if array != ("u32", ())]
        arrays = arrays[len(arrays) // 2 :]
      scope = line.scope
      if parts := _joined(line, computation, program):
        arrays = [array for part in parts for array in hlo.arrays(part.result)]
        # GPU compilers may drop the scope of a joined collective.
        scope = scope or ":".join(part.scope for part in parts)
      results = [(array.dtype, array.numbers) for array in arrays]
      yield _Instruction(op, results, _groups(line.attributes), scope)


def _joined(
  line: hlo.Instruction,
  computation: dict[str, hlo.Instruction],
  program: hlo.Program,
) -> list[hlo.Instruction]:
  """The instructions whose results an all-reduce sums as a single array.

  GPU compilers join small arrays end to end, for example all gradients of
  biases and the metrics. Empty for an all-reduce of anything else.
  """
  if not line.op.startswith("all-reduce") or len(line.operands) != 1:
    return []
  operand = computation.get(line.operands[0])
  if not operand:
    return []
  joint = program.root(operand.calls) or operand
  if joint.op != "concatenate" or len(operand.operands) != len(joint.operands):
    return []
  return [computation[name] for name in operand.operands]


def _numbers(text: str) -> list[int]:
  return [int(number) for number in text.split(",") if number]


def _groups(attributes: str) -> list[list[int]]:
  """Groups of device numbers, from any of the four notations.

  `{{0,1},{2,3}}` is a list; `[2,2]<=[2,2]T(1,0)` is 0 to 3 reshaped, transposed
  and reshaped again; `mesh['data'=2,'model'=2] {'model'}` names the axes along
  which the devices of a group differ (jax 0.11 and newer); a permutation lists
  pairs of source and target.
  """
  if listed := _LIST.search(attributes):
    return list(map(_numbers, re.findall(r"\{([\d,]+)\}", listed[1])))
  if named := _NAMED.search(attributes):
    return _named_groups(*named.groups(""))
  iota = _IOTA.search(attributes)
  if not iota:
    raise ValueError(f"collective without device groups: {attributes[:300]}")
  shape, reshape, order = map(_numbers, iota.groups(""))
  devices = np.arange(math.prod(reshape)).reshape(reshape)
  return devices.transpose(order or None).reshape(shape).tolist()


def _named_groups(mesh: str, devices: str, along: str) -> list[list[int]]:
  """Groups along axes, or parts of axes, of a mesh that the compiler names.

  Args:
    mesh: names and sizes, such as `'data'=4,'model'=2`.
    devices: their numbers in the order of that mesh; "": 0, 1, 2 and so on.
    along: the axes of a group. `'data':(2)2` is a part of an axis: with "data"
      split into 2 x 2 x the rest, the second factor.
  """
  sizes = {name: int(size) for name, size, *_ in _AXIS.findall(mesh)}
  parts = [
    (name, int(before or 1), int(size or sizes[name]))
    for name, _, before, size in _AXIS.findall(along)
  ]
  numbers = _numbers(devices) or range(math.prod(sizes.values()))
  positions = np.unravel_index(range(len(numbers)), tuple(sizes.values()))
  position = dict(zip(sizes, positions, strict=True))
  # Devices of one group have the same position but for the named parts.
  key = np.arange(len(numbers))
  for name, before, size in parts:
    stride = math.prod(list(sizes.values())[list(sizes).index(name) + 1 :])
    step = sizes[name] // (before * size)
    key = key - position[name] // step % size * step * stride
  groups: dict[int, list[int]] = collections.defaultdict(list)
  for first, number in zip(key.tolist(), numbers, strict=True):
    groups[first].append(number)
  return list(groups.values())


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
  """The mesh axes along which the devices of a group differ.

  Programs number the devices in the order of the mesh. An empty list of groups
  means one group of all devices.
  """
  positions = np.stack(np.unravel_index(range(mesh.size), mesh.devices.shape))
  groups = groups or [list(range(mesh.size))]
  differs = [np.ptp(positions[:, group], axis=1) > 0 for group in groups]
  return tuple(itertools.compress(mesh.axis_names, np.any(differs, axis=0)))


def _hosts(groups: list[list[int]], mesh: Mesh) -> int:
  """The number of hosts with devices of one group, at most."""
  hosts = [device.process_index for device in mesh.devices.flat]
  groups = groups or [list(range(mesh.size))]
  return max(len({hosts[number] for number in group}) for group in groups)
