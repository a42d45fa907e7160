"""The programs that a configuration asks for, ready to be tried on any mesh.

What is audited, timed and swept over meshes is made here, in one place. The
training itself, which checks more and has data, makes it in train.py, of the
same two functions of step.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.model import network as networks
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import BATCH, REPLICATED
from alexnet_jax.runtime import config as configs
from alexnet_jax.training import step
from alexnet_jax.training.optimizer import make_optimizer


class Recipe(NamedTuple):
  """What the compiled programs depend on, the mesh apart.

  Attributes:
    network: to train and to evaluate.
    batch_size: B, global.
    image_size: S, side of the stored images.
    augmentation: from uint8[B,S,S,3].
    optimizer: of the update.
  """

  network: Network
  batch_size: int
  image_size: int = 256
  augmentation: Augmentation = Augmentation()
  optimizer: optax.GradientTransformationExtraArgs = make_optimizer()

  def train_step(self, mesh: Mesh) -> Callable[..., Any]:
    """The training step, compiled when first called."""
    return step.make_train_step(
      self.network, self.augmentation, self.optimizer, mesh
    )

  def predict(self, mesh: Mesh) -> Callable[..., jax.Array]:
    """The evaluation of one batch, compiled when first called."""
    return step.make_predict(self.network, 1, mesh)

  def abstract(self, mesh: Mesh) -> tuple[Any, ...]:
    """The training step's arguments without their values: state, batch,
    statistics, key, learning rate; for devices that may be elsewhere."""

    def array(shape, dtype, spec=REPLICATED):
      place = NamedSharding(mesh, spec)
      return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    count, side = self.batch_size, (self.image_size, self.image_size, 3)
    batch = {
      "image": array((count, *side), jnp.uint8, BATCH),
      "label": array((count,), jnp.int32, BATCH),
      "index": array((count,), jnp.int32, BATCH),
      "epoch": array((count,), jnp.int32, BATCH),
      "weight": array((count,), jnp.float32, BATCH),
    }
    statistics = ImageStatistics(
      array(side, jnp.float32), array((3, 3), jnp.float32)
    )
    key = array((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    state = step.abstract_state(self.network, self.optimizer, mesh)
    return state, batch, statistics, key, array((), jnp.float32)

  def noise(self, mesh: Mesh) -> tuple[Any, ...]:
    """Values for the same arguments: initial weights, images of noise, random
    labels; the same on every mesh."""
    _, *places = self.abstract(mesh)
    count, side = self.batch_size, (self.image_size, self.image_size, 3)
    random = np.random.default_rng(0)
    batch = {
      "image": random.integers(0, 256, (count, *side), np.uint8),
      "label": random.integers(0, self.network.num_classes, count, np.int32),
      "index": np.arange(count, dtype=np.int32),
      "epoch": np.zeros(count, np.int32),
      "weight": np.ones(count, np.float32),
    }
    statistics = ImageStatistics(
      np.full(side, 127.5, np.float32), np.eye(3, dtype=np.float32)
    )
    values = [batch, statistics, jax.random.key(0), np.float32(1e-3)]
    placed = jax.tree.map(
      lambda value, like: jax.device_put(value, like.sharding), values, places
    )
    return step.init_state(self.network, self.optimizer, 0, mesh), *placed


def from_config(config: Mapping[str, Any], batch_size: int = 0) -> Recipe:
  """The recipe of a configuration, as plain dictionaries.

  Args:
    config: as in config.json.
    batch_size: global; 0: the configuration's.

  Raises:
    UserError: the network cannot be built, or a key on the command line has no
      effect on it.
  """
  network = networks.from_dict(config["network"], config["num_classes"])
  configs.check_overrides(networks.unused_keys(network))
  return Recipe(
    network,
    batch_size or config["batch_size"],
    config["image_size"],
    Augmentation(**config["augmentation"]),
    make_optimizer(**config["optimizer"]),
  )
