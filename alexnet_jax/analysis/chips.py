"""TPU chips: devices to compile for without owning them, published figures."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re

import jax

from alexnet_jax.runtime.command import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one chip."""

  flops: float  # peak bfloat16 FLOP/s
  memory: float  # bytes of HBM
  memory_bandwidth: float  # bytes/s from and to HBM
  # Bytes/s to one neighbour in one direction: the published two-way figure of
  # the chip, divided by its ports and by two.
  link_bandwidth: float
  source: str  # of the figures


DOCS = "cloud.google.com/tpu/docs/"
V4 = DOCS + "v4; links: Jouppi et al., ISCA 2023"
CHIPS = {
  "v4": Chip(275e12, 32 * 2**30, 1200e9, 50e9, V4),
  "v5e": Chip(197e12, 16e9, 819e9, 400e9 / 4 / 2, DOCS + "v5e"),
  "v5p": Chip(459e12, 95 * 2**30, 2765e9, 1200e9 / 6 / 2, DOCS + "v5p"),
  "v6e": Chip(918e12, 32e9, 1638e9, 800e9 / 4 / 2, DOCS + "v6e"),
}


def slice_devices(topology: str) -> list[jax.Device]:
  """The devices of a TPU slice, one per chip, to compile for without a TPU.

  Args:
    topology: a chip and its number along each direction, such as "v5p:2x2x4".

  Raises:
    UserError: libtpu is not installed, or the slice does not exist.
  """
  match = re.fullmatch(r"(v\w+):(\d+(?:x\d+){1,2})", topology)
  if not match or match[1] not in CHIPS:
    raise UserError(
      f"--topology={topology} is not a TPU slice: expected one of"
      f" {', '.join(CHIPS)}, a colon and the number of chips along each"
      " direction, such as v5e:2x4 or v5p:2x2x4."
    )
  _check_compiler()
  # Nothing is executed, so JAX and libtpu must not search for a local TPU.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies  # not needed without --topology

  chips = [int(number) for number in match[2].split("x")]
  chips += [1] * (3 - len(chips))
  # A host has up to 2 x 2 chips; a smaller slice is a part of one host.
  host = (min(chips[0], 2), min(chips[1], 2), 1)
  try:
    description = topologies.get_topology_desc(
      platform="tpu",
      topology_name=topology,
      chips_per_host_bounds=host,
      # By default each of v4's two cores is a device, which no mesh accepts.
      chip_config_name="megacore" if match[1] == "v4" else "default",
    )
  except jax.errors.JaxRuntimeError as error:
    reason = " ".join(str(error).split())
    message = f"libtpu cannot describe the slice {topology}: {reason}"
    raise UserError(message) from None
  return list(description.devices)


def _check_compiler() -> None:
  """Raises UserError if JAX cannot find libtpu."""
  path = os.environ.get("TPU_LIBRARY_PATH")
  if (path and os.path.isfile(path)) or importlib.util.find_spec("libtpu"):
    return
  needed = importlib.metadata.requires("jax") or ()
  libtpu = next(name for name in needed if name.startswith("libtpu"))
  raise UserError(
    "--topology needs the TPU compiler libtpu, which is neither installed nor"
    " named by the environment variable TPU_LIBRARY_PATH. (A TPU is not"
    f" needed.) For jax {jax.__version__}: pip install --no-deps"
    f' --target=libtpu "{libtpu.split(";")[0].strip()}", then set'
    " TPU_LIBRARY_PATH=libtpu/libtpu/libtpu.so for this command. If libtpu is"
    " installed beside JAX instead, every start of JAX searches for a TPU and"
    " prints a warning."
  )


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Lower bounds on the time of one step in seconds, one per resource."""

  compute: float  # the compiler's count of operations at the chip's peak
  memory: float  # the compiler's count of bytes at the memory bandwidth
  exchange: float  # the exchanges between towers over the links
  gradients: float  # the sum of the gradients over "data" over the links

  def seconds(self, *, overlap: bool) -> float:
    """Of one step with all communication overlapped, or none.

    A real step lies between: the next layer waits for an exchange, but the sum
    of the gradients overlaps with the rest of the backward pass.
    """
    on_chip = max(self.compute, self.memory)
    if overlap:
      return max(on_chip, self.exchange, self.gradients)
    return on_chip + self.exchange + self.gradients


def sent_bytes(op: str, size: int, devices: int) -> float:
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


def link_seconds(op: str, size: int, devices: int, chip: Chip) -> float:
  """The least seconds of one collective; arguments as for `sent_bytes`.

  Two devices are neighbours with one link; more devices form a ring and use
  both directions.
  """
  links = 1 if devices == 2 else 2
  return sent_bytes(op, size, devices) / (links * chip.link_bandwidth)
