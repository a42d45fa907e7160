"""The device mesh, `shard_map`, and the exchange between towers.

The devices form a mesh with two axes:

                     "model": each device has other towers
                       tower 0          tower 1
  "data": each     +----------------+----------------+
  device has       | device 0       | device 1       |  images 0 to 63
  other images     +----------------+----------------+
                   | device 2       | device 3       |  images 64 to 127
                   +----------------+----------------+

The network is written for one device. `on_each_device` (`jax.shard_map`) runs
it on every device at the same time: it gives each its part of the arguments,
and puts the results together. A `PartitionSpec` says how an array is divided:

  P("data")   split along its first axis over "data", the same along "model"
  P("model")  split along its first axis over "model", the same along "data"
  P()         the same on every device

Devices communicate only where the code says so, by a collective that names a
mesh axis. Between towers there are two: `exchange` and `exchange_sum`. Without
a mesh one device holds all towers, and both only put them together.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime import environment, processes
from alexnet_jax.runtime.command import UserError

DATA = "data"
MODEL = "model"

BATCH = P(DATA)  # arrays of a batch: the first axis is the examples
TOWERS = P(MODEL)  # parameters: the first axis is the towers
REPLICATED = P()

MAX_CPU_DEVICES = 8


def on_each_device(
  function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """Runs `function`, which is written for one device, on every device.

  `check_vma=True` makes JAX track along which mesh axes each value differs
  between devices ("varying manual axes"). It rejects a result that is declared
  equal on all devices and may not be. It also makes gradients right that are
  taken outside, by `jax.grad` of the returned function: JAX then knows over
  which axes to sum the gradient of an argument.

  Args:
    function: takes and returns the parts of one device.
    mesh: the devices.
    in_specs, out_specs: a `PartitionSpec`, or a tree of them, for each argument
      and result of the returned function, which are whole arrays.
  """
  return jax.shard_map(
    function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=True
  )


def on_mesh() -> bool:
  """Whether this code is being run by `on_each_device`.

  Otherwise one device holds all towers and the whole batch, so nothing crosses
  devices.
  """
  return MODEL in jax.sharding.get_abstract_mesh().manual_axes


def first_tower(count: int) -> jax.Array | int:
  """The index of this device's first tower, if each device holds `count`."""
  return lax.axis_index(MODEL) * count if on_mesh() else 0


def batch_mean(x: jax.Array) -> jax.Array:
  """The mean over the devices along "data", which hold parts of the batch."""
  return lax.pmean(x, DATA) if on_mesh() else x


def place(tree: Any, specs: Any, mesh: Mesh) -> Any:
  """Copies arrays to the devices of a mesh, as `specs` (a prefix of `tree`)."""
  return jax.device_put(
    tree, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
  )


def exchange(parts: list[jax.Array], dtype: str = "float32") -> jax.Array:
  """Gives every tower the maps of all towers, side by side.

  In the backward pass each tower gets the sum of the gradients that all towers
  have for its maps.

  Args:
    parts: the maps of this device's towers, each f32[B,...,C].
    dtype: in which the maps, and later their gradients, are sent; "float32"
      sends them as they are.

  Returns:
    f32[B,...,towers*C], the same on every device of the "model" axis.
  """
  local = jnp.concatenate(parts, axis=-1)
  if not on_mesh():
    return local
  # Gathered along a new first axis. Gathering along the last axis would make
  # the compiler store these maps, and those before and after, channel-first.
  gathered = lax.all_gather(_as_sent(local, dtype), MODEL)
  maps = jnp.moveaxis(gathered, 0, -2).reshape(*local.shape[:-1], -1)
  return maps.astype(local.dtype)


def exchange_sum(parts: list[jax.Array], dtype: str = "float32") -> jax.Array:
  """The sum over all towers; arguments as `exchange`.

  The backward pass sends nothing: the gradient of the sum is the gradient of
  each part.
  """
  local = sum(parts)
  if not on_mesh():
    return local
  return lax.psum(_as_sent(local, dtype), MODEL).astype(local.dtype)


def _as_sent(x: jax.Array, dtype: str) -> jax.Array:
  return x if dtype == "float32" else x.astype(dtype)


def varying(x: jax.Array) -> set[str]:
  """The mesh axes along which `x` may differ between devices."""
  return jax.typeof(x).manual_axis_type.varying


def vary(x: jax.Array, axes: set[str]) -> jax.Array:
  """Marks `x` as differing along `axes`: its gradient is summed over them."""
  missing = tuple(sorted(axes - varying(x)))
  return lax.pcast(x, missing, to="varying") if missing else x


