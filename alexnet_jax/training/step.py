"""The compiled programs: training step, prediction and score of a batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from alexnet_jax.data import augment
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.model import alexnet, sharding
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import shapes
from alexnet_jax.model.sharding import BATCH, DATA, MODEL, REPLICATED, TOWERS
from alexnet_jax.training import streams
from alexnet_jax.training.streams import SharedStream, Streams

Batch = dict[str, jax.Array]


class TrainState(NamedTuple):
  """Everything that a training step changes."""

  step: jax.Array  # i32[], updates done; also the position in the data
  net: AlexNet  # parameters, and running averages if it has any
  # What `optimizer.init` returns, for any optax transformation; for
  # `momentum_sgd` the velocity, of the same structure as `net`.
  optimizer_state: Any


def abstract_state(
  network: Network, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """The state's shapes, dtypes and shardings on `mesh`, without its values.

  The optimiser's state may be that of any optax transformation. What it keeps
  for each parameter is sharded as the parameters are, if it has a tower axis;
  all else, such as a step count, is replicated.
  """

  def struct(leaf, spec):
    if spec == TOWERS and leaf.shape[:1] != (network.towers,):
      spec = REPLICATED  # such as the placeholders of optax.adafactor
    place = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

  def on_mesh(part):
    is_net = isinstance(part, AlexNet)
    specs = alexnet.param_specs(part) if is_net else REPLICATED
    return jax.tree.map(struct, part, specs)

  abstract = jax.eval_shape(_init(network, optimizer), jax.random.key(0))
  return _map_nets(on_mesh, abstract)


def init_state(
  network: Network,
  optimizer: optax.GradientTransformation,
  seed: int,
  mesh: Mesh,
) -> TrainState:
  """Initial weights and optimiser state, the same on every mesh."""
  abstract = abstract_state(network, optimizer, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  init = jax.jit(_init(network, optimizer), out_shardings=shardings)
  return init(streams.root_key(seed))


def _init(network, optimizer):
  def init(key):
    net = AlexNet(network, key)
    return TrainState(jnp.zeros((), jnp.int32), net, optimizer.init(net))

  return init


def _map_nets(function, tree):
  """Maps `function` over the trees of parameters and the other leaves."""
  return jax.tree.map(
    function, tree, is_leaf=lambda part: isinstance(part, AlexNet)
  )


def make_streams(kind: str, seed: int, mesh: Mesh) -> Streams | SharedStream:
  """The random streams of training, on every device of `mesh`.

  The other arguments are those of `streams.make_streams`.
  """
  everywhere = NamedSharding(mesh, REPLICATED)
  make = jax.jit(
    lambda: streams.make_streams(kind, seed), out_shardings=everywhere
  )
  return make()


def to_dict(state: TrainState) -> dict[str, Any]:
  """The state as a checkpoint saves it, {"step", "net", "velocity"}.

  The parameters, and whatever has their structure, become nested dicts. The
  optimiser's state has the key "velocity" in every checkpoint, so that those
  written when there was no other optimiser stay readable.
  """

  def plain(part):
    if isinstance(part, AlexNet):
      return nnx.to_pure_dict(nnx.state(part))
    return part

  return {
    "step": state.step,
    "net": plain(state.net),
    "velocity": _map_nets(plain, state.optimizer_state),
  }


def from_dict(values: dict[str, Any], abstract: TrainState) -> TrainState:
  """The inverse of `to_dict`, with the structure of `abstract`."""

  def like(module, plain):
    leaves = jax.tree.leaves(plain)
    return jax.tree.unflatten(jax.tree.structure(module), leaves)

  return TrainState(
    values["step"],
    like(abstract.net, values["net"]),
    like(abstract.optimizer_state, values["velocity"]),
  )


def make_train_step(
  network: Network,
  augmentation: Augmentation,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Makes the training step, compiled at its first call.

  Returns:
    A function of (state, batch, statistics, random, learning_rate).

    It takes the state, whose buffers it donates; the batch, with `image`
    uint8[B,S,S,3], `label`, `index`, `epoch` i32[B] and `weight` f32[B] (0: not
    an example), B over "data"; the statistics of the training images; the
    streams of `make_streams`; and the learning rate, f32[] or
    `optimizer.Rates`, which transformations such as `optax.adam(1e-3)` do not
    read.

    It returns the next state and the metrics of the batch before the update:
    `loss`, `top1_error`, `top5_error`, f32[]; `num_examples`, f32[], the number
    of examples of weight 1; and `finite`, from `all_finite`.
  """

  def loss_on_device(net, batch, statistics, random):
    augment_keys, dropout_keys = random.example_keys(
      batch["epoch"], batch["index"]
    )
    images = augment.training_images(
      batch["image"],
      augment_keys,
      statistics,
      augmentation,
      network.crop_size,
      batch["epoch"],
      network.channels,
    )
    scores = jax.nn.log_softmax(alexnet.forward(net, images, dropout_keys))
    sums = _sums(scores, batch["label"], batch["weight"])
    num_examples = sums.pop("weight")
    count = jnp.maximum(num_examples, 1.0)
    metrics = {name: value / count for name, value in sums.items()}
    metrics["num_examples"] = num_examples
    return metrics["loss"], (metrics, alexnet.running_averages(net))

  optimizer = optax.with_extra_args_support(optimizer)
  specs = alexnet.param_specs(alexnet.abstract_net(network))
  loss_and_metrics = sharding.on_each_device(
    loss_on_device,
    mesh,
    (specs, BATCH, REPLICATED, REPLICATED),
    (REPLICATED, (REPLICATED, TOWERS)),
  )

  def train_step(state, batch, statistics, random, learning_rate):
    # Every step has the same streams, and other examples or epochs to fold into
    # them: for JAX_DEBUG_KEY_REUSE a copy is used up instead of the streams.
    random = jax.tree.map(jax.random.clone, random)
    gradients, (metrics, averages) = jax.grad(loss_and_metrics, has_aux=True)(
      state.net, batch, statistics, random
    )
    # optax mixes integers and floats, which strict promotion would reject.
    promotion = jax.numpy_dtype_promotion("standard")
    with jax.named_scope("update"), promotion:
      updates, optimizer_state = optimizer.update(
        gradients, state.optimizer_state, state.net, learning_rate=learning_rate
      )
      net = optax.apply_updates(state.net, updates)
      nnx.update(net, averages)
    metrics["finite"] = all_finite(net)
    return TrainState(state.step + 1, net, optimizer_state), metrics

  return jax.jit(train_step, donate_argnums=0)


