"""Lower bounds on the time of a step, from a chip's published figures."""

import dataclasses
import math

from alexnet_jax.analysis.chips import Chip
from alexnet_jax.analysis.programs import Audit, crossed_axis
from alexnet_jax.model.sharding import DATA, MODEL


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Lower bounds on the time of one step in seconds, one per resource."""

  compute: float  # the operations at the chip's peak for their precision
  memory: float  # the bytes at the memory bandwidth
  exchange: float  # the exchanges between towers over the links
  gradients: float  # the sum of the gradients over "data" over the links
  network: float  # what leaves a host

  def seconds(self, *, overlap: bool) -> float:
    """Of one step with all communication overlapped, or none.

    A real step lies between: the next layer waits for an exchange, but the sum
    of the gradients overlaps with the rest of the backward pass.
    """
    on_chip = max(self.compute, self.memory)
    communication = self.exchange, self.gradients, self.network
    return (
      max(on_chip, *communication) if overlap else on_chip + sum(communication)
    )


def roofline(result: Audit, chip: Chip) -> Roofline:
  """A lower bound on the time of one training step, compiled for `chip`."""
  seconds = {MODEL: 0.0, DATA: 0.0}
  network = 0.0
  for item in result.collectives:
    if item.program == "train":
      devices = math.prod(result.mesh[axis] for axis in item.axes)
      moved = item.op, item.bytes, devices, item.hosts
      seconds[crossed_axis(item)] += link_seconds(*moved, chip)
      network += network_seconds(*moved, chip)
  return Roofline(
    compute=flops(result) / chip.rates[result.products],
    memory=moved_bytes(result) / chip.memory_bandwidth,
    exchange=seconds[MODEL],
    gradients=seconds[DATA],
    network=network,
  )


def flops(result: Audit) -> float:
  """FLOPs of a device in a training step.

  The compiler's count, or, where there is none, those of the products.
  """
  return result.flops or result.arithmetic


def moved_bytes(result: Audit) -> float:
  """Bytes from and to a device's memory in a training step.

  The compiler's count, or, where there is none, the traffic of its kernels.
  """
  counted = result.traffic.bytes if result.traffic else 0
  return result.bytes_accessed or counted


def sent_bytes(op: str, size: float, devices: int) -> float:
  """The least number of bytes that each device sends in one collective.

  Args:
    op: the compiler's name, such as "all-gather".
    size: bytes of the result on one device.
    devices: number of devices in a group.
  """
  match op:
    case "all-gather":  # its own part to all others
      return size * (devices - 1) / devices
    case "reduce-scatter":  # the parts of all others
      return size * (devices - 1)
    case "all-reduce":  # both
      return 2 * size * (devices - 1) / devices
  return size


def network_bytes(op: str, size: float, devices: int, hosts: int) -> float:
  """What of `sent_bytes` leaves the host, at least.

  The devices of a host first sum or share what they have among themselves, so
  that each of them exchanges a different part with the other hosts.
  """
  if hosts == 1:
    return 0.0
  if op in ("all-gather", "all-reduce"):
    size = size * hosts / devices
  return sent_bytes(op, size, hosts)


def network_seconds(
  op: str, size: float, devices: int, hosts: int, chip: Chip
) -> float:
  """The least seconds between hosts of one collective.

  0 on a chip whose links join all hosts; arguments as for `network_bytes`.
  """
  if not chip.network_bandwidth:
    return 0.0
  return network_bytes(op, size, devices, hosts) / chip.network_bandwidth


def link_seconds(
  op: str, size: float, devices: int, hosts: int, chip: Chip
) -> float:
  """The least seconds over links of one collective; as `network_seconds`."""
  sent = sent_bytes(op, size, devices)
  if chip.network_bandwidth:
    sent -= network_bytes(op, size, devices, hosts)
  few = chip.neighbour_bandwidth if devices == 2 else chip.link_bandwidth
  return sent / few
