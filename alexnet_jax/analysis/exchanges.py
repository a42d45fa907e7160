"""What the towers tell each other, as a part of a page: verdict, figure, table.

The figure shows what the compiled program moves between the towers, in bytes.
"""

import collections

from jax.sharding import Mesh

from alexnet_jax import audit
from alexnet_jax.analysis import page, tower_diagram
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.audit import Audit
from alexnet_jax.model import sharding
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import MODEL
from alexnet_jax.training.recipe import Recipe


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
  """The towers and what passes between them in one training step.

  Args:
    found: of a mesh with several devices along "model".
    network: that was audited.
  """
  sent: collections.Counter[tuple[str, str]] = collections.Counter()
  for item in found.collectives:
    if item.program == "train" and MODEL in item.axes:
      sent[item.layer, item.phase] += item.bytes
  declared = {(item.layer, item.phase) for item in found.declared["train"]}
  drawing = tower_diagram.draw(
    network,
    (
      tower_diagram.Exchange(*place, size, place in declared)
      for place, size in sent.items()
    ),
  )
  images = found.batch_size // found.mesh[sharding.DATA]
  note = (
    "Bytes that a device holds after each exchange between towers, in a"
    f" training step of {images} images."
  )
  return element(
    "figure",
    element("p", note, class_="note"),
    element("div", drawing, class_="wide"),
  )
