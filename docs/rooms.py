"""The rooms of the package as a picture and as tables, read from its source.

`tests/imports_test.py` holds the order of the rooms and the graph of imports;
the sentences are the first lines of docstrings.
"""

import ast
import collections
import pathlib
from collections.abc import Sequence

from alexnet_jax.analysis.page import Html, element
from tests.imports_test import GRAPH, MODULES, PACKAGE, ROOMS, room

# The picture, top to bottom: a row may hold several rooms side by side.
ROWS = (
  ("commands",),
  ("analysis",),
  ("training",),
  ("model", "data"),
  ("runtime",),
)
# Pixels.
WIDTH, MARGIN, GAP, LINE, CHARACTER = 860, 12, 22, 18, 7.9

STYLE = """
text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1b1b1f; }
.name { font-weight: 700; font-size: 15px; }
.note { fill: #6b6b76; font-size: 12px; }
rect { fill: #f4f6fa; stroke: #8b93a7; }
path { stroke: #8b93a7; stroke-width: 1.5; fill: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8e8ec; }
  .note { fill: #9a9aa6; }
  rect { fill: #22242b; stroke: #6b7186; }
}
"""


def modules(name: str) -> list[str]:
  """The modules of a room, sorted, without the package's name."""
  return sorted(
    module.rsplit(".", 1)[-1] for module in MODULES if room(module) == name
  )


def imports() -> collections.Counter[tuple[str, str]]:
  """How many imports lead from a module of one room into another room."""
  return collections.Counter(
    (room(importer), room(imported))
    for importer, all_imported in GRAPH.items()
    for imported in all_imported
    if room(importer) != room(imported)
  )


def picture() -> str:
  """The rooms as an SVG document: a box each, with its modules and imports."""
  counts, parts, top = imports(), [], MARGIN
  for row in ROWS:
    width = (WIDTH - MARGIN * 2 - GAP * (len(row) - 1)) / len(row)
    boxes = [_lines(name, counts, width) for name in row]
    height = LINE * max(map(len, boxes)) + 14
    for place, (name, lines) in enumerate(zip(row, boxes, strict=True)):
      left = MARGIN + place * (width + GAP)
      parts.append(
        element(
          "rect", x=f"{left:g}", y=top, width=f"{width:g}", height=height, rx=6
        )
      )
      for number, (text, kind) in enumerate(lines):
        y = top + LINE * (number + 1) + 2
        parts.append(
          element("text", text, x=f"{left + 12:g}", y=y, class_=kind)
        )
      if name != ROWS[-1][-1]:
        parts.append(_arrow(left + width / 2, top + height))
    top += height + GAP
  height = top - GAP + MARGIN
  drawing = element(
    "svg",
    element("style", Html(STYLE)),
    *parts,
    xmlns="http://www.w3.org/2000/svg",
    viewBox=f"0 0 {WIDTH} {height}",
    width=WIDTH,
    height=height,
    role="img",
    aria_label="The rooms of the package; imports point down",
  )
  return (
    drawing.replace("aria_label", "aria-label").replace("><", ">\n<") + "\n"
  )


def _lines(
  name: str, counts: collections.Counter[tuple[str, str]], width: float
) -> list[tuple[str, str]]:
  """The lines of a room's box, as (text, CSS class)."""
  below = [
    f"{other} ({counts[name, other]})"
    for other in reversed(ROOMS)
    if counts[name, other]
  ]
  folder = "alexnet_jax/" if name == "commands" else f"alexnet_jax/{name}/"
  note = f"imports {', '.join(below)}" if below else "imports no other room"
  return [
    (folder, "name"),
    *((line, "note") for line in _wrapped(purpose(name).split(), width)),
    *((line, "modules") for line in _wrapped(modules(name), width, " · ")),
    (note, "note"),
  ]


def _wrapped(
  words: Sequence[str], width: float, separator: str = " "
) -> list[str]:
  """Lines of words that fit a box of so many pixels."""
  characters = int((width - 24) / CHARACTER)
  lines = [words[0]]
  for word in words[1:]:
    if len(lines[-1] + separator + word) > characters:
      lines.append(word)
    else:
      lines[-1] += separator + word
  return lines


def _arrow(x: float, y: float) -> Html:
  """From the bottom of a box to the row below."""
  end = y + GAP - 4
  return element(
    "path",
    d=f"M{x:g} {y:g} V{end:g} M{x - 5:g} {end - 6:g} L{x:g} {end:g}"
    f" L{x + 5:g} {end - 6:g}",
  )


def tables() -> str:
  """A table a room, highest first: each file and what it is for."""
  parts = []
  for name in reversed(ROOMS):
    parts += [f"### {name.capitalize()}", "", purpose(name), ""]
    parts += ["| file | |", "|---|---|"]
    for module in modules(name):
      path = _folder(name) / f"{module}.py"
      link = f"../{path.relative_to(PACKAGE.parent)}"
      parts.append(f"| [{module}.py]({link}) | {_first_line(path)} |")
    parts.append("")
  return "\n".join(parts).rstrip()


def purpose(name: str) -> str:
  """What a room is for, in one sentence."""
  if name == "commands":  # the package's own docstring is about the library
    return "What people type: flags, one call into a room below, a table."
  return _first_line(_folder(name) / "__init__.py")


def _folder(name: str) -> pathlib.Path:
  return PACKAGE if name == "commands" else PACKAGE / name


def _first_line(path: pathlib.Path) -> str:
  """The first line of a module's docstring; "" if there is none."""
  text = ast.get_docstring(ast.parse(path.read_text())) or ""
  return text.partition("\n")[0]
