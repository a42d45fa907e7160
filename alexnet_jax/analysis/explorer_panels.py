"""The parts of the explorer's page as HTML: classes, maps, exchanges, kernels.

The style is in explorer.css. Text is escaped by `page.element`.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np

from alexnet_jax.analysis import figures, page
from alexnet_jax.analysis.kernel_responses import KernelResponses
from alexnet_jax.analysis.neighbours import Neighbours, NeighbourSearch
from alexnet_jax.analysis.page import Html, element
from alexnet_jax.analysis.traces import Trace
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import Shape, shapes

TOP = 5  # classes shown of each answer
THUMBNAIL = 96  # pixels
CELL = 28  # pixels that a map has at least, about


def message(text: str) -> Html:
  """A sentence in place of a panel."""
  return element("p", text, class_="explorer message")


def classes(
  words: Sequence[str], whole: Trace, cut: Trace | None = None, name: str = ""
) -> Html:
  """The most probable classes as bars, of the network and of the cut one.

  Args:
    words: readable names of all classes.
    whole: of the network without cuts.
    cut: of the same picture, if anything is cut.
    name: says what is cut, such as "without conv3".
  """
  answers = {"whole network": next(iter(whole.answers.values()))}
  if cut and len(cut.answers) == 1:
    answers[name] = next(iter(cut.answers.values()))
  elif cut:
    answers |= {f"{name}, {tower}": x for tower, x in cut.answers.items()}
  (first, *_) = answers.values()
  shown = {i for x in answers.values() for i in np.argsort(-x)[:TOP]}
  order = sorted(shown, key=lambda i: -first[i])
  legend = [
    element("span", element("i", class_=f"c{k}"), answer)
    for k, answer in enumerate(answers)
  ]
  rows = [
    element(
      "div",
      element("div", words[i], class_="name"),
      *(_bar(x[i], k) for k, x in enumerate(answers.values())),
      class_="class",
    )
    for i in order
  ]
  best = [words[int(x.argmax())] for x in answers.values()]
  verdict = [
    element(
      "p",
      f"{answer}: {word}, {percent(x.max())}" if cut else word,
      class_="verdict changed" if word != best[0] else "verdict",
    )
    for (answer, x), word in zip(answers.items(), best, strict=True)
  ]
  return element(
    "div",
    *verdict,
    element("div", *legend, class_="legend"),
    *rows,
    class_="explorer",
  )


def _bar(probability: float, k: int) -> Html:
  """A bar of the k-th answer, from 0 to 1."""
  width = f"width:{100 * probability:.2f}%"
  track = element("div", element("b", style=width), class_="track")
  number = element("span", percent(probability))
  return element("div", track, number, class_=f"bar c{k}")


def thumbnail(image: np.ndarray) -> np.ndarray:
  """uint8[S,S,3] -> uint8[96,96,3]."""
  sides = (THUMBNAIL, THUMBNAIL)
  return cv2.resize(image, sides, interpolation=cv2.INTER_AREA)


def percent(share: float) -> str:
  """Such as "23.4%"."""
  return f"{share:.1%}"


def maps(
  network: Network, found: Trace, towers_cut: Collection[int] = ()
) -> Html:
  """All maps of both towers side by side, a row for each layer."""
  parts = []
  for before, shape in _layers(network):
    reads = _reads(network, before, shape)
    zeros = np.mean([np.mean(x == 0) for x in found.maps[shape.name]])
    text = f"{_size(shape.outputs)} per tower; reads {reads}"
    if zeros > 0.005:
      text += f"; {zeros:.0%} are 0"
    parts += [
      element("h3", shape.name, " ", element("small", text)),
      _side_by_side(
        _grids(found.maps[shape.name]),
        [
          f"tower {i}" + (" (cut)" if i in towers_cut else "")
          for i in range(network.towers)
        ],
      ),
    ]
  note = (
    "After ReLU, normalisation, pooling and dropout. Dark is 0 (or the least"
    " value), bright the largest value of the layer in both towers."
  )
  return element("div", element("p", note), *parts, class_="explorer")


def exchanges(
  network: Network,
  words: Sequence[str],
  found: Trace,
  without: Mapping[str, np.ndarray],
  uncut: np.ndarray,
) -> Html:
  """What the towers send each other for this picture, exchange by exchange.

  Args:
    network: of the trace.
    words: readable names of all classes.
    found: of the network, or of the cut one.
    without: by exchange, the class probabilities f64[classes] of the network
      without this exchange alone.
    uncut: those of the whole network.
  """
  if network.towers == 1:
    return message("This network has one tower, so nothing is exchanged.")
  best = int(uncut.argmax())
  parts = []
  for before, shape in _layers(network):
    if shape.name not in network.exchanges:
      continue
    sent = found.maps[before.name]
    count = sent[0].size * (4 if network.exchange_dtype == "float32" else 2)
    other = without[shape.name]
    now = int(other.argmax())
    effect = f"Without this exchange alone: {words[now]}, {percent(other[now])}"
    if now != best:
      effect += f", instead of {words[best]}"
    parts += [
      element(
        "h3",
        f"before {shape.name} ",
        element(
          "small",
          f"each tower sends {_size(before.outputs)} of {before.name},"
          f" {count / 1000:.1f} kB",
        ),
      ),
      _side_by_side(
        _grids(sent), [f"from tower {i}" for i in range(network.towers)]
      ),
      element("p", f"{effect} (with it {percent(uncut[best])})."),
    ]
  if "fc8" in network.exchanges:
    parts += [
      element(
        "h3",
        "after fc8 ",
        element(
          "small",
          f"each tower sends its part of {network.num_classes:,} class scores",
        ),
      ),
      _scores(words, found),
    ]
  return element("div", *parts, class_="explorer")


def _scores(words: Sequence[str], found: Trace) -> Html:
  """The towers' parts of the highest class scores, and their sum."""
  total = found.scores.sum(axis=0) + found.bias
  towers = [f"tower {i}" for i in range(len(found.scores))]
  rows = [
    [
      words[i],
      *(f"{part[i]:+.2f}" for part in found.scores),
      f"{found.bias[i]:+.2f}",
      f"{total[i]:+.2f}",
    ]
    for i in np.argsort(-total)[:TOP]
  ]
  return page.table(["class", *towers, "bias", "sum"], rows)


