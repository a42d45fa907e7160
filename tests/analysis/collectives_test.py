"""Collectives read from the text of compiled programs."""

import pytest

from alexnet_jax.analysis import collectives, programs
from alexnet_jax.analysis.collectives import DeclaredExchange
from alexnet_jax.model import sharding

DECLARED = [
  DeclaredExchange("forward", "conv3", "all-gather", 43264),
  DeclaredExchange("forward", "fc6", "all-gather", 9216),
  DeclaredExchange("forward", "fc8", "all-reduce", 1000),
  DeclaredExchange("backward", "conv3", "reduce-scatter", 21632),
  DeclaredExchange("backward", "fc6", "reduce-scatter", 4608),
]
LINES = {
  # TPU: asynchronous, bfloat16, tiled layouts.
  "%all-gather.1 = bf16[1,13,13,256]{3,0,2,1:T(8,128)(2,1)S(1)} all-gather(%f),"
  ' replica_groups={{0,1},{2,3}}, metadata={op_name="jit(t)/jvp()/shard_map/'
  'conv3/all_gather"}': [
    ("forward", "conv3", "all-gather", ("model",), "bf16", 86528)
  ],
  # TPU: a reduce-scatter that became an all-reduce and lost its name.
  "%all-reduce.2 = f32[1,6,6,256]{3,2,1,0} all-reduce(%f),"
  " replica_groups=[2,2]<=[4]": [
    ("backward", "fc6", "all-reduce", ("model",), "f32", 36864)
  ],
  # GPU: a started collective returns its operands too.
  "%all-gather-start = ((f32[1,4608]{1,0}, f32[1,21632]{1,0}),"
  " (f32[1,9216]{1,0}, f32[1,43264]{1,0})) all-gather-start(%a, %b),"
  ' replica_groups={{0,1},{2,3}}, metadata={op_name="jit(t)/jvp()/fc6/x"}': [
    ("forward", "fc6", "all-gather", ("model",), "f32", 36864),
    ("forward", "conv3", "all-gather", ("model",), "f32", 173056),
  ],
  "%all-gather-done = f32[1,9216]{1,0} all-gather-done(%all-gather-start)": [],
  # All devices with each other.
  "%r = f32[] all-reduce(%x), replica_groups={}": [
    ("forward", "unknown", "all-reduce", ("data", "model"), "f32", 4)
  ],
  # Over "data": groups written as a transposed range.
  "%r = (f32[3,3]{1,0}, f32[]) all-reduce(%x, %y),"
  " replica_groups=[2,2]<=[2,2]T(1,0),"
  ' metadata={op_name="jit(t)/transpose(jvp())/shard_map/psum"}': [
    ("update", "gradients", "all-reduce", ("data",), "f32", 36),
    ("forward", "metrics", "all-reduce", ("data",), "f32", 4),
  ],
  # Groups of one device.
  "%r = f32[7] all-reduce(%x), replica_groups={{0},{1},{2},{3}}": [],
  "%p = bf16[1,21632]{1,0} collective-permute(%x),"
  " source_target_pairs={{0,1},{1,0},{2,3},{3,2}},"
  ' metadata={op_name="jit(t)/transpose(jvp())/conv3/x"}': [
    ("backward", "conv3", "collective-permute", ("model",), "bf16", 43264)
  ],
  "%n = f32[4] add(%all-reduce.2, %all-gather.1)": [],
  # jax 0.11: axes by name.
  "%g = f32[1,9216]{1,0} all-gather(%x),"
  " replica_groups=mesh['data'=2,'model'=2] {'model'}, dimensions={1},"
  ' metadata={op_name="jit(t)/jvp()/fc6/x"}': [
    ("forward", "fc6", "all-gather", ("model",), "f32", 36864)
  ],
  "%r = f32[] all-reduce(%x), replica_groups=mesh['data'=2,'model'=2] {'data'},"
  " use_global_device_ids=true": [
    ("forward", "metrics", "all-reduce", ("data",), "f32", 4)
  ],
  "%r = f32[] all-reduce(%x), replica_groups=mesh['a'=4] {'a'}": [
    ("forward", "unknown", "all-reduce", ("data", "model"), "f32", 4)
  ],
  # Another order of the devices, and the second half of one axis.
  "%r = f32[] all-reduce(%x),"
  " replica_groups=mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}": [
    ("forward", "metrics", "all-reduce", ("data",), "f32", 4)
  ],
  "%r = f32[2] all-reduce(%x), replica_groups=mesh['a'=4] {'a':(2)2}": [
    ("forward", "unknown", "all-reduce", ("model",), "f32", 8)
  ],
  "%r = f32[] all-reduce(%x), replica_groups=mesh['a'=4] {'a':(1)2}": [
    ("forward", "metrics", "all-reduce", ("data",), "f32", 4)
  ],
  "%r = f32[7] all-reduce(%x), replica_groups=mesh['a'=1,'b'=4] {'a'}": [],
  # GPU: the start of a sum that returns its operands too.
  "%s = ((f32[3,3]{1,0}, f32[]), (f32[3,3]{1,0}, f32[]))"
  " all-reduce-start(%a, %b), replica_groups={{0,2},{1,3}},"
  ' metadata={op_name="jit(t)/transpose(jvp())/shard_map/psum"}': [
    ("update", "gradients", "all-reduce", ("data",), "f32", 36),
    ("forward", "metrics", "all-reduce", ("data",), "f32", 4),
  ],
}


@pytest.mark.parametrize("line", LINES)
def test_one_instruction_is_read_and_attributed(line):
  mesh = sharding.make_mesh(2, 2)
  found = collectives.find(line, "train", mesh, DECLARED, {9})
  assert [
    (c.phase, c.layer, c.op, c.axes, c.dtype, c.bytes) for c in found
  ] == LINES[line]


def test_more_traffic_than_declared_is_a_finding():
  mesh = sharding.make_mesh(1, 2)
  declared = [DeclaredExchange("forward", "conv3", "all-gather", 100)]
  line = (
    "  %a = f32[10,10]{1,0} all-gather(%x), replica_groups={{0,1}},"
    ' metadata={op_name="jit(f)/conv3/all_gather"}\n'
  )
  once, twice = (
    programs.compare(
      collectives.find(text, "train", mesh, declared, set()),
      declared,
      "train",
      mesh,
    )
    for text in (line, line + line.replace("%a", "%b"))
  )
  assert once == []
  assert twice == [
    "train: the exchange at conv3, forward pass, moves 200 numbers; 100 are"
    " enough"
  ]
