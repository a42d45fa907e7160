"""The lower bounds on a step are the published figures and arithmetic."""

import dataclasses

from alexnet_jax.analysis import chips, collectives, programs
from alexnet_jax.analysis.roofline import Roofline, roofline
from alexnet_jax.analysis.traffic import Traffic

FIGURES = {
  "rates": {"float32": 1e12, "bfloat16": 2e12},
  "memory": 1e9,
  "memory_bandwidth": 1e11,
  "neighbour_bandwidth": 1e9,
  "link_bandwidth": 2e9,
  "source": "",
}


def collective(phase, op, axis, size, hosts=1):
  return collectives.Collective(
    "train", phase, "", op, (axis,), "f32", size // 4, size, hosts
  )


COUNTED = programs.Audit(
  mesh={"data": 4, "model": 2},
  platform="tpu",
  batch_size=64,
  collectives=[
    # Two neighbours, one link: half of 2 GB.
    collective("forward", "all-gather", "model", 2 * 10**9),
    # The other device's half, 1 GB.
    collective("backward", "reduce-scatter", "model", 10**9),
    # A ring of four, two links: 2 x 3/4 x 4 GB.
    collective("update", "all-reduce", "data", 4 * 10**9, hosts=2),
  ],
  declared={},
  findings=[],
  memory={},
  flops=5e12,
  bytes_accessed=4e11,
  arithmetic=1e12,
  products="float32",
  traffic=None,
)


def test_the_compilers_counts_are_taken_where_it_counts():
  bounds = roofline(COUNTED, chips.Chip(**FIGURES))
  assert bounds == Roofline(
    compute=5.0, memory=4.0, exchange=2.0, gradients=3.0, network=0.0
  )
  assert bounds.seconds(overlap=True) == 5.0
  assert bounds.seconds(overlap=False) == 10.0


def test_without_counts_products_and_kernels_are_and_a_network_is_apart():
  compiled = dataclasses.replace(
    COUNTED,
    flops=0.0,
    bytes_accessed=0.0,
    products="bfloat16",
    traffic=Traffic(bytes=2 * 10**11, kernels=1, layers=[]),
  )
  bounds = roofline(compiled, chips.Chip(**FIGURES, network_bandwidth=0.5e9))
  # The two devices of a host send 4 GB to each other (2 x 1/2 x 4 GB), then
  # each sends half of the sum to the other host: 2 GB, together 6 as before.
  assert bounds == Roofline(
    compute=0.5, memory=2.0, exchange=2.0, gradients=2.0, network=4.0
  )
  assert bounds.seconds(overlap=True) == 4.0
  assert bounds.seconds(overlap=False) == 10.0
