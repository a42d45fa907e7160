"""Builds HTML pages; text is escaped wherever it is inserted."""

import base64
import hashlib
import html
import io
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

COLOURS = 6  # of curves, in report.css
MAX_POINTS = 2000  # per curve; longer curves show evenly spaced points


class Html(str):
  """Markup. Any other string is text and gets escaped."""


def element(tag: str, *children: Any, **attributes: Any) -> Html:
  """<tag attribute="...">children</tag>; `class_` sets the attribute class."""
  written = "".join(
    f' {name.rstrip("_")}="{html.escape(str(value))}"'
    for name, value in attributes.items()
  )
  if tag in ("img", "meta", "br"):
    return Html(f"<{tag}{written}>")
  return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[Any]) -> Html:
  """Concatenates the children; those that are not Html are escaped."""
  return Html("".join(map(_markup, children)))


def _markup(child: Any) -> str:
  return child if isinstance(child, Html) else html.escape(str(child))


def table(
  headings: Sequence[Any], rows: Iterable[Sequence[Any]], **attributes: Any
) -> Html:
  """A table that scrolls sideways if it is too wide."""
  head = element("tr", *(element("th", heading) for heading in headings))
  body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
  content = element("table", element("thead", head), element("tbody", *body))
  return element("div", content, **{"class_": "wide", **attributes})


def code(text: str) -> Html:
  """Code whose words are not broken at their hyphens."""
  words = [element("span", word) for word in text.split(" ")]
  spaced = [part for word in words for part in (" ", word)][1:]
  return element("code", *spaced)


def picture(pixels: np.ndarray, alt: str, kind: str = "PNG") -> Html:
  """An <img> that contains an image uint8[H,W,3]."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, kind)
  data = base64.b64encode(buffer.getvalue()).decode()
  height, width = pixels.shape[:2]
  source = f"data:image/{kind.lower()};base64,{data}"
  return element("img", src=source, alt=alt, width=width, height=height)


class Curve(NamedTuple):
  """A curve of a chart."""

  name: str
  points: Sequence[tuple[float, float | None]]  # (x, y)
  colour: int | None  # a number counts the page's colours; None: faint
  dashed: bool = False


def chart(title: str, x_label: str, unit: str, curves: Iterable[Curve]) -> Html:
  """A chart of curves that readers can zoom into.

  Args:
    title: above the chart.
    x_label: name of the horizontal axis.
    unit: of the vertical axis, such as "%"; "" if there is none.
    curves: points whose y is None or not finite are left out.
  """
  series = []
  for curve in curves:
    finite = [
      (x, y) for x, y in curve.points if y is not None and math.isfinite(y)
    ]
    if not finite:
      continue
    shown = finite[:: -(-len(finite) // MAX_POINTS)]
    if shown[-1] != finite[-1]:
      shown.append(finite[-1])
    rounded = [[float(f"{value:.7g}") for value in point] for point in shown]
    x, y = zip(*rounded, strict=True)
    colour = "faint" if curve.colour is None else f"c{curve.colour % COLOURS}"
    look = {"colour": f"var(--{colour})", "dashed": curve.dashed}
    series.append({"name": curve.name, **look, "x": x, "y": y})
  data = {"title": title, "x": x_label, "unit": unit, "series": series}
  # No character may end the <script> around the JSON.
  text = json.dumps(data, allow_nan=False)
  safe = Html(text.replace("<", "\\u003c").replace("&", "\\u0026"))
  script = element("script", safe, type="application/json")
  caption = element("figcaption", title + (f" ({unit})" if unit else ""))
  return element("figure", caption, script, class_="chart")


def document(title: str, body: Html) -> str:
  """The page; its policy forbids loading anything and running other scripts."""
  folder = pathlib.Path(__file__).parent
  script = (folder / "report.js").read_text()
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  policy = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    f" script-src 'sha256-{digest}'"
  )
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{(folder / "report.css").read_text()}</style></head>
<body>{body}<script>{script}</script></body></html>
"""
