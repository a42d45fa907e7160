"""A trained network for pictures of any size: probabilities and activations."""

import copy
import difflib
import functools
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from alexnet_jax.data import augment, images, parallel, picture_files
from alexnet_jax.data.augment import VIEWS, ImageStatistics
from alexnet_jax.data.class_words import in_words, is_imagenet
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.data.picture_files import Picture
from alexnet_jax.model import alexnet, cuts, sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.shapes import shapes
from alexnet_jax.runtime import paths
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs, step, weights_file

# Pictures per call of the compiled program.
BATCH = 32


class Classifier:
  """A trained network on one device, all of its towers included.

  Attributes:
    classes: the class names, in the order of the probabilities.
    words: readable names of the classes, such as "tench" for "n01440764".
    layers: the names of the layers, first to last, such as "conv1".
    model: the `AlexNet` with its parameters.
    source: where the parameters are from.
    upright: whether files are turned as their EXIF orientation says; may be
      set. As in `prepare` they are, unless the classes are ImageNet's.
  """

  def __init__(
    self,
    net: AlexNet,
    statistics: ImageStatistics,
    *,
    image_size: int,
    classes: Sequence[str],
    dataset: str = "",
    source: str = "",
  ):
    """Puts the parameters on the first device of this process.

    Args:
      net: all towers.
      statistics: how pixels become inputs, and the mean image.
      image_size: side S of the square that each picture is rescaled to.
      classes: the class names.
      dataset: the name of the dataset, from which words for classes may follow.
      source: where the parameters are from, for people.
    """
    network = net.towers.network
    self._mesh = one_device(network.towers)
    self.model = sharding.place(net, alexnet.param_specs(net), self._mesh)
    self._statistics = sharding.place(
      statistics, sharding.REPLICATED, self._mesh
    )
    self._image_size = image_size
    self._make_predict, self._make_activations = (
      functools.cache(functools.partial(make, network, mesh=self._mesh))
      for make in (step.make_predict, step.make_activations)
    )
    self.source = source
    self.classes = tuple(classes)
    self.words = in_words(classes, dataset)
    self.upright = not is_imagenet(classes)
    self.layers = tuple(shape.name for shape in shapes(network))

  def __repr__(self) -> str:
    return f"<Classifier of {len(self.classes)} classes: {self.source}>"

  def predict(
    self, pictures: Picture | Iterable[Picture], views: int = 1
  ) -> np.ndarray:
    """The probability of each class.

    Args:
      pictures: one picture or several, of any size: a path, a PIL image, an
        array uint8[H,W,3] (RGB), or uint8[N,H,W,3] for N pictures.
      views: 1 (the centre crop) or 10 (section 4.1), over which the
        probabilities are averaged.

    Returns:
      f32[N,classes]; each row sums to 1.

    Raises:
      UserError: a picture that is none of these, or cannot be decoded.
    """
    if views not in VIEWS:
      raise UserError(f"views must be 1 (centre) or 10 (got {views}).")
    return np.exp(self._run(self._make_predict(views), pictures))

  def activations(
    self, pictures: Picture | Iterable[Picture], layer: str
  ) -> np.ndarray:
    """What a layer hands on, for the centre crop of each picture.

    Args:
      pictures: as in `predict`.
      layer: one of `layers`, such as "fc7".

    Returns:
      f32[N,units] of a fully connected layer, f32[N,H,W,maps] of a
      convolution; tower 0's units or maps come first, as in exported weights.
      They are those after ReLU, normalisation, pooling and dropout (which
      halves them in evaluation); those of fc8 are the class scores.

    Raises:
      UserError: as `predict`, or the network has no such layer.
    """
    self.check_layer(layer)
    return self._run(self._make_activations((layer,)), pictures)[layer]

  def all_activations(
    self, pictures: Picture | Iterable[Picture]
  ) -> dict[str, np.ndarray]:
    """The `activations` of every layer, by its name, from one run."""
    return self._run(self._make_activations(self.layers), pictures)

  def cut(
    self, exchanges: Collection[str] = (), towers: Collection[int] = ()
  ) -> "Classifier":
    """This network without some of its exchanges, or without a tower.

      net.cut(exchanges=["conv3"]).predict("cat.jpg")
      net.cut(towers=[1]).predict("cat.jpg")

    Args:
      exchanges: layers before which the towers exchange activations, as
        "conv3"; each tower then reads zeros in place of the others' maps.
      towers: indices of the towers whose activations and class scores the
        others do without.

    Raises:
      UserError: the network has no such exchange or tower, or none is left.
    """
    other = copy.copy(self)
    other.model = cuts.cut(self.model, exchanges, towers)
    return other

  def crop(self, picture: Picture) -> np.ndarray:
    """The pixels that the network reads, the centre: uint8[crop,crop,3].

    Raises:
      UndecodableImage: the reason, without the picture's name.
    """
    size = self.model.towers.network.crop_size
    margin = (self._image_size - size) // 2
    return self.square(picture)[margin:, margin:][:size, :size]

  def square(self, picture: Picture) -> np.ndarray:
    """Decodes and rescales a picture as training does: uint8[S,S,3].

    Raises:
      UndecodableImage: the reason, without the picture's name.
    """
    rescale = images.RESCALE[self._statistics.pixels.rescale]
    return rescale(picture_files.read(picture, self.upright), self._image_size)

  def inputs(self, picture: Picture) -> np.ndarray:
    """The centre crop as the first layer reads it: f32[crop,crop,channels].

    The pixels minus the mean image, scaled as in training.

    Raises:
      UndecodableImage: the reason, without the picture's name.
    """
    network, square = self.model.towers.network, self.square(picture)
    found = augment.view_images(
      square[np.newaxis],
      self._statistics,
      0,
      network.crop_size,
      network.channels,
    )
    return np.asarray(found[0])

  def check_layer(self, layer: str) -> None:
    """Raises UserError, with the nearest name, unless `layer` exists."""
    if layer not in self.layers:
      near = difflib.get_close_matches(layer, self.layers, n=1, cutoff=0.0)
      raise UserError(
        f"unknown layer {layer!r}; the layers of this network are"
        f" {', '.join(self.layers)}. The nearest is {near[0]!r}."
      )

  def _run(self, program, pictures) -> Any:
    """Runs a compiled program on pictures, BATCH at a time."""
    squares = parallel.map_images(
      self._named_square,
      _separate(pictures),
      "",
      size=lambda picture: 1,
      total=0,
    )
    parts = []
    while batch := list(itertools.islice(squares, BATCH)):
      parts.append(self._run_batch(program, np.stack(batch)))
    if not parts:
      raise UserError("there are no pictures.")
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

  def _run_batch(self, program, squares: np.ndarray) -> Any:
    """Runs a program on uint8[N,S,S,3], padded to a power of two.

    So no more programs are compiled than there are powers up to BATCH.
    """
    count = len(squares)
    padding = (1 << (count - 1).bit_length()) - count
    squares = np.concatenate([squares, np.repeat(squares[:1], padding, 0)])
    placed = jax.device_put(squares, sharding.batch_sharding(self._mesh))
    results = program(self.model, placed, self._statistics)
    return jax.tree.map(lambda rows: np.asarray(rows)[:count], results)

  def _named_square(self, picture: Picture) -> np.ndarray:
    try:
      return self.square(picture)
    except UndecodableImage as error:
      is_path = isinstance(picture, str | os.PathLike)
      name = os.fspath(picture) if is_path else "a picture"
      raise UserError(f"{name} cannot be read: {error}.") from None


