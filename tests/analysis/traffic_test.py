"""The traffic of kernels, counted by hand in a short program."""

from alexnet_jax.analysis.traffic import LayerTraffic, measure

# float32 arrays of 10 and of 1,000 elements: 40 and 4,000 bytes.
PROGRAM = """
%fused_part (p0: f32[1000], p1: f32[10]) -> f32[10] {
  %p1 = f32[10]{0} parameter(1)
  %p0 = f32[1000]{0} parameter(0)
  %part = f32[10]{0} slice(%p0), slice={[0:10]}
  ROOT %sum = f32[10]{0} add(%part, %p1),\
 metadata={op_name="jit(f)/jvp()/fc6/add"}
}

%fused_whole (q0: f32[1000]) -> f32[10] {
  %q0 = f32[1000]{0} parameter(0)
  %some = f32[10]{0} slice(%q0), slice={[0:10]}
  %all = f32[] reduce(%q0), to_apply=%add
  ROOT %both = f32[10]{0} multiply(%some, %all)
}

%again (r0: f32[10]) -> f32[10] {
  %r0 = f32[10]{0} parameter(0)
  ROOT %twice = f32[10]{0} add(%r0, %r0), metadata={op_name="jit(f)/jvp()/mul"}
}

ENTRY %main (big: f32[1000], small: f32[10]) -> (f32[10], bf16[2,10]) {
  %big = f32[1000]{0} parameter(0), metadata={op_name="state.net.fc7.kernel"}
  %small = f32[10]{0} parameter(1)
  %sliced = f32[10]{0} fusion(%big, %small), kind=kLoop, calls=%fused_part
  %conv = (bf16[2,10]{1,0}, u8[64]{0}) custom-call(%big, %sliced),\
 custom_call_target="c", metadata={op_name="jit(f)/transpose(jvp())/conv1/c"}
  %map = bf16[2,10]{1,0} get-tuple-element(%conv), index=0
  %line = bf16[20]{0} bitcast(%map)
  %s = ((f32[10]{0}), f32[2,10]{1,0}) all-gather-start(%sliced),\
 metadata={op_name="jit(f)/jvp()/fc6/all_gather"}
  %new = f32[10]{0} fusion(%big), kind=kLoop, calls=%fused_whole,\
 metadata={op_name="jit(f)/update/sub"}
  %end = f32[2,10]{1,0} all-gather-done(%s)
  %same = f32[10]{0} call(%sliced), to_apply=%again
  ROOT %out = (f32[10]{0}, bf16[2,10]{1,0}) tuple(%new, %map)
}
"""


def test_operands_and_results_of_each_kernel_are_counted():
  found = measure(PROGRAM)
  assert found.layers == [
    # A slice of 10, another 10 read, 10 written; 10 gathered to 20.
    LayerTraffic("forward", "fc6", 2, (40 + 40 + 40) + (40 + 80)),
    LayerTraffic("forward", "other", 1, 40 + 40 + 40),  # inside of the call
    # 20 of two bytes, and 64 bytes to work with.
    LayerTraffic("backward", "conv1", 1, 4000 + 40 + 40 + 64),
    # Read whole too, so not as a slice; named by its parameter.
    LayerTraffic("update", "fc7", 1, 4000 + 40),
  ]
  assert found.kernels == 5
  assert found.bytes == sum(row.bytes for row in found.layers)
