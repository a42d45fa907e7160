"""TPU slices that nobody here owns: devices to compile for, and their speed."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re

import jax

from alexnet_jax.runtime.command import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of one chip.

  Attributes:
    flops: bfloat16 operations a second, at best.
    memory: bytes of HBM.
    memory_bandwidth: bytes a second from and to HBM.
    link_bandwidth: bytes a second to one neighbour, one way: the published
      two-way figure of the chip, over its ports, over two.
    source: where the figures stand.
  """

  flops: float
  memory: float
  memory_bandwidth: float
  link_bandwidth: float
  source: str


CHIPS = {
  "v4": Chip(
    275e12,
    32 * 2**30,
    1200e9,
    50e9,
    "cloud.google.com/tpu/docs/v4; links: Jouppi et al., ISCA 2023",
  ),
  "v5e": Chip(
    197e12, 16e9, 819e9, 400e9 / 4 / 2, "cloud.google.com/tpu/docs/v5e"
  ),
  "v5p": Chip(
    459e12, 95 * 2**30, 2765e9, 1200e9 / 6 / 2, "cloud.google.com/tpu/docs/v5p"
  ),
  "v6e": Chip(
    918e12, 32e9, 1638e9, 800e9 / 4 / 2, "cloud.google.com/tpu/docs/v6e"
  ),
}


def slice_devices(topology: str) -> list[jax.Device]:
  """The devices of a TPU slice, to compile for; no TPU is needed.

  Args:
    topology: such as "v5e:2x4" or "v5p:2x2x4", chips along each direction.

  Returns:
    One device a chip.

  Raises:
    UserError: libtpu is not installed, or there is no such slice.
  """
  match = re.fullmatch(r"(v\w+):(\d+(?:x\d+){1,2})", topology)
  if not match or match[1] not in CHIPS:
    raise UserError(
      f"--topology={topology} is no slice: say a chip ({', '.join(CHIPS)}), a"
      " colon and the chips along each direction, such as v5e:2x4 or v5p:2x2x4."
    )
  _check_compiler()
  # Nothing runs, so neither JAX nor libtpu need look for this machine's TPU.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies  # not needed without --topology

  chips = [int(number) for number in match[2].split("x")]
  chips += [1] * (3 - len(chips))
  # A host has up to 2 x 2 chips; a smaller slice is part of one.
  host = (min(chips[0], 2), min(chips[1], 2), 1)
  try:
    description = topologies.get_topology_desc(
      platform="tpu",
      topology_name=topology,
      chips_per_host_bounds=host,
      # Else each of v4's two cores is a device, and JAX makes no mesh of them.
      chip_config_name="megacore" if match[1] == "v4" else "default",
    )
  except jax.errors.JaxRuntimeError as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"libtpu cannot describe the slice {topology}: {reason}"
    ) from None
  return list(description.devices)


def _check_compiler() -> None:
  """Raises UserError unless JAX will find libtpu."""
  path = os.environ.get("TPU_LIBRARY_PATH")
  if (path and os.path.isfile(path)) or importlib.util.find_spec("libtpu"):
    return
  wanted = next(
    requirement.split(";")[0]
    for requirement in importlib.metadata.requires("jax") or ()
    if requirement.startswith("libtpu")
  )
  raise UserError(
    "--topology needs the TPU compiler, libtpu, which is neither installed nor"
    " named by the environment variable TPU_LIBRARY_PATH. No TPU is needed."
    f" jax {jax.__version__} wants this version: pip install --no-deps"
    f' --target=libtpu "{wanted.strip()}", then set'
    " TPU_LIBRARY_PATH=libtpu/libtpu/libtpu.so for this command. (Installed"
    " beside JAX it works as well, but then every start of JAX looks for a TPU"
    " and says so.)"
  )


@dataclasses.dataclass(frozen=True)
class Roofline:
  """How long one step takes at best, in seconds, by its slowest resource.

  Attributes:
    compute: the compiler's count of operations at the chip's peak.
    memory: the compiler's count of bytes at the chip's memory bandwidth.
    exchange: what crosses towers, over the links.
    gradients: what is summed over images, over the links.
  """

  compute: float
  memory: float
  exchange: float
  gradients: float

  def seconds(self, *, overlap: bool) -> float:
    """Of one step, if communication hides behind the rest, or if none does.

    The truth lies between: an exchange stands in the way of the next layer, the
    sum of the gradients runs beside the rest of the backward pass.
    """
    on_chip = max(self.compute, self.memory)
    if overlap:
      return max(on_chip, self.exchange, self.gradients)
    return on_chip + self.exchange + self.gradients


def sent_bytes(op: str, size: int, devices: int) -> float:
  """What each device sends, at least, for one collective.

  Args:
    op: the compiler's name.
    size: bytes of the result on one device.
    devices: in each group.
  """
  others = devices - 1
  match op:
    case "all-gather":  # its own part, to everybody
      return size * others / devices
    case "reduce-scatter":  # everybody else's part
      return size * others
    case "all-reduce":  # both
      return 2 * size * others / devices
  return size


def link_seconds(op: str, size: int, devices: int, chip: Chip) -> float:
  """Seconds that one collective needs at least; arguments as `sent_bytes`.

  Two devices are neighbours with one link; more form a ring, both ways round.
  """
  links = 1 if devices == 2 else 2
  return sent_bytes(op, size, devices) / (links * chip.link_bandwidth)
