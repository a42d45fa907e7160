"""The towers and their exchanges as an SVG drawing, for README and reports.

Figure 2 of the paper seen from above: a row per tower, a box per layer, lines
between the rows where the towers exchange activations, and below them a bar for
the bytes of each exchange.
"""

from collections.abc import Iterable
from typing import NamedTuple

from alexnet_jax.analysis import page
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import shapes

# Pixels: the labels on the left, a column per layer, a row per tower, the bars.
LABELS, COLUMN, ROW, BAR = 70, 95, 66, 80
BOX_WIDTH, BOX_HEIGHT = 74, 42
BAR_WIDTH = 36
UNITS = (("MB", 1e6), ("kB", 1e3), ("bytes", 1))

# A style inside an HTML page applies to all of it: each rule names the drawing.
STYLE = """
.towers { --ink: #1b1b1f; --faint: #6b6b76; --line: #c4c7d0; --box: #f4f6fa;
  --good: #1f6fb2; --bad: #c0392b; --forward: #1f6fb2; --backward: #d1642b; }
@media screen and (prefers-color-scheme: dark) {
  .towers { --ink: #e8e8ec; --faint: #9a9aa6; --line: #4a4d59; --box: #22242b;
    --good: #6db3ee; --bad: #ee7d70; --forward: #6db3ee; --backward: #f09a64; }
}
.towers text { fill: var(--ink); font: 12px system-ui, sans-serif;
  text-anchor: middle; }
.towers .name { font-weight: 600; font-size: 13px; }
.towers .size { fill: var(--faint); font-size: 11px; }
.towers .label { fill: var(--faint); text-anchor: start; }
.towers .box { fill: var(--box); stroke: var(--faint); rx: 4px; }
.towers .own { stroke: var(--line); stroke-width: 2; }
.towers .crossing { stroke: var(--good); stroke-width: 1.8; }
.towers line.undeclared { stroke: var(--bad); stroke-width: 1.8; }
.towers rect.undeclared { fill: var(--bad); }
.towers .forward { fill: var(--forward); }
.towers .backward { fill: var(--backward); }
"""


class Exchange(NamedTuple):
  """What passes between towers at one layer, in one direction of the step."""

  layer: str  # any text that is not a layer gets a column behind the last one
  phase: str  # "forward" or "backward"
  bytes: int  # of the result on one device
  declared: bool = True  # by the configuration; drawn in red if not


def draw(network: Network, exchanges: Iterable[Exchange]) -> Html:
  """An <svg> element that brings its own style, for light and dark pages.

  Args:
    network: whose layers are drawn, with the output shape of one tower.
    exchanges: at most one per layer and phase.
  """
  exchanges = list(exchanges)
  sizes = {x.name: "×".join(map(str, x.convolved)) for x in shapes(network)}
  sizes |= dict.fromkeys(sorted({x.layer for x in exchanges} - set(sizes)), "")
  most = max((x.bytes for x in exchanges), default=1)
  unit, scale = next(x for x in UNITS if x[1] <= max(most, 1))
  parts = [element("style", Html(STYLE))]
  for column, (layer, size) in enumerate(sizes.items()):
    here = [x for x in exchanges if x.layer == layer]
    x = LABELS + COLUMN * column + COLUMN // 2
    if column:
      parts += _lines(x, network.towers, here)
    rows = map(_row, range(network.towers))
    parts += [_box(x, y, layer, size) for y in rows]
    parts += _bars(x, ROW * network.towers, here, most, scale)
  parts += _labels(network.towers, unit if exchanges else "")
  width = LABELS + COLUMN * len(sizes)
  height = ROW * network.towers + (BAR + 44 if exchanges else 0)
  return element(
    "svg", *parts, xmlns="http://www.w3.org/2000/svg", class_="towers",
    viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
  )  # fmt: skip


def _row(tower: int) -> int:
  """The vertical centre of a tower's boxes."""
  return ROW * tower + ROW // 2


def _lines(x: int, towers: int, here: list[Exchange]) -> list[Html]:
  """A line to a layer from each tower that it reads."""
  crossing = "crossing" if all(x.declared for x in here) else "undeclared"
  return [
    element(
      "line", x1=x - COLUMN + BOX_WIDTH // 2, y1=_row(other),
      x2=x - BOX_WIDTH // 2, y2=_row(tower),
      class_="own" if other == tower else crossing,
    )
    for tower in range(towers)
    for other in range(towers)
    if other == tower or here
  ]  # fmt: skip


def _box(x: int, y: int, name: str, size: str) -> Html:
  left, top = x - BOX_WIDTH // 2, y - BOX_HEIGHT // 2
  box = _rectangle(left, top, BOX_WIDTH, BOX_HEIGHT, "box")
  texts = _text(x, y - 3, name, "name"), _text(x, y + 13, size, "size")
  return page.join([box, *texts])


def _bars(
  x: int, top: int, here: list[Exchange], most: int, scale: float
) -> list[Html]:
  """A bar per exchange with its size above, and the layer's name below."""
  parts = []
  for exchange in here:
    height = max(BAR * exchange.bytes / most, 1)
    left = x - BAR_WIDTH - 2 if exchange.phase == "forward" else x + 2
    y = top + 20 + BAR - height
    kind = exchange.phase if exchange.declared else "undeclared"
    parts.append(_rectangle(left, y, BAR_WIDTH, height, kind))
    size = f"{exchange.bytes / scale:.3g}"
    parts.append(_text(left + BAR_WIDTH // 2, y - 5, size, "value"))
  if here:
    parts.append(_text(x, top + BAR + 36, here[0].layer, "value"))
  return parts


def _labels(towers: int, unit: str) -> list[Html]:
  """On the left: the towers' names and what the bars are; no bars, no unit."""
  parts = [_text(4, _row(i) + 4, f"tower {i}", "label") for i in range(towers)]
  if unit:
    y = ROW * towers + 40
    parts.append(_text(4, y, unit, "label"))
    for line, phase in enumerate(("forward", "backward"), 1):
      colour = element("tspan", "■", class_=phase)
      text = page.join([colour, f" {phase}"])
      parts.append(_text(4, y + 20 * line, text, "label"))
  return parts


def _rectangle(x: int, y: float, width: int, height: float, kind: str) -> Html:
  y, height = f"{y:.1f}", f"{height:.1f}"
  return element("rect", x=x, y=y, width=width, height=height, class_=kind)


def _text(x: int, y: float, text: str, kind: str) -> Html:
  return element("text", text, x=x, y=f"{y:.1f}", class_=kind)
