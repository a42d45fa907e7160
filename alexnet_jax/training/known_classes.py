"""The classes of a dataset that a network knows, matched by name."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data.sources import Source
from alexnet_jax.model import sharding
from alexnet_jax.model.sharding import BATCH
from alexnet_jax.runtime.command import UserError


class KnownClasses:
  """The classes that a dataset and one or several networks have in common.

  Scores are restricted to these classes, as is usual for datasets with a part
  of ImageNet's classes (ImageNet-A, ImageNet-R): each has its share of the
  probability of all of them.

  Attributes:
    names: of the common classes, in the order of the dataset.
    unknown: names of the dataset's classes that a network does not know.
    left_out: indices of the images of unknown classes that were met so far.
  """

  def __init__(
    self,
    source: Source,
    networks: Sequence[Sequence[str]],
    skip_unknown: bool = False,
  ):
    """Matches the classes of a source with the class names of networks.

    The same list of names needs no matching, and may have a name twice.

    Raises:
      UserError: a name occurs twice, or a class of the source is unknown and
        `skip_unknown` is False, or all are.
    """
    own = list(source.class_names)
    self.left_out: list[int] = []
    if all(list(names) == own for names in networks):
      self.names, self.unknown = tuple(own), ()
      self._positions = np.arange(len(own))
      return
    for names in (own, *networks):
      twice = [n for n, c in collections.Counter(names).items() if c > 1]
      if twice := sorted(set(twice) & set(own)):
        raise UserError(
          f"classes cannot be matched by name, because {len(twice)} name(s)"
          f" stand for several classes: {list_names(twice)}."
        )
    common = set(own).intersection(*networks)
    self.names = tuple(name for name in own if name in common)
    self.unknown = tuple(name for name in own if name not in common)
    if not self.names or (self.unknown and not skip_unknown):
      hint = ""
      if self.names:
        hint = " --skip_unknown_classes leaves their images out."
      raise UserError(
        f"the network does not know {len(self.unknown):,} of the {len(own):,}"
        f" classes of {source.name}: {list_names(self.unknown)}. Its own"
        f" {len(networks[0]):,} classes are {list_names(networks[0])}.{hint}"
      )
    positions = {name: position for position, name in enumerate(self.names)}
    self._positions = np.array([positions.get(name, -1) for name in own])

  def relabel(
    self, batches: Iterable[dict[str, np.ndarray]]
  ) -> Iterator[dict[str, np.ndarray]]:
    """Replaces the labels of batches on the host by positions in `names`.

    Images of unknown classes get the weight 0.
    """
    for batch in batches:
      label = self._positions[batch["label"]].astype(np.int32)
      unknown = (label < 0) & (batch["weight"] > 0)
      self.left_out += batch["index"][unknown].tolist()
      weight = np.where(unknown, np.float32(0), batch["weight"])
      yield batch | {"label": np.maximum(label, 0), "weight": weight}

  def restrict(
    self,
    predict: Callable[[jax.Array], jax.Array],
    network: Sequence[str],
    mesh: Mesh,
  ) -> Callable[[jax.Array], jax.Array]:
    """A prediction for `names` instead of the classes of the network.

    Args:
      predict: maps images to the logarithms of the probabilities of all
        classes, f32[B,classes].
      network: the names of these classes.
      mesh: of the images.
    """
    if tuple(network) == self.names:
      return predict
    columns = np.array([list(network).index(name) for name in self.names])

    def select(log_probabilities):
      return jax.nn.log_softmax(log_probabilities[:, columns])

    select = jax.jit(sharding.on_each_device(select, mesh, (BATCH,), BATCH))
    return lambda images: select(predict(images))


def list_names(names: Sequence[str], count: int = 5) -> str:
  """The first of some names, and how many there are in all."""
  listed = ", ".join(names[:count])
  return f"{listed}, ... ({len(names):,})" if len(names) > count else listed
