"""Chips to compile for without owning them: TPU slices and hosts of GPUs."""

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Iterator

import jax

from alexnet_jax.analysis.chips import CHIPS, GIB, Gpu
from alexnet_jax.runtime.command import UserError

HELP = "chips to compile for, such as v5e:2x4 (TPUs) or h100:8, h100:2x8 (GPUs)"


def compile_only_devices(topology: str) -> list[jax.Device]:
  """The devices of a topology, one per chip; they can only be compiled for.

  Args:
    topology: a chip of CHIPS, a colon, and for TPUs the number of chips along
      each direction ("v5p:2x2x4"), for GPUs their number ("h100:8") or the
      number of hosts and of the GPUs of each ("h100:2x8").

  Raises:
    UserError: the compiler is not installed, or there is no such topology.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+){0,2})", topology)
  chip = CHIPS.get(match[1]) if match else None
  sizes = [int(size) for size in match[2].split("x")] if match else []
  is_gpu = isinstance(chip, Gpu)
  if not chip or 0 in sizes or len(sizes) not in ((1, 2) if is_gpu else (2, 3)):
    raise UserError(
      f"--topology={topology} is not valid: expected one of"
      f" {', '.join(CHIPS)}, a colon, and for TPUs the number of chips along"
      " each direction (v5e:2x4, v5p:2x2x4), for GPUs their number (h100:8) or"
      " the number of hosts and of GPUs per host (h100:2x8)."
    )
  if is_gpu and len(sizes) == 2 and sizes[0] > 1 and not chip.network_bandwidth:
    raise UserError(
      f"--topology={topology} has several hosts, and no published figure says"
      f" how {match[1]} GPUs of different hosts are connected. Give the number"
      f" of GPUs of one host, such as {match[1]}:{sizes[1]}."
    )
  (_check_gpu_compiler if is_gpu else _check_tpu_compiler)()
  # Nothing is executed, so JAX must not search for accelerators here.
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies  # not needed without --topology

  try:
    if is_gpu:
      # Says that a module is missing which is needed to run programs only.
      logging.getLogger("jax_plugins.xla_cuda13").setLevel(logging.ERROR)
      description = topologies.get_topology_desc(
        platform="cuda",
        target_config=_describe(chip),
        topology="x".join(map(str, [1] * (3 - len(sizes)) + sizes)),
      )
    else:
      description = topologies.get_topology_desc(
        platform="tpu", topology_name=topology, **_tpu_options(match[1], sizes)
      )
  except jax.errors.JaxRuntimeError as error:
    reason = " ".join(str(error).split())
    message = f"the compiler cannot describe {topology}: {reason}"
    raise UserError(message) from None
  return list(description.devices)


def _tpu_options(name: str, sizes: list[int]) -> dict[str, object]:
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  return {
    # A host has up to 2 x 2 chips; a smaller slice is a part of one host.
    "chips_per_host_bounds": (min(sizes[0], 2), min(sizes[1], 2), 1),
    # By default each of v4's two cores is a device, which no mesh accepts.
    "chip_config_name": "megacore" if name == "v4" else "default",
  }


def _describe(gpu: Gpu) -> str:
  """The target configuration of XLA's compiler, as its text format.

  XLA has such texts of its own (xla/backends/gpu/target_config/specs), but not
  of every GPU, and not within reach of a caller.
  """
  major, minor, accelerated = re.fullmatch(
    r"(\d+)\.(\d)(a?)", gpu.capability
  ).groups()
  extension = "ACCELERATED_FEATURES" if accelerated else "NONE"
  return f"""
    platform_name: "CUDA"
    device_description_str: "{gpu.name}"
    dnn_version_info {{ major: 9 minor: 10 }}
    gpu_device_info {{
      name: "{gpu.name}"
      device_vendor: "NVIDIA Corporation"
      cuda_compute_capability {{
        major: {major} minor: {minor} feature_extension: {extension}
      }}
      core_count: {gpu.multiprocessors}
      fpus_per_core: {gpu.cores}
      clock_rate_ghz: {gpu.clock / 1e9}
      device_memory_size: {gpu.memory:.0f}
      memory_bandwidth: {gpu.memory_bandwidth:.0f}
      l2_cache_size: {gpu.cache}
      shared_memory_per_core: {gpu.shared_memory}
      shared_memory_per_block_optin: {gpu.shared_memory - 1024}
      shared_memory_per_block: 49152
      threads_per_core_limit: {gpu.threads}
      threads_per_block_limit: 1024
      threads_per_warp: 32
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      block_dim_limit_x: 2147483647
      block_dim_limit_y: 65535
      block_dim_limit_z: 65535
      registers_per_core_limit: 65536
      registers_per_block_limit: 65536
      device_address_bits: 64
      pcie_bandwidth: {32 * GIB}
      driver_version: "13.0.0"
      runtime_version: "12.8.0"
      compile_time_toolkit_version: "12.8.0"
      dnn_version: "9.10.0"
    }}
  """


def _check_tpu_compiler() -> None:
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


def _check_gpu_compiler() -> None:
  """Raises UserError if JAX cannot find its plugin for NVIDIA GPUs."""
  if not importlib.util.find_spec("jax_plugins") or not any(
    importlib.util.find_spec(f"jax_plugins.xla_cuda{version}")
    for version in (12, 13)
  ):
    raise _missing_gpu_compiler()


def _missing_gpu_compiler() -> UserError:
  return UserError(
    "--topology needs the compiler for NVIDIA GPUs, of which a part is not"
    " installed. (Neither a GPU nor all of CUDA is needed.) For jax"
    f" {jax.__version__}: pip install --no-deps --target=gpu-compiler"
    f' "jax-cuda13-pjrt=={jax.__version__}" "nvidia-cuda-nvcc==13.*"'
    ' "nvidia-nvvm==13.*", then set PYTHONPATH=gpu-compiler for this command.'
  )


@contextlib.contextmanager
def compiling() -> Iterator[None]:
  """Within it, an error of the compiler is a UserError.

  A program may need more memory than a chip has. The compiler for GPUs looks
  for the assembler and the library of mathematical functions in many places,
  and only when it needs them.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    text = str(error)
    if re.search("libdevice|ptxas", text):
      raise _missing_gpu_compiler() from None
    reason = text.splitlines()[0]
    raise UserError(
      f"the program cannot be compiled. {reason} If it is memory, choose a"
      " smaller batch_size or more devices."
    ) from error