def _separate(pictures) -> Iterator[Picture]:
  """The pictures one by one, also if there is one alone."""
  one = isinstance(pictures, str | os.PathLike | Image.Image)
  if one or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
    return iter([pictures])
  if not isinstance(pictures, Iterable):
    kind = type(pictures).__name__
    raise UserError(
      f"a picture must be a path, an image of Pillow or an array (got {kind})."
    )
  return iter(pictures)


def one_device(towers: int) -> Mesh:
  """A mesh of this process's first device, which holds all towers.

  Unlike a mesh of the CPU's parts it changes no setting of JAX.
  """
  devices = jax.local_devices()[:1]
  return sharding.make_mesh(1, 1, towers=towers, devices=devices)


def load(
  path: str | os.PathLike,
  checkpoint: str | int = "newest",
  config: Mapping[str, Any] | str | None = None,
) -> Classifier:
  """The trained network of a run or of a file of weights, ready for pictures.

  Args:
    path: the directory of the run, or the file (see `weights_file.read`).
    checkpoint: of the run: "newest", "best" (of the lowest validation error) or
      a step.
    config: for weights of other programs, the configuration of their network:
      a file such as configs/torchvision.py, or what its `get_config` returns.

  Raises:
    UserError: there is no run or no such checkpoint; or the file is damaged,
      does not fit the network, does not tell what network it is of, or is
      given with a checkpoint.
  """
  workdir = paths.local_path(os.fspath(path), "the path")
  if os.path.isfile(workdir):
    if str(checkpoint) != "newest":
      raise UserError(
        f"checkpoint={checkpoint} chooses a checkpoint of a run, but {path} is"
        " a file of weights. Leave it out."
      )
    return _load_weights(workdir, config)
  if not os.path.exists(workdir):
    raise UserError(
      f"{path} does not exist. Give the directory of a run (default runs/NAME"
      " for configs/NAME.py) or a file of weights."
    )
  if config is not None:
    raise UserError(
      f"{path} is the directory of a run, which has its own configuration; a"
      " configuration is needed only for a file of weights."
    )
  config = runs.load_config(workdir)
  mesh = one_device(config["network"]["towers"])
  state, metadata = runs.load_state(workdir, mesh, checkpoint=str(checkpoint))
  data = runs.load_data(workdir, config, metadata=metadata)
  return Classifier(
    state.net,
    data.image_statistics(config, mesh),
    image_size=config["image_size"],
    classes=data.classes,
    dataset=config["dataset"],
    source=f"{workdir}, checkpoint {int(state.step)}",
  )


def _load_weights(path, config) -> Classifier:
  weights = weights_file.read(path)
  config = weights.configuration(config)
  net, data = weights.net(config), weights.run_data(config)
  mesh = one_device(config["network"]["towers"])
  return Classifier(
    net,
    data.image_statistics(config, mesh),
    image_size=config["image_size"],
    classes=data.classes,
    dataset=data.dataset,
    source=weights.path,
  )
