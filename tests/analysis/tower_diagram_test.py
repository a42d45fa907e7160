"""The report's drawing of the exchanges: lines, bars and bytes."""

import re

from alexnet_jax.analysis import sections
from alexnet_jax.analysis.collectives import Collective, DeclaredExchange
from alexnet_jax.analysis.programs import Audit
from alexnet_jax.model.network import Network

# Section 3.5 and Figure 2, per image: array elements of all towers in the
# forward pass, of one tower in the backward pass.
FORWARD = {"conv3": 13 * 13 * 256, "fc6": 9216, "fc7": 4096, "fc8": 1000}
BACKWARD = {"conv3": 13 * 13 * 128, "fc6": 4608, "fc7": 2048}


def make_audit(*more):
  rows = [("forward", layer, numbers) for layer, numbers in FORWARD.items()]
  rows += [("backward", layer, numbers) for layer, numbers in BACKWARD.items()]
  declared = [DeclaredExchange(*row[:2], "any", 128 * row[2]) for row in rows]
  between = [
    Collective("train", phase, layer, "x", ("model",), "f32", n, 512 * n)
    for phase, layer, n in (*rows, *more)
  ]
  gradients = Collective(
    "train", "update", "gradients", "all-reduce", ("data",), "f32", 10**7, 10**8
  )
  return Audit(
    mesh={"data": 1, "model": 2},
    platform="cpu",
    batch_size=128,
    collectives=[*between, gradients],
    declared={"train": declared, "evaluate": []},
    findings=[],
    memory={},
    flops=0.0,
    bytes_accessed=0.0,
    arithmetic=0.0,
    products="float32",
    traffic=None,
  )


def bars(figure):
  """The class and the height of each bar."""
  found = re.findall(r'<rect[^>]*height="([\d.]+)" class="(\w+)">', figure)
  return [(kind, float(height)) for height, kind in found]


def test_the_drawing_has_the_papers_exchanges_and_bytes():
  figure = sections.exchange_figure(make_audit(), Network())
  # Four layers, from each tower to the other.
  assert figure.count('class="crossing"') == 2 * 4
  assert figure.count('class="box"') == 2 * 8
  assert 'class="undeclared"' not in figure
  # conv3: 128 images x 43,264 elements x 4 bytes = 22.2 MB forward.
  for size in ("22.2", "11.1", "4.72", "2.36", "2.1", "1.05", "0.512"):
    assert f">{size}</text>" in figure
  heights = [height for kind, height in bars(figure) if kind == "forward"]
  assert len(heights) == 4
  for height, numbers in zip(heights, FORWARD.values(), strict=True):
    assert abs(height / heights[0] - numbers / FORWARD["conv3"]) < 0.01
  assert sum(kind == "backward" for kind, _ in bars(figure)) == 3


def test_undeclared_exchanges_are_red():
  more = [("forward", "conv2", 1000), ("forward", "unknown", 7)]
  figure = sections.exchange_figure(make_audit(*more), Network())
  assert figure.count('class="undeclared"') == 2 * 2 + 2
  assert ">unknown</text>" in figure
