"""What the towers tell each other, as a part of a page: verdict, figure, table.

The figure is Figure 2 of the paper seen from above: a row a tower, crossing
lines where the compiled program moves something between them, and below each
crossing how many bytes.
"""

import collections

from jax.sharding import Mesh

from alexnet_jax import audit
from alexnet_jax.analysis import page
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.audit import Audit
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network, shapes
from alexnet_jax.model.sharding import MODEL
from alexnet_jax.training.recipe import Recipe

# Pixels of the figure: a column a layer, a row a tower, bars below.
COLUMN, ROW, BAR = 92, 60, 90
BOX = 58, 28
UNITS = (("MB", 1e6), ("kB", 1e3), ("bytes", 1))


def section(recipe: Recipe, mesh: Mesh) -> Html:
  """Audits what `recipe` compiles to on `mesh`, and shows it."""
  found = audit.audit(recipe, mesh)
  verdict = "; ".join(found.findings) or (
    "As declared: the towers meet at "
    + (", ".join(recipe.network.exchanges) or "no layer")
    + " and nowhere else."
  )
  where = sharding.describe_mesh(mesh)
  note = f"Compiled here for {where}, batch size {recipe.batch_size}."
  parts = [element("p", verdict), element("p", note, class_="note")]
  if not found.collectives:
    text = "One device holds everything: nothing crosses devices."
    return page.join([*parts, element("p", text, class_="note")])
  if found.mesh[MODEL] > 1:
    parts.append(figure(found, recipe.network))
  return page.join([*parts, _table(found)])


def _table(found: Audit) -> Html:
  rows = [
    (
      item.program,
      item.phase,
      item.layer,
      item.op,
      " and ".join(item.axes),
      item.dtype,
      f"{item.bytes:,}",
    )
    for item in found.collectives
  ]
  headings = ("program", "pass", "layer", "operation", "over", "type")
  return page.table((*headings, "bytes on a device, a step"), rows)


def figure(found: Audit, network: Network) -> Html:
  """The towers and what crosses between them in one training step.

  Args:
    found: of a mesh with several devices along "model".
    network: that was audited.
  """
  sent: collections.Counter[tuple[str, str]] = collections.Counter()
  for item in found.collectives:
    if item.program == "train" and MODEL in item.axes:
      sent[item.layer, item.phase] += item.bytes
  most = max(sent.values())
  unit, scale = next(x for x in UNITS if x[1] <= most)
  declared = {(item.layer, item.phase) for item in found.declared["train"]}
  layers = [shape.name for shape in shapes(network)]
  # What could be attributed to no layer stands behind the last one.
  layers += sorted({layer for layer, _ in sent} - set(layers))

  top = ROW * network.towers
  parts = []
  for column, layer in enumerate(layers):
    x = COLUMN * column + COLUMN // 2
    crossings = [
      (phase, sent[layer, phase], (layer, phase) in declared)
      for phase in ("forward", "backward")
      if sent[layer, phase]
    ]
    as_declared = all(fine for _, _, fine in crossings)
    for tower in range(network.towers):
      y = ROW * tower + ROW // 2
      for other in range(network.towers) if column else ():
        if other == tower or crossings:
          kind = "own" if other == tower else "crossing"
          kind = kind if as_declared or other == tower else "undeclared"
          start = (x - COLUMN + BOX[0] // 2, ROW * other + ROW // 2)
          parts.append(_line(start, (x - BOX[0] // 2, y), kind))
      parts.append(_box(x, y, layer))
    for place, (phase, size, fine) in enumerate(crossings):
      height = max(BAR * size / most, 1)
      left = x - 38 + 40 * place
      kind = phase if fine else "undeclared"
      parts.append(
        element(
          "rect", x=left, y=f"{top + 20 + BAR - height:.1f}", width=36,
          height=f"{height:.1f}", class_=kind,
        )
      )  # fmt: skip
      parts.append(
        _text(left + 18, top + 14 + BAR - height, f"{size / scale:.3g}")
      )
    if crossings:
      parts.append(_text(x, top + BAR + 36, layer))
  width, height = COLUMN * len(layers), top + BAR + 44
  drawing = element(
    "svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height,
    role="img",
  )  # fmt: skip
  images = found.batch_size // found.mesh[sharding.DATA]
  text = (
    f"Between towers, {unit} on a device for a training step of {images}"
    " images:"
  )
  legend = element(
    "p",
    text,
    *(
      page.join([" ", element("i", class_=phase), f" {phase} pass"])
      for phase in ("forward", "backward")
    ),
    class_="note",
  )
  return element(
    "figure", legend, element("div", drawing, class_="wide"), class_="towers"
  )


def _line(start: tuple[int, int], end: tuple[int, int], kind: str) -> Html:
  (x1, y1), (x2, y2) = start, end
  return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _box(x: int, y: int, name: str) -> Html:
  width, height = BOX
  box = element(
    "rect", x=x - width // 2, y=y - height // 2, width=width, height=height,
    rx=4, class_="box",
  )  # fmt: skip
  return page.join([box, _text(x, y + 4, name)])


def _text(x: float, y: float, text: str) -> Html:
  return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}")