def make_mesh(
  data: int = 0,
  model: int = 0,
  *,
  towers: int = 2,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The device mesh ("data", "model").

  If JAX has not started its backend yet, the CPU is divided into as many
  devices as the mesh needs (2 if `data` and `model` are 0, at most 8).

  Args:
    data: devices along "data"; 0: as many as there are.
    model: devices along "model"; 0: one per tower if there are enough, else 1.
    towers: the network's towers; each device holds towers / model of them.
    devices: default: all devices of the backend.

  Raises:
    UserError: `model` does not divide `towers`, there are too few devices, some
      process has none of those of the mesh, or JAX_PLATFORMS names none.
  """
  if min(data, model) < 0:
    raise UserError(
      f"mesh.data and mesh.model must be at least 0 (got {data} and {model});"
      " 0 chooses the size."
    )
  if model and towers % model:
    raise UserError(
      f"mesh.model={model} does not divide the network's {towers} tower(s)."
      f" Set mesh.model to a divisor of {towers}, or to 0."
    )
  num_processes = 1
  if devices is None:
    _make_cpu_devices(data, model)
    devices = _all_devices()
    processes.check_joined()
    num_processes = jax.process_count()
  if not model:
    model = towers if len(devices) // max(data, 1) >= towers else 1
  if not data:
    data = max(len(devices) // model, 1)
  if data * model > len(devices):
    raise UserError(
      f"the mesh data:{data} x model:{model} needs {data * model} devices, but"
      f" there are {len(devices)} ({devices[0].platform}). Choose a smaller"
      " mesh with --config.mesh.data and --config.mesh.model: 0 chooses the"
      " size, and with mesh.model=1 one device holds all towers. A CPU can be"
      f" divided into up to {MAX_CPU_DEVICES} devices."
    )
  used = {device.process_index for device in devices[: data * model]}
  if len(used) < num_processes:
    raise UserError(
      f"the mesh data:{data} x model:{model} has devices of only {len(used)} of"
      f" the {num_processes} processes. Choose mesh.data and mesh.model so that"
      f" their product is {len(devices)}, the number of devices of all"
      " processes, or 0 to use them all."
    )
  devices = devices[: data * model]
  return jax.make_mesh((data, model), (DATA, MODEL), devices=devices)


def _all_devices() -> list[jax.Device]:
  try:
    return jax.devices()
  except (AssertionError, RuntimeError) as error:
    if reason := environment.reason_of(error):
      raise UserError(reason) from None
    raise


def _make_cpu_devices(data: int, model: int) -> None:
  """Divides the CPU into devices for the mesh; no effect on other platforms."""
  wanted = data * model or max(2, data, model)
  with contextlib.suppress(RuntimeError):  # the backend runs already
    jax.config.update("jax_num_cpu_devices", min(wanted, MAX_CPU_DEVICES))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises UserError unless all devices along "data" get equal parts."""
  data = mesh.shape[DATA]
  if batch_size < 1 or batch_size % data:
    raise UserError(
      f"batch_size must be a multiple of {data}, the number of devices along"
      f" the mesh axis 'data' (got {batch_size}). Change batch_size or"
      " mesh.data."
    )


def memory(mesh: Mesh) -> int:
  """Bytes of memory of all devices of a mesh; 0 if unknown.

  The devices of a CPU share the memory of their machine.
  """
  devices = list(mesh.devices.flat)
  if devices[0].platform == "cpu":
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine * len({device.process_index for device in devices})
  local = [device for device in devices if device in jax.local_devices()]
  limits = [
    (device.memory_stats() or {}).get("bytes_limit") for device in local
  ]
  return limits[0] * len(devices) if limits and limits[0] else 0


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of a batch: split over "data", the same along "model"."""
  return NamedSharding(mesh, BATCH)


def process_share(mesh: Mesh) -> tuple[int, int]:
  """The part of each batch that this process reads: (index, number of parts).

  With two processes on data:2 x model:1 each reads its half. On data:1 x
  model:2 both read every image, as the paper's two GPUs did.

  Raises:
    UserError: the devices of this process are not one part along "data".
  """
  process = jax.process_index()
  owners = [[d.process_index for d in row] for row in mesh.devices]
  rows = [i for i, row in enumerate(owners) if process in row]
  first, count = rows[0], len(rows)
  if rows != list(range(first, first + count)) or first % count:
    raise UserError(
      f"process {process} has the rows {rows} of the mesh, which do not divide"
      " a batch into equal parts. Set mesh.data to a multiple of the number of"
      " processes, or mesh.model so that processes share each row."
    )
  return first // count, mesh.shape[DATA] // count


def fetch(tree: Any) -> Any:
  """Copies arrays to the host; of one divided over processes, our part."""
  for x in jax.tree.leaves(tree):
    x.copy_to_host_async()  # start all copies before waiting for the first

  def values(x):
    if x.is_fully_addressable or x.is_fully_replicated:
      return np.asarray(x)
    return np.concatenate([shard.data for shard in x.addressable_shards])

  return jax.tree.map(values, tree)


def describe_mesh(mesh: Mesh) -> str:
  """Such as "data:1 x model:2 on 2 cpu devices"."""
  platform = mesh.devices[0, 0].platform
  axes = " x ".join(f"{name}:{size}" for name, size in mesh.shape.items())
  return f"{axes} on {mesh.size} {platform} device{'s'[: mesh.size != 1]}"
