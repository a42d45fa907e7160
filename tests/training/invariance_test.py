"""Every mesh trains the same network: ten steps, with dropout, on five meshes.

In float32 the meshes differ by rounding, within the bounds below; in float64
(in a process of its own: `python tests/training/invariance_test.py`) by less
than 1e-10, so nothing but rounding differs.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from alexnet_jax.data import augment
from alexnet_jax.data.augment import Augmentation, ImageStatistics
from alexnet_jax.model import sharding
from alexnet_jax.model.alexnet import activations, param_specs
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import BATCH, REPLICATED
from alexnet_jax.training import step
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.optimizer import momentum_sgd

ROOT = pathlib.Path(__file__).resolve().parents[2]

MESHES = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2)]
# Those of `make test`; each mesh costs a compilation of the training step.
FAST = [(1, 2), (2, 2)]
OTHERS = [
  pytest.param(*shape, marks=() if shape in FAST else pytest.mark.slow)
  for shape in MESHES[1:]
]
NUM_STEPS = 10
BATCH_SIZE = 8
IMAGE_SIZE = 72
SEED = 3

# Largest differences from mesh 1x1 over the ten steps, about ten times what
# was seen; a relative one is to the largest number of the same array.
FLOAT32_LOSS = 2e-5  # relative
FLOAT32_GRADIENT = 2e-4  # relative, of the velocities: gradients accumulated
FLOAT64 = 1e-10  # both


def _network() -> Network:
  """The paper's at 1/16 of the width, on crops of 64.

  Initial weights large enough for every layer to matter.
  """
  network = Network(width=1 / 16, num_classes=10, crop_size=64, fc8_std=0.3)
  stronger = {
    name: dataclasses.replace(getattr(network, name), std=std)
    for name, std in [
      ("conv1", 0.01),
      ("conv2", 0.1),
      ("conv3", 0.1),
      ("conv4", 0.1),
      ("conv5", 0.1),
      ("fc6", 0.1),
      ("fc7", 0.1),
    ]
  }
  return dataclasses.replace(network, **stronger)


NETWORK = _network()


def batches(dtype=np.float32):
  random = np.random.default_rng(SEED)
  for i in range(NUM_STEPS):
    index = np.arange(i * BATCH_SIZE, (i + 1) * BATCH_SIZE, dtype=np.int32)
    shape = (BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)
    yield {
      "image": random.integers(0, 256, shape, np.uint8),
      "label": random.integers(0, 10, BATCH_SIZE, np.int32),
      "index": index % 24,
      "epoch": index // 24,
      # One image could not be decoded.
      "weight": (index != 13).astype(dtype),
    }


def statistics():
  random = np.random.default_rng(SEED + 1)
  side = (IMAGE_SIZE, IMAGE_SIZE, 3)
  return ImageStatistics(
    random.uniform(100, 150, side).astype(np.float32),
    random.normal(0, 20, (3, 3)).astype(np.float32),
  )


@functools.cache
def initial_state():
  """On the host; made on one device (that others make the same is tested)."""
  one = sharding.make_mesh(1, 1)
  return jax.device_get(step.init_state(NETWORK, momentum_sgd(), SEED, one))


def init_state(mesh, dtype=np.float32):
  abstract = step.abstract_state(NETWORK, momentum_sgd(), mesh)
  return jax.tree.map(
    lambda x, like: jax.device_put(
      x if x.ndim == 0 else x.astype(dtype), like.sharding
    ),
    initial_state(),
    abstract,
  )


@functools.cache
def make_train_step(mesh):
  """Compiled once for each mesh."""
  return step.make_train_step(NETWORK, Augmentation(), momentum_sgd(), mesh)


def train(mesh, state, some_batches, dtype=np.float32):
  """The state after them, and the loss and velocities of each step."""
  train_step = make_train_step(mesh)
  place = functools.partial(sharding.place, mesh=mesh)
  streams = step.make_streams("separate", SEED, mesh)
  stats = place(statistics(), REPLICATED)
  record = []
  for batch in some_batches:
    state, metrics = train_step(
      state, place(batch, BATCH), stats, streams, dtype(0.01)
    )
    velocity = jax.tree.leaves_with_path(jax.device_get(state.optimizer_state))
    record.append((float(metrics["loss"]), velocity))
  return state, record


@functools.cache
def trained(data, model):
  mesh = sharding.make_mesh(data, model)
  return train(mesh, init_state(mesh), batches())[1]


def differences(record, reference):
  """The largest relative ones over all steps: of losses, of velocities."""
  losses, velocities = [], []
  for (loss, velocity), (other_loss, other) in zip(
    record, reference, strict=True
  ):
    losses.append(abs(loss - other_loss) / abs(other_loss))
    for (path, a), (_, b) in zip(velocity, other, strict=True):
      size = np.abs(b).max()
      assert size > 1e-8, f"no gradient at {jax.tree_util.keystr(path)}"
      velocities.append(float(np.abs(a - b).max() / size))
  return max(losses), max(velocities)


@pytest.mark.parametrize(("data", "model"), OTHERS)
def test_float32_training_differs_by_rounding(data, model):
  loss, velocity = differences(trained(data, model), trained(1, 1))
  print(f"{data}x{model}: loss {loss:.1e}, velocity {velocity:.1e}")
  assert loss < FLOAT32_LOSS
  assert velocity < FLOAT32_GRADIENT


def test_the_loss_changes_from_step_to_step():
  # Else the comparison above would compare nothing.
  losses = [loss for loss, _ in trained(1, 1)]
  assert np.ptp(losses) > 0.1
  assert np.isfinite(losses).all()


@pytest.mark.slow
def test_float64_training_is_the_same_to_ten_digits():
  done = subprocess.run(
    [sys.executable, __file__],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env={"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "1"},
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  assert set(result) == {f"{data}x{model}" for data, model in MESHES[1:]}
  for mesh, (loss, velocity) in result.items():
    assert loss < FLOAT64, mesh
    assert velocity < FLOAT64, mesh


def train_in_float64():
  """Prints the differences of each mesh from 1x1, as JSON."""
  jax.config.update("jax_num_cpu_devices", 8)
  jax.devices()  # starts the backend, so that no mesh makes fewer devices
  images = augment.training_images
  augment.training_images = lambda *args: images(*args).astype(np.float64)
  # The sum's last bit in float32 would depend on the number of images.
  augment._exact_product = lambda a, b: jnp.matmul(
    a.astype(np.float64), b.astype(np.float64)
  ).astype(np.float32)
  records = {}
  for data, model in MESHES:
    mesh = sharding.make_mesh(data, model)
    state, records[data, model] = train(
      mesh, init_state(mesh, np.float64), batches(np.float64), np.float64
    )
    for leaf in jax.tree.leaves(state.net):
      assert leaf.dtype == np.float64
  print(
    json.dumps(
      {
        f"{data}x{model}": differences(records[data, model], records[1, 1])
        for data, model in MESHES[1:]
      }
    )
  )


@functools.cache
def seen_by_the_network(data, model):
  """Initial weights, the first batch's crops, mixes, lighting and dropout."""
  mesh = sharding.make_mesh(data, model)
  state = step.init_state(NETWORK, momentum_sgd(), SEED, mesh)
  specs = param_specs(state.net)

  def on_device(net, batch, stats, streams):
    own, dropout = streams.example_keys(batch["epoch"], batch["index"])
    side = NETWORK.crop_size
    crops, mixed, lit = (
      augment.training_images(
        batch["image"], own, stats, augmentation, side, batch["epoch"]
      )
      for augmentation in (
        Augmentation(lighting=0.0),
        Augmentation(lighting=0.0, mixing=0.5),
        Augmentation(),
      )
    )
    # Without the ReLU's zeros: what is zero was dropped.
    ones = jax.tree.map(jax.numpy.ones_like, net)
    outputs = activations(ones, 1 + 0 * lit, dropout)
    masks = [
      jax.numpy.concatenate(outputs[layer], axis=1) != 0
      for layer in ("fc6", "fc7")
    ]
    return crops, mixed, lit - crops, masks

  run = sharding.on_each_device(
    on_device,
    mesh,
    (specs, BATCH, REPLICATED, REPLICATED),
    (BATCH, BATCH, BATCH, P("data", "model")),
  )
  place = functools.partial(sharding.place, mesh=mesh)
  inputs_and_masks = jax.jit(run)(
    state.net,
    place(next(batches()), BATCH),
    place(statistics(), REPLICATED),
    step.make_streams("separate", SEED, mesh),
  )
  weights = jax.tree.leaves(jax.device_get(state.net))
  return weights, *jax.device_get(inputs_and_masks)


