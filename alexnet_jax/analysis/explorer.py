"""The explorer: what its page shows of a picture and of a run's images.

The page itself, which needs Gradio, is in explorer_page.py.
"""

import functools
import os
from collections.abc import Callable

import numpy as np

from alexnet_jax.analysis import explorer_panels as panels
from alexnet_jax.analysis.kernel_responses import kernel_responses
from alexnet_jax.analysis.neighbours import NeighbourSearch
from alexnet_jax.analysis.run_images import RunImages, open_images
from alexnet_jax.analysis.traces import Trace, trace
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.classifier import Classifier

GALLERY = 12  # pictures of the dataset shown at a time
NO_CUT = "none"
NO_PICTURE = "Drop a picture, take one, or choose one of the dataset."


class Explorer:
  """The functions behind the page of one network."""

  def __init__(
    self,
    net: Classifier,
    validation: RunImages | str,
    search: NeighbourSearch | str,
  ):
    """Where images are missing, a sentence says why."""
    self.net, self.validation, self.search = net, validation, search
    self.network = net.model.towers.network
    # A cut network shares all but the kernels that read other towers; those of
    # fc6 and fc7 are the largest.
    self._cut = functools.lru_cache(maxsize=4)(net.cut)

  def look(self, path: str | None, exchanges: list[str], tower: str):
    """The panels for a picture: classes, maps, exchanges, kernels, nearest.

    Args:
      path: of the picture.
      exchanges: that are cut.
      tower: that is cut, such as "tower 1", or NO_CUT.
    """
    if not path:
      return panels.message(NO_PICTURE), "", "", "", ""
    try:
      square = self.net.square(path)
    except UndecodableImage as error:
      return _unreadable(error), "", "", "", ""
    words, network = self.net.words, self.network
    towers = () if tower == NO_CUT else (int(tower.split()[-1]),)
    whole = trace(self.net, square)
    cut, removed = None, [*exchanges, *(f"tower {i}" for i in towers)]
    if removed:
      names = tuple(name for name in exchanges if name != "fc8")
      net = self._cut(names, towers)
      cut = trace(net, square, towers, summed="fc8" not in exchanges)
    without = {
      name: _only_answer(trace(self._cut((name,)), square))
      for name in network.exchanges
      if name != "fc8"
    }
    found = cut or whole
    return (
      panels.classes(words, whole, cut, f"without {', '.join(removed)}"),
      panels.maps(network, found, towers),
      panels.exchanges(network, words, found, without, _only_answer(whole)),
      panels.kernels(kernel_responses(self.net, square), self.net.layers[0]),
      self._nearest_if_ready(whole),
    )

  def _nearest_if_ready(self, whole: Trace) -> str:
    if isinstance(self.search, str):
      return panels.message(self.search)
    if not self.search.ready:
      return ""
    return self._nearest(whole, lambda share: None)

  def find_nearest(
    self, path: str | None, progress: Callable[[float], None]
  ) -> str:
    """The panel of the nearest training images.

    Args:
      path: of the picture.
      progress: as of `NeighbourSearch.nearest`.
    """
    if not path:
      return panels.message(NO_PICTURE)
    try:
      square = self.net.square(path)
    except UndecodableImage as error:
      return _unreadable(error)
    return self._nearest(trace(self.net, square), progress)

  def _nearest(self, whole: Trace, progress) -> str:
    features = np.concatenate(
      [x.ravel() for x in whole.maps[self.search.layer]]
    )
    found = self.search.nearest(features, progress)
    return panels.neighbours(found, self.net.words, self.search)

  def gallery(self, indices: list[int]) -> list[tuple[np.ndarray, str]]:
    """Thumbnails of the dataset's images with the names of their classes."""
    images, labels = self.validation.read(indices)
    return [
      (panels.thumbnail(image), self.net.words[label])
      for image, label in zip(images, labels, strict=True)
    ]

  def first_indices(self) -> list[int]:
    """Of the images that the page shows first, evenly spaced."""
    count = len(self.validation)
    evenly = np.linspace(0, count - 1, min(GALLERY, count))
    return evenly.astype(int).tolist()

  def random_indices(self) -> list[int]:
    """Of other images, drawn anew at each call."""
    count = len(self.validation)
    drawn = np.random.default_rng().choice(
      count, min(GALLERY, count), replace=False
    )
    return sorted(drawn.tolist())


def make_explorer(
  net: Classifier, path: str, data_dir: str = "", search: int = 0
) -> Explorer:
  """The explorer of a network that was loaded from `path`.

  Args:
    net: the network.
    path: the directory of its run; or a file of weights, which has no dataset.
    data_dir: where the dataset is now; "": where it was in training.
    search: training images among which the nearest are looked for; 0: all.
  """
  if os.path.isfile(path):
    text = "A file of weights has no {}: start the explorer on a run for them."
    return Explorer(net, text.format("dataset"), text.format("training images"))
  found = []
  for split in ("validation", "train"):
    try:
      found.append(open_images(path, split, data_dir))
    except UserError as error:
      found.append(f"The {split} images are not here: {error}")
  validation, train = found
  if isinstance(train, RunImages):
    train = NeighbourSearch(net, train, search)
  return Explorer(net, validation, train)


def _unreadable(error: UndecodableImage) -> str:
  reason = str(error).rstrip(".")
  return panels.message(f"This picture cannot be read: {reason}.")


def _only_answer(found: Trace) -> np.ndarray:
  (answer,) = found.answers.values()
  return answer