def all_finite(net: AlexNet) -> dict[str, jax.Array]:
  """Whether each parameter of each tower is finite.

  After an update this covers the gradients too: a gradient that is not finite
  makes its parameter so. Each device checks its own towers and the host
  combines the results, so this adds no exchange.

  Returns:
    bool[towers] by name, such as `conv3.kernel`; bool[num_classes] for fc8's
    bias.
  """
  return {
    ".".join(key.name for key in path[:-1]).removeprefix("towers."): (
      # 0 * inf and 0 * nan are nan; a sum is faster than isfinite().all().
      jnp.isfinite((0 * leaf).sum(axis=tuple(range(1, leaf.ndim))))
    )
    for path, leaf in jax.tree.leaves_with_path(net)
  }


def make_predict(
  network: Network, views: int, mesh: Mesh
) -> Callable[..., jax.Array]:
  """Makes the prediction for one batch, compiled at its first call.

  Returns:
    A function of (net, images uint8[B,S,S,3], statistics) that returns
    f32[B,num_classes], the logarithm of the class probabilities, averaged over
    1 view (centre) or 10 (section 4.1: four corners and centre, reflected).
  """

  def predict_on_device(net, images, statistics):
    def predict(view):
      x = augment.view_images(
        images, statistics, view, network.crop_size, network.channels
      )
      return jax.nn.log_softmax(alexnet.forward(net, x))

    if views == 1:
      return predict(0)
    predictions = lax.map(predict, jnp.arange(views, dtype=jnp.int32))
    total = jax.nn.logsumexp(predictions, axis=0)
    return total - np.log(views).astype(np.float32)

  specs = alexnet.param_specs(alexnet.abstract_net(network))
  on_each_device = sharding.on_each_device(
    predict_on_device, mesh, (specs, BATCH, REPLICATED), BATCH
  )
  return jax.jit(on_each_device)


