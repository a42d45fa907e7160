"""Predictions for many picture files in bounded memory, as JSON and NPZ."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data import parallel
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.runtime import files
from alexnet_jax.training.classifier import BATCH, Classifier


class Prediction(NamedTuple):
  """What is known of one picture file."""

  path: str
  error: str = ""  # why it cannot be read
  # None if it cannot be read, or if they are not asked for.
  probabilities: np.ndarray | None = None  # f32[classes]
  activations: np.ndarray | None = None  # f32[...] of one layer


def predict_files(
  net: Classifier, paths: Sequence[str], *, views: int = 1, layer: str = ""
) -> Iterator[Prediction]:
  """Yields the prediction for each file, in order, and shows progress.

  Files are decoded on all cores while the network runs; about a hundred
  rescaled pictures are in memory at a time.

  Args:
    net: the trained network.
    paths: of the picture files.
    views: as in `Classifier.predict`; 0: no probabilities.
    layer: whose activations to add; "": none.
  """

  def square(path: str) -> np.ndarray | UndecodableImage:
    try:
      return net.square(path)
    except UndecodableImage as error:
      return error

  title, unit = "Predictions", "pictures"
  squares = parallel.map_images(
    square, paths, title, size=lambda path: 1, unit=unit
  )
  with contextlib.closing(squares):
    loaded = zip(paths, squares, strict=True)
    while group := list(itertools.islice(loaded, BATCH)):
      yield from _predict_group(net, group, views, layer)


def _predict_group(net, group, views, layer) -> Iterator[Prediction]:
  readable = [s for _, s in group if not isinstance(s, UndecodableImage)]
  probabilities = activations = itertools.repeat(None, len(readable))
  if readable and views:
    probabilities = net.predict(readable, views)
  if readable and layer:
    activations = net.activations(readable, layer)
  rows = zip(probabilities, activations, strict=True)
  for path, found in group:
    if isinstance(found, UndecodableImage):
      yield Prediction(path, error=str(found))
    else:
      yield Prediction(path, "", *next(rows))


def most_probable(
  net: Classifier, prediction: Prediction, top: int
) -> list[dict[str, Any]]:
  """The `top` most probable classes, the best first.

  Each has its `name`, `index` and `probability`, and `words` if its name is an
  identifier, such as ImageNet's n01440764.
  """
  classes = []
  for index in np.argsort(-prediction.probabilities, kind="stable")[:top]:
    name, words = net.classes[index], net.words[index]
    classes.append(
      {
        "name": name,
        **({} if words == name else {"words": words}),
        "index": int(index),
        "probability": float(prediction.probabilities[index]),
      }
    )
  return classes


@contextlib.contextmanager
def write_json_list(path: str) -> Iterator[Callable[[Any], None]]:
  """Yields a function that appends a value to the JSON list in a file.

  The file appears, complete, at the end; after an exception it does not.
  """
  with files.replacing(path) as file:
    separator = "["

    def append(value: Any) -> None:
      nonlocal separator
      file.write(f"{separator}\n{json.dumps(value)}".encode())
      separator = ","

    yield append
    file.write(b"\n]\n" if separator == "," else b"[]\n")


@contextlib.contextmanager
def write_activations(path: str) -> Iterator[Callable[[str, np.ndarray], None]]:
  """Yields a function that appends a name and f32[...] to an NPZ file.

  The file has `names` and `activations` f32[N,...]; it appears, complete, at
  the end. Until then the rows are in a temporary file beside it, so memory does
  not grow with their number, and the disk needs room for them twice.
  """
  names, shape = [], ()
  with files.replacing(path) as file:
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryFile(dir=folder) as rows:

      def append(name: str, row: np.ndarray) -> None:
        nonlocal shape
        names.append(name)
        shape = row.shape
        rows.write(row.astype("<f4").tobytes())

      yield append
      rows.seek(0)
      header = {
        "descr": "<f4",
        "fortran_order": False,
        "shape": (len(names), *shape),
      }
      with zipfile.ZipFile(file, "w") as archive:
        with archive.open("names.npy", "w", force_zip64=True) as entry:
          np.lib.format.write_array(entry, np.array(names, np.str_))
        with archive.open("activations.npy", "w", force_zip64=True) as entry:
          np.lib.format.write_array_header_1_0(entry, header)
          shutil.copyfileobj(rows, entry, 2**20)