def kernels(responses: KernelResponses | None, layer: str) -> Html:
  """Each kernel beside the part of the picture to which it responds most."""
  if responses is None:
    return message(f"{layer} has no kernels that move over the picture.")
  grids = []
  for tower in zip(*responses, strict=True):
    weights, patches, strengths = tower
    if weights.shape[-1] == 1:  # grey
      weights = weights.repeat(3, axis=-1)
    pairs = np.concatenate([figures.stretched(weights), patches], axis=2)
    order = np.argsort(-strengths, kind="stable")
    grids.append(tile(pairs[order].repeat(3, 1).repeat(3, 2), 3))
  text = (
    f"{layer}'s kernels, each stretched to its own full range, and beside each"
    " the place of this picture to which it responds most. The strongest"
    " responses come first."
  )
  names = [f"tower {i}" for i in range(len(grids))]
  columns = _side_by_side(grids, names)
  return element("div", element("p", text), columns, class_="explorer")


def neighbours(
  found: Neighbours, words: Sequence[str], search: NeighbourSearch
) -> Html:
  """The nearest training images with their classes and distances."""
  cards = [
    element(
      "div",
      page.picture(thumbnail(image), words[label], "JPEG"),
      element("div", words[label], class_="name"),
      element("small", f"distance {distance:.1f}"),
    )
    for image, label, distance in zip(*found, strict=True)
  ]
  searched = f"{search.searched:,} training images"
  if search.searched < search.total:
    searched = f"{search.searched:,} of {search.total:,} training images"
  text = f"By the Euclidean distance of {search.layer}, among {searched}."
  return element(
    "div",
    element("p", text),
    element("div", *cards, class_="nearest"),
    class_="explorer",
  )


def tile(cells: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
  """Pictures uint8[n,h,w,3] in rows, with grey lines: uint8[H,W,3]."""
  count, height, width, _ = cells.shape
  rows, high, wide = -(-count // columns), height + gap, width + gap
  grid = np.full((rows * high - gap, columns * wide - gap, 3), 128, np.uint8)
  for i, cell in enumerate(cells):
    y, x = i // columns * high, i % columns * wide
    grid[y : y + height, x : x + width] = cell
  return grid


def _grids(towers: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The maps (or units) of each tower as one picture, uint8[H,W,3] each.

  All have the same range of colours: from 0, or the least value if it is
  negative, to the largest.
  """
  low = min(0.0, *(float(x.min()) for x in towers))
  high = max(float(x.max()) for x in towers)
  grids = []
  for x in towers:
    levels = np.clip(255 * (x - low) / ((high - low) or 1), 0, 255)
    levels = np.nan_to_num(levels).astype(np.uint8)
    columns = _columns(levels.shape[-1])
    if levels.ndim == 1:  # units: a square each, without lines
      cells = levels.reshape(-1, 1, 1).repeat(4, 1).repeat(4, 2)
      grids.append(tile(_coloured(cells), columns, gap=0))
    else:
      cells = np.moveaxis(levels, -1, 0)
      scale = max(1, round(CELL / cells.shape[1]))
      cells = cells.repeat(scale, 1).repeat(scale, 2)
      grids.append(tile(_coloured(cells), columns))
  return grids


def _columns(count: int) -> int:
  """Columns of a grid that is wider than high, if possible without gaps."""
  whole = [n for n in range(1, count + 1) if count % n == 0]
  whole = [n for n in whole if 1 <= n * n / count <= 3]
  return whole[0] if whole else math.ceil(math.sqrt(count * 4 / 3))


def _coloured(levels: np.ndarray) -> np.ndarray:
  """uint8[n,h,w] -> uint8[n,h,w,3], in colours of even brightness steps."""
  flat = levels.reshape(len(levels), -1)
  colours = cv2.applyColorMap(flat, cv2.COLORMAP_VIRIDIS)[..., ::-1]
  return colours.reshape(*levels.shape, 3)


def _side_by_side(grids: Sequence[np.ndarray], names: Sequence[str]) -> Html:
  return element(
    "div",
    *(
      element("figure", page.picture(grid, name), element("figcaption", name))
      for grid, name in zip(grids, names, strict=True)
    ),
    class_="towers-beside",
  )


def _layers(network: Network) -> list[tuple[Shape | None, Shape]]:
  """The layers but fc8, each with the layer before it."""
  found = shapes(network)[:-1]
  return list(zip([None, *found], found, strict=False))


def _reads(network: Network, before: Shape | None, shape: Shape) -> str:
  if before is None:
    return "the picture"
  both = shape.name in network.exchanges
  owner = "its own"
  if both:
    owner = "both towers'" if network.towers == 2 else "all towers'"
  return f"{owner} {before.name}"


def _size(outputs: tuple[int, ...]) -> str:
  if len(outputs) == 1:
    return f"{outputs[0]:,} units"
  height, width, count = outputs
  return f"{count:,} maps of {height}×{width}"
