"""Published figures of TPU and NVIDIA chips."""

import dataclasses

KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """Published figures of one chip."""

  # Peak FLOP/s of dense products, by `Network.precision`, and "bfloat16".
  rates: dict[str, float]
  memory: float  # bytes
  memory_bandwidth: float  # bytes/s
  # Bytes/s that a device can send to others of its host or slice at once, to
  # one neighbour, and to several.
  neighbour_bandwidth: float
  link_bandwidth: float
  # Bytes/s that a device can send to other hosts; 0: the links join all hosts.
  network_bandwidth: float = 0.0
  source: str  # of the figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu(Chip):
  """An NVIDIA chip, with what its compiler asks for."""

  name: str  # as the driver reports it
  capability: str  # compute capability, such as "9.0a"
  multiprocessors: int
  cores: int  # float32 units of a multiprocessor
  clock: float  # Hz
  cache: int  # bytes of L2
  shared_memory: int  # bytes of a multiprocessor
  threads: int = 2048  # of a multiprocessor


def _tpu(peak: float, links: float, ports: int, **figures) -> Chip:
  """A TPU; of its neighbours on a ring it uses two at once.

  Args:
    peak: bfloat16 FLOP/s. A product of float32 numbers takes 3 or 6 passes.
    links: bytes/s over all ports in both directions, as published.
    ports: number of neighbours.
    **figures: the other fields.
  """
  one = links / ports / 2
  passes = {"bfloat16": 1, "default": 1, "tf32": 3, "float32": 6}
  return Chip(
    rates={precision: peak / count for precision, count in passes.items()},
    neighbour_bandwidth=one,
    link_bandwidth=2 * one,
    **figures,
  )


def _gpu(bfloat16: float, tf32: float, float32: float, **figures) -> Gpu:
  """A GPU, from peak FLOP/s; its links reach all GPUs of its host alike."""
  precisions = {"bfloat16": bfloat16, "tf32": tf32, "float32": float32}
  figures["neighbour_bandwidth"] = figures["link_bandwidth"]
  return Gpu(rates=precisions | {"default": tf32}, **figures)


_DOCS = "cloud.google.com/tpu/docs/"
_HOPPER = {"capability": "9.0a", "multiprocessors": 132, "cores": 128}
_HOPPER |= {"clock": 1.98e9, "cache": 50 * MIB, "shared_memory": 228 * KIB}
# NVLink and NVSwitch: half of the published two-way figure. The network of an
# H100, H200 and B200 is 400 Gbit/s, of an A100 200 Gbit/s for each GPU.
CHIPS = {
  "v4": _tpu(
    *(275e12, 600e9, 6),
    memory=32 * GIB,
    memory_bandwidth=1200e9,
    source=_DOCS + "v4; links: Jouppi et al., ISCA 2023",
  ),
  "v5e": _tpu(
    *(197e12, 400e9, 4),
    memory=16e9,
    memory_bandwidth=819e9,
    source=_DOCS + "v5e",
  ),
  "v5p": _tpu(
    *(459e12, 1200e9, 6),
    memory=95 * GIB,
    memory_bandwidth=2765e9,
    source=_DOCS + "v5p",
  ),
  "v6e": _tpu(
    *(918e12, 800e9, 4),
    memory=32e9,
    memory_bandwidth=1638e9,
    source=_DOCS + "v6e",
  ),
  "h100": _gpu(
    *(989.4e12, 494.7e12, 66.9e12),
    memory=80e9,
    memory_bandwidth=3350e9,
    link_bandwidth=450e9,
    network_bandwidth=50e9,
    source="NVIDIA H100 (SXM5) architecture paper, DGX H100 data sheet",
    name="NVIDIA H100 80GB HBM3",
    **_HOPPER,
  ),
  "h200": _gpu(
    *(989.4e12, 494.7e12, 66.9e12),
    memory=141e9,
    memory_bandwidth=4800e9,
    link_bandwidth=450e9,
    network_bandwidth=50e9,
    source="NVIDIA H200 (SXM) and DGX H200 data sheets",
    name="NVIDIA H200",
    **_HOPPER,
  ),
  "a100": _gpu(
    *(312e12, 156e12, 19.5e12),
    memory=80e9,
    memory_bandwidth=2039e9,
    link_bandwidth=300e9,
    network_bandwidth=25e9,
    source="NVIDIA A100 80 GB (SXM4) and DGX A100 data sheets",
    name="NVIDIA A100-SXM4-80GB",
    capability="8.0",
    multiprocessors=108,
    cores=64,
    clock=1.41e9,
    cache=40 * MIB,
    shared_memory=164 * KIB,
  ),
  "b200": _gpu(
    *(2250e12, 1125e12, 75e12),
    memory=180e9,
    memory_bandwidth=8000e9,
    link_bandwidth=900e9,
    network_bandwidth=50e9,
    source="NVIDIA HGX B200 and DGX B200 data sheets",
    name="NVIDIA B200",
    capability="10.0a",
    multiprocessors=148,
    cores=128,
    clock=1.965e9,
    cache=126 * MIB,
    shared_memory=228 * KIB,
  ),
  # Without NVLink: the links are PCIe 4.0 and 3.0 x16.
  "l4": _gpu(
    *(121e12, 60e12, 30.3e12),
    memory=24e9,
    memory_bandwidth=300e9,
    link_bandwidth=32e9,
    source="NVIDIA L4 data sheet, without sparsity",
    name="NVIDIA L4",
    capability="8.9",
    multiprocessors=58,
    cores=128,
    clock=2.04e9,
    cache=48 * MIB,
    shared_memory=100 * KIB,
    threads=1536,
  ),
  # Turing has neither bfloat16 nor TF32: both are computed as float32.
  "t4": _gpu(
    *(8.1e12, 8.1e12, 8.1e12),
    memory=16e9,
    memory_bandwidth=320e9,
    link_bandwidth=16e9,
    source="NVIDIA T4 data sheet",
    name="Tesla T4",
    capability="7.5",
    multiprocessors=40,
    cores=64,
    clock=1.59e9,
    cache=4 * MIB,
    shared_memory=64 * KIB,
    threads=1024,
  ),
}
