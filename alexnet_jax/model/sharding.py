"""Where the network lives: the mesh, the exchange, and the way onto devices.

Two axes. Over "data" every device sees other images; over "model" every device
holds other towers. All code of the network is written for one device and runs
under `jax.shard_map`, so what crosses between towers can be pointed at:
`exchange` and `exchange_sum` here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.runtime.command import UserError

DATA = "data"
MODEL = "model"

BATCH = P(DATA)  # a batch is split over "data" and whole on "model"
TOWERS = P(MODEL)  # a leading tower axis is split over "model"
REPLICATED = P()

MAX_CPU_DEVICES = 8


def exchange(parts: Sequence[jax.Array], dtype: str = "float32") -> jax.Array:
  """What every tower sees after an exchange: all towers' maps side by side.

  Args:
    parts: the maps of this device's towers, each f32[B,...,C].
    dtype: in which they travel, and in which their gradients travel back;
      "float32": as they are.

  Returns:
    f32[B,...,towers*C], the same on every device of the "model" axis.
  """
  local = jnp.concatenate(parts, axis=-1)
  # Gathered along a new first axis: along the last one the compiler would lay
  # all maps out channel by channel, and what comes before and after with them.
  sent = lax.all_gather(_as_sent(local, dtype), MODEL)
  whole = jnp.moveaxis(sent, 0, -2).reshape(*local.shape[:-1], -1)
  return whole.astype(local.dtype)


def exchange_sum(
  parts: Sequence[jax.Array], dtype: str = "float32"
) -> jax.Array:
  """The sum over all towers, of the same shape; arguments as of `exchange`.

  Its transpose sends nothing: every tower gets the gradient of the sum.
  """
  local = sum(parts)
  return lax.psum(_as_sent(local, dtype), MODEL).astype(local.dtype)


def _as_sent(x: jax.Array, dtype: str) -> jax.Array:
  return x if dtype == "float32" else x.astype(dtype)


def varying(x: jax.Array) -> set[str]:
  """The mesh axes over which `x` differs between devices, as JAX tracks it."""
  return jax.typeof(x).manual_axis_type.varying


def vary(x: jax.Array, axes: set[str]) -> jax.Array:
  """`x` as each device's own along `axes`: its gradient is summed over them."""
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

  On a CPU the devices are made here, as many as the mesh asks for (up to 8; 2
  when it asks for none), if JAX has not started its backend yet.

  Args:
    data: devices along "data"; 0: all that "model" leaves.
    model: devices along "model"; 0: one a tower if there are enough, else 1.
    towers: the network's towers; each device holds towers / model of them.
    devices: what there is; default: all that this process sees or makes.

  Raises:
    UserError: `model` does not divide `towers`, or devices are too few.
  """
  if data < 0 or model < 0:
    raise UserError(
      f"mesh.data={data}, mesh.model={model}: a mesh axis has at least one"
      " device (0 means: fit)."
    )
  if model and towers % model:
    raise UserError(
      f"mesh.model={model}, but the network has {towers} tower(s), and each"
      f" device holds towers / mesh.model of them. Set mesh.model to a divisor"
      f" of {towers}."
    )
  if devices is None:
    _make_cpu_devices(data, model)
    devices = jax.devices()
  if not model:
    model = towers if len(devices) // max(data, 1) >= towers else 1
  if not data:
    data = max(len(devices) // model, 1)
  if data * model > len(devices):
    raise UserError(
      f"The mesh data:{data}, model:{model} needs {data * model} devices, and"
      f" there are {len(devices)} ({devices[0].platform}). Ask for a smaller"
      " mesh with --config.mesh.data and --config.mesh.model (0 means: fit; one"
      f" device can hold all towers with mesh.model=1). On a CPU up to"
      f" {MAX_CPU_DEVICES} devices are made on demand."
    )
  return jax.make_mesh(
    (data, model), (DATA, MODEL), devices=devices[: data * model]
  )


def _make_cpu_devices(data: int, model: int) -> None:
  """Splits the CPU into the devices a mesh asks for; no effect elsewhere."""
  wanted = max(data, 1) * max(model, 1) if data and model else 0
  wanted = min(wanted or max(2, data, model), MAX_CPU_DEVICES)
  try:
    jax.config.update("jax_num_cpu_devices", wanted)
  except RuntimeError:
    return  # the backend runs already, with the devices it has


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises UserError unless `batch_size` divides over the "data" axis."""
  data = mesh.shape[DATA]
  if batch_size < 1 or batch_size % data:
    raise UserError(
      f"batch_size={batch_size} cannot be split evenly over the {data} devices"
      f" of the mesh axis 'data'. Choose a multiple of {data}, or another"
      " mesh.data."
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """How the arrays of a batch lie: split over "data", whole on "model"."""
  return NamedSharding(mesh, BATCH)


def process_share(mesh: Mesh) -> tuple[int, int]:
  """Which part of each batch this process reads: (number, of how many).

  On data:2 x model:1 with two processes each reads its half; on data:1 x
  model:2 both read every image, as the paper's two GPUs did.

  Raises:
    UserError: its devices do not lie side by side along "data".
  """
  rows = sorted(
    row
    for row, devices in enumerate(mesh.devices)
    if any(d.process_index == jax.process_index() for d in devices)
  )
  first, count = rows[0], len(rows)
  if rows != list(range(first, first + count)) or first % count:
    raise UserError(
      f"process {jax.process_index()} holds the rows {rows} of the mesh, which"
      " are no even part of a batch. Choose mesh.data as a multiple of the"
      " number of processes, or mesh.model so that they share each row."
    )
  return first // count, mesh.shape[DATA] // count


def fetch(tree: Any) -> Any:
  """The values on the host; of an array spread over processes, our part."""

  for x in jax.tree.leaves(tree):
    x.copy_to_host_async()  # all of them, before the first is waited for

  def values(x):
    if x.is_fully_addressable or x.is_fully_replicated:
      return np.asarray(x)
    return np.concatenate([shard.data for shard in x.addressable_shards])

  return jax.tree.map(values, tree)


def on_each_device(
  function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """`function`, written for one device, on every device of `mesh`.

  `check_vma=True` makes JAX track over which axes each value differs between
  devices. It rejects a result that is declared equal everywhere and is not, and
  it is what makes the gradient, taken outside, sum over devices where it must:
  no synchronisation is written by hand.
  """
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=True,
  )


def place(tree: Any, specs: Any, mesh: Mesh) -> Any:
  """Puts host or device arrays onto the mesh; `specs` is a tree prefix."""
  return jax.device_put(
    tree, jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
  )


def describe_mesh(mesh: Mesh) -> str:
  """For people: "data:1 x model:2 on 2 cpu devices"."""
  device = np.ravel(mesh.devices)[0]
  axes = " x ".join(f"{name}:{size}" for name, size in mesh.shape.items())
  count = math.prod(mesh.shape.values())
  return f"{axes} on {count} {device.platform} device{'s'[: count != 1]}"
