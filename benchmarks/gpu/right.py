"""Right: the programs of the first device beside those of the CPU."""

import concurrent.futures
import functools

import jax
import numpy as np

from alexnet_jax.data import augment
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.model import sharding
from alexnet_jax.training import step
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import PRECISIONS, Sizes

STEPS = 8


def right(record: Record, sizes: Sizes) -> None:
  """Compares pixels, dropout, losses and the first update with the CPU's."""
  devices = {"cpu": jax.devices("cpu")[0], "gpu": jax.devices()[0]}
  with record.trying("pixels and dropout"):
    _compare_random_numbers(record, sizes, devices)
  mesh = sharding.make_mesh(1, 1, devices=[devices["cpu"]])
  recipe = sizes.recipe("float32", sizes.compared)
  state, batch, *_ = recipe.random_arguments(mesh)
  # Weights that a GPU draws differ in their last bits.
  host = jax.device_get((step.to_dict(state), batch))
  programs = [("cpu", "float32"), *(("gpu", name) for name in PRECISIONS)]
  # One at a time in a trial, where some of them are the same.
  threads = 1 if sizes.tiny else len(programs)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    found = {
      name: pool.submit(_compile, sizes, devices[name[0]], name[1], host)
      for name in programs
    }
    expected = None
    for place, precision in programs:
      with record.trying(f"{place} {precision}"):
        losses, update = _train(found[place, precision].result())
        expected = expected or (losses, update)
        record[f"{place} {precision}"] = {
          "losses": losses,
          "greatest relative difference of a loss": max(
            abs(loss - wanted) / abs(wanted)
            for loss, wanted in zip(losses, expected[0], strict=True)
          ),
          "relative difference of the first update": {
            name: _relative(update[name], expected[1][name]) for name in update
          },
        }


def _compare_random_numbers(record, sizes, devices) -> None:
  """Crops and flips, dropout, and lighting, from the same random streams."""
  recipe = sizes.recipe("float32", sizes.compared)
  mesh = sharding.make_mesh(1, 1, devices=[devices["cpu"]])
  _, batch, statistics, streams, _ = recipe.random_arguments(mesh)
  arguments = jax.device_get((batch, statistics)), streams

  def draw(values, streams, lighting):
    batch, statistics = values
    own, dropout = streams.example_keys(batch["epoch"], batch["index"])
    images = augment.training_images(
      batch["image"],
      own,
      statistics,
      Augmentation(lighting=lighting),
      sizes.crop,
      batch["epoch"],
    )
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, shape=(2048,)))
    return images, kept(dropout)

  def run(device, lighting):
    # Plain arrays of one device, without the axes of a mesh.
    keys = jax.device_get(jax.tree.map(jax.random.key_data, arguments[1]))
    values, plain = jax.device_put((arguments[0], keys), device)
    streams = jax.tree.map(jax.random.wrap_key_data, plain)
    return jax.device_get(
      jax.jit(functools.partial(draw, lighting=lighting))(values, streams)
    )

  cpu, gpu = (run(device, 0.0) for device in devices.values())
  lit = [run(device, 0.1)[0] for device in devices.values()]
  record["crops and flips equal bit for bit"] = bool((cpu[0] == gpu[0]).all())
  record["dropout equal bit for bit"] = bool((cpu[1] == gpu[1]).all())
  difference = float(np.abs(lit[0] - lit[1]).max())
  record["greatest difference of a lit pixel, of 255"] = difference


def _compile(sizes, device, precision, host):
  """The training step on a device, and its arguments: those of the host."""
  mesh = sharding.make_mesh(1, 1, devices=[device])
  recipe = sizes.recipe(precision, sizes.compared)
  weights, batch = host
  abstract = step.abstract_state(recipe.network, recipe.optimizer, mesh)
  state = jax.tree.map(
    lambda value, like: jax.device_put(value, like.sharding),
    step.from_dict(weights, abstract),
    abstract,
  )
  _, _, *rest = recipe.random_arguments(mesh)
  # Whole images, which a GPU would not be sent.
  arguments = state, sharding.place(batch, sharding.BATCH, mesh), *rest
  return recipe.train_step(mesh).lower(*arguments).compile(), arguments


def _train(program) -> tuple[list[float], dict[str, np.ndarray]]:
  """The losses of some steps, and by parameter all of the first update."""
  run, (state, *inputs) = program
  losses, update = [], {}
  for _ in range(STEPS):
    state, metrics = run(state, *inputs)
    losses.append(float(metrics["loss"]))
    if not update:  # the velocity is zero before
      velocity = step.to_dict(state)["velocity"]
      update = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(velocity)
      }
  return losses, update


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
  """||found - expected|| / ||expected||."""
  found, expected = (np.float64(array) for array in (found, expected))
  norm = max(np.linalg.norm(expected), 1e-30)
  return float(np.linalg.norm(found - expected) / norm)