@pytest.mark.parametrize(("data", "model"), OTHERS)
def test_weights_inputs_and_dropout_are_the_same(data, model):
  weights, crops, mixed, lighting, masks = seen_by_the_network(data, model)
  same = seen_by_the_network(1, 1)
  for ours, theirs in zip(weights, same[0], strict=True):
    np.testing.assert_array_equal(ours, theirs)
  np.testing.assert_array_equal(crops, same[1])
  np.testing.assert_allclose(mixed, same[2], atol=1e-4)
  np.testing.assert_allclose(lighting, same[3], atol=1e-4)
  for ours, theirs in zip(masks, same[4], strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_what_is_random_differs_between_examples_units_and_towers():
  _, crops, mixed, lighting, (fc6, fc7) = seen_by_the_network(1, 1)
  assert len({crop.tobytes() for crop in crops}) == BATCH_SIZE
  assert 0 < (mixed != crops).any(axis=(1, 2, 3)).sum() < BATCH_SIZE
  assert len({round(float(x), 2) for x in lighting[:, 0, 0, 0]}) == BATCH_SIZE
  for mask in (fc6, fc7):
    assert mask.shape == (BATCH_SIZE, 2 * 128)
    # Binomial: 2048 draws, standard deviation 0.011.
    assert 0.45 < mask.mean() < 0.55
    assert len({row.tobytes() for row in mask}) == BATCH_SIZE
    assert (mask[:, :128] != mask[:, 128:]).mean() > 0.4
  assert (fc6 != fc7).mean() > 0.4


def test_a_run_continues_on_another_mesh(tmp_path):
  some = list(batches())
  four, one = sharding.make_mesh(2, 2), sharding.make_mesh(1, 1)
  state, _ = train(four, init_state(four), some[:5])
  checkpoints = Checkpoints(str(tmp_path))
  checkpoints.save(5, step.to_dict(state), {})
  checkpoints.wait()
  abstract = step.abstract_state(NETWORK, momentum_sgd(), one)
  arrays, _ = checkpoints.restore(step.to_dict(abstract))
  checkpoints.close()
  restored = step.from_dict(arrays, abstract)
  for ours, theirs in zip(
    jax.tree.leaves(jax.device_get(restored)),
    jax.tree.leaves(jax.device_get(state)),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)
  _, record = train(one, restored, some[5:])
  loss, velocity = differences(record, trained(1, 1)[5:])
  assert loss < FLOAT32_LOSS
  assert velocity < FLOAT32_GRADIENT


if __name__ == "__main__":
  train_in_float64()