def make_activations(
  network: Network, layers: Sequence[str], mesh: Mesh
) -> Callable[..., dict[str, jax.Array]]:
  """Compiles what layers hand on for the centre view of each image.

  Returns:
    A function of (net, images uint8[B,S,S,3], statistics) that returns, by
    layer, f32[B,units] or, of a convolution, f32[B,H,W,maps], tower 0's first;
    for "fc8" the class scores. Each device returns the units of its own towers:
    the only exchanges are the network's.
  """

  def activations_on_device(net, images, statistics):
    x = augment.view_images(
      images, statistics, 0, network.crop_size, network.channels
    )
    towers = alexnet.activations(net, x)
    found = {
      name: jnp.concatenate(towers[name], axis=-1).astype(jnp.float32)
      for name in layers
      if name != "fc8"
    }
    return found | ({"fc8": alexnet.forward(net, x)} if "fc8" in layers else {})

  rank = {shape.name: len(shape.outputs) for shape in shapes(network)}
  maps = {
    name: PartitionSpec(DATA, *[None] * (rank[name] - 1), MODEL)
    for name in layers
  }
  specs = alexnet.param_specs(alexnet.abstract_net(network))
  on_each_device = sharding.on_each_device(
    activations_on_device,
    mesh,
    (specs, BATCH, REPLICATED),
    maps | ({"fc8": BATCH} if "fc8" in layers else {}),
  )
  return jax.jit(on_each_device)


def make_score(mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
  """Makes the sums over one evaluated batch, compiled at their first call.

  Returns:
    A function of (log_probabilities f32[B,num_classes], label i32[B], weight
    f32[B]) that returns the sums over examples: `weight`, `loss`, `top1_error`,
    `top5_error`, f32[].
  """
  return jax.jit(
    sharding.on_each_device(_sums, mesh, (BATCH, BATCH, BATCH), REPLICATED)
  )


def make_outcomes(mesh: Mesh) -> Callable[..., dict[str, jax.Array]]:
  """Makes the outcome of each example, compiled at the first call.

  Returns:
    A function of (log_probabilities f32[B,num_classes], label i32[B]) that
    returns `predicted` i32[B], the most probable class, its `probability`
    f32[B], and `top1_error` and `top5_error` f32[B], as `top_error`.
  """

  def outcomes(log_probabilities, label):
    return {
      "predicted": jnp.argmax(log_probabilities, axis=1).astype(jnp.int32),
      "probability": jnp.exp(log_probabilities.max(axis=1)),
      **_top_errors(log_probabilities, label),
    }

  return jax.jit(sharding.on_each_device(outcomes, mesh, (BATCH, BATCH), BATCH))


def top_error(scores: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether each label is missing from the k best classes, f32[B], 0 to 1.

  Of classes that tie for the last places each counts in part, as in the 2012
  source: if all n scores are equal, the error is (n - k) / n.

  Args:
    scores: f32[B,n]; the order of the classes is all that matters.
    labels: i32[B].
    k: number of classes that may contain the label.
  """
  own = jnp.take_along_axis(scores, labels[:, None], axis=1)
  # NaN counts as above: such a prediction is wrong.
  above = jnp.sum(~(scores <= own), axis=1, dtype=jnp.float32)
  ties = jnp.sum(scores == own, axis=1, dtype=jnp.float32)
  return 1 - jnp.clip((k - above) / jnp.maximum(ties, 1.0), 0.0, 1.0)


def _top_errors(log_probabilities, label):
  best = min(5, log_probabilities.shape[1])
  return {
    "top1_error": top_error(log_probabilities, label, 1),
    "top5_error": top_error(log_probabilities, label, best),
  }


def _sums(log_probabilities, label, weight):
  """Sums over the examples of all devices, f32[] each."""
  own = jnp.take_along_axis(log_probabilities, label[:, None], axis=1)
  values = {
    "weight": jnp.ones_like(weight),
    "loss": -own[:, 0],
    **_top_errors(log_probabilities, label),
  }
  return {
    name: lax.psum(jnp.sum(weight * value), DATA)
    for name, value in values.items()
  }
