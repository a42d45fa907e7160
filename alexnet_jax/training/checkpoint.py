"""Checkpoints: asynchronous, atomic, for every mesh, and verified on read.

Orbax writes the arrays in the background, into a folder that only counts once
it is complete. What is saved is global, so any mesh restores it. A checksum
of every array, computed where the array lies, is saved beside it and compared
on reading: neither Orbax nor the disk would notice a flipped bit.
"""

import contextlib
import json
import pathlib
import shutil
import sys
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from alexnet_jax.runtime import noise
from alexnet_jax.runtime.command import UserError

noise.silence()

# Of errors in reading: they tell of this machine now, nothing of the files.
_HINDRANCES = (
  "Permission denied",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "Too many open files",
)

# Goes up when what a checkpoint holds changes its meaning.
FORMAT = 1


class Checkpoints:
  """The checkpoints of one run: `DIRECTORY/STEP/arrays` and `/metadata`.

  A save that fails, on a full disk say, is told and leaves the older ones as
  they are; training can go on and the next save tries again.
  """

  def __init__(
    self, directory: str, max_to_keep: int = 2, read_only: bool = False
  ):
    """Finds what is there, and clears what a killed save left behind.

    Args:
      directory: created when needed.
      max_to_keep: how many of the newest stay, beside the one of the least
        validation error.
      read_only: change nothing in `directory`; for evaluation.
    """
    self._directory = pathlib.Path(directory).absolute()
    self._read_only = read_only
    self._failure = ""
    self._saving: int | None = None
    self._keep = _NewestAndBest(max_to_keep)
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        save_interval_steps=0 if read_only else 1,
        preservation_policy=self._keep,
        # Folders that cannot be made in the background leave threads which
        # wait five minutes for them, and the process for those threads.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
      ),
    )
    for step in self._manager.all_steps():
      with contextlib.suppress(_DamagedError):
        self._keep.note(step, self._read_body(step).get("validation_error"))

  def save(
    self,
    step: int,
    arrays: Any,
    metadata: dict[str, Any],
    validation_error: float | None = None,
  ) -> None:
    """Begins to save; waits only for the arrays' copy to the host.

    Does nothing if `step` is saved already.

    Args:
      step: steps trained so far; the checkpoint's name.
      arrays: pytree of jax.Array, sharded in any way.
      metadata: JSON, such as the state of the learning rate schedule.
      validation_error: top-1 error of these very parameters, if known.
    """
    self._settle()
    if step == self.latest_step():
      return
    body = {
      "format": FORMAT,
      "step": step,
      "validation_error": validation_error,
      "metadata": metadata,
      "arrays": {
        jax.tree_util.keystr(path): [str(leaf.dtype), *leaf.shape]
        for path, leaf in jax.tree.leaves_with_path(arrays)
      },
      "checksums": _checksums(arrays),
    }
    self._saving, self._failure = step, ""
    self._keep.note(step, validation_error)
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(
          arrays=ocp.args.StandardSave(arrays),
          metadata=ocp.args.JsonSave({**body, "crc32": _crc32(body)}),
        ),
      )
    except Exception as error:  # Orbax has many kinds for a full disk
      self._failed(error)

  def note(self, step: int, validation_error: float) -> None:
    """Says what the error of a saved checkpoint is, if it is known later."""
    self._keep.note(step, validation_error)

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, None if there is none."""
    return self._manager.latest_step()

  def restore(self, abstract: Any) -> tuple[Any, dict[str, Any]] | None:
    """Reads the newest good checkpoint onto the mesh that `abstract` names.

    One that is damaged is set aside as `damaged-STEP`, with a warning, and
    the one before it is read.

    Args:
      abstract: pytree of jax.ShapeDtypeStruct with shardings; the mesh may
        be another one than at the save.

    Returns:
      The arrays, bit for bit as saved, and the metadata; None if there is no
      good checkpoint.

    Raises:
      UserError: it is of another format, or of another network, or this
        machine could not read it, for want of memory or permission.
    """
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        return self._read(step, abstract)
      except _DamagedError as error:
        where = "left alone" if self._read_only else self._set_aside(step)
        print(
          f"warning: checkpoint {step} in {self._directory} is damaged"
          f" ({error}): {where}, taking the one before it",
          file=sys.stderr,
        )
    return None

  def wait(self) -> None:
    """Waits until the save under way is complete on disk.

    Raises:
      UserError: it failed; says why and which checkpoint is good.
    """
    self._settle()
    if self._failure:
      raise UserError(
        f"the checkpoint of step {self._saving} could not be written into"
        f" {self._directory}: {self._failure}. {self._last_good()}. Make room"
        " there, then run the same command again: it goes on from there."
      )

  def close(self) -> None:
    """Waits for the save under way and ends the background threads."""
    self._settle()
    with contextlib.suppress(Exception):  # a failed save's, raised once more
      self._manager.close()

  def _settle(self) -> None:
    try:
      self._manager.wait_until_finished()
    except Exception as error:  # as in save
      self._failed(error)

  def _failed(self, error: Exception) -> None:
    self._failure = _summary(error)
    print(
      f"warning: the checkpoint of step {self._saving} could not be written"
      f" into {self._directory}: {self._failure}. {self._last_good()}; the"
      " next save tries again",
      file=sys.stderr,
    )
    for partial in self._directory.glob("*.orbax-checkpoint-tmp*"):
      shutil.rmtree(partial, ignore_errors=True)  # it fills the disk
    self._manager.reload()

  def _last_good(self) -> str:
    step = self.latest_step()
    if step is None:
      return "No other is there yet"
    return f"The last good one is of step {step}"

  def _read(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
    folder = self._directory / str(step)
    body = self._read_body(step)
    if body["format"] != FORMAT:
      raise UserError(
        f"{folder} has checkpoint format {body['format']}, this program reads"
        f" format {FORMAT}. Continue the run with the version that began it"
        f" ({body['metadata'].get('versions', 'unknown')}), or start anew with"
        " another --workdir."
      )
    wanted = {
      jax.tree_util.keystr(path): [str(leaf.dtype), *leaf.shape]
      for path, leaf in jax.tree.leaves_with_path(abstract)
    }
    if wanted != body["arrays"]:
      name = min(
        name
        for name in wanted.keys() | body["arrays"].keys()
        if wanted.get(name) != body["arrays"].get(name)
      )
      raise UserError(
        f"{folder} holds another network: {name} is"
        f" {body['arrays'].get(name, 'absent')} there and"
        f" {wanted.get(name, 'absent')} here. Use the configuration it was"
        " trained with (config.json beside the checkpoints)."
      )
    restore = ocp.args.StandardRestore(abstract)
    arrays = self._read_item(step, arrays=restore).arrays
    read = _checksums(arrays)
    for name, saved in body["checksums"].items():
      if read[name] != saved:
        raise _DamagedError(f"{name} differs from what was saved")
    return arrays, body["metadata"]

  def _read_body(self, step: int) -> dict[str, Any]:
    """The JSON of a checkpoint, as `save` made it."""
    body = self._read_item(step, metadata=ocp.args.JsonRestore()).metadata
    crc32 = body.pop("crc32", None)
    if crc32 != _crc32(body) or body["step"] != step:
      raise _DamagedError("its metadata differ from what was saved")
    return body

  def _read_item(self, step: int, **item: Any) -> ocp.args.Composite:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**item))
    except Exception as error:  # Orbax has many kinds for a damaged file
      if any(words in str(error) for words in _HINDRANCES):
        raise UserError(
          f"checkpoint {step} in {self._directory} could not be read here"
          f" ({_summary(error)}). It is left as it is: mend that, then run the"
          " same command again."
        ) from error
      raise _DamagedError(_summary(error)) from error

  def _set_aside(self, step: int) -> str:
    source = self._directory / str(step)
    target, n = self._directory / f"damaged-{step}", 1
    while target.exists():
      target, n = self._directory / f"damaged-{step}-{n}", n + 1
    with contextlib.suppress(FileNotFoundError):  # another process was first
      source.rename(target)
    self._manager.reload()
    return f"set aside as {target.name}"


def latest_step(directory: str) -> int:
  """Step of the newest checkpoint, read or not; -1 if there is none.

  Args:
    directory: of the checkpoints; nothing in it is touched.
  """
  folders = pathlib.Path(directory).glob("*")
  return max((int(p.name) for p in folders if p.name.isdigit()), default=-1)


class _NewestAndBest(policies.PreservationPolicy):
  """Which checkpoints stay: some of the newest, and the one of least error."""

  def __init__(self, newest: int):
    self._newest = newest
    self._errors: dict[int, float] = {}

  def note(self, step: int, error: float | None) -> None:
    if error is not None:
      self._errors[step] = error

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    stay = set(sorted(steps)[-self._newest :])
    known = [step for step in steps if step in self._errors]
    if known:
      stay.add(min(known, key=self._errors.__getitem__))
    return [step in stay for step in steps]


class _DamagedError(Exception):
  """A checkpoint that cannot be read, or is not what was saved."""


def _checksums(arrays: Any) -> dict[str, list[int]]:
  """Two sums modulo 2**32 of each array's bits, the same on every mesh.

  The plain sum changes with any single element; the sum weighted by position
  changes when elements change places.
  """
  return {
    jax.tree_util.keystr(path): np.asarray(sums).tolist()
    for path, sums in jax.tree.leaves_with_path(_sum_bits(arrays))
  }


@jax.jit
def _sum_bits(arrays: Any) -> Any:
  def sums(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    bits = bits.astype(jnp.uint32)
    sharding = jax.typeof(x).sharding
    position = jnp.zeros(x.shape, jnp.uint32, out_sharding=sharding)
    for axis in range(x.ndim):
      index = jax.lax.broadcasted_iota(
        jnp.uint32, x.shape, axis, out_sharding=sharding
      )
      position = position * np.uint32(x.shape[axis]) + index
    return jnp.stack(
      [
        jnp.sum(bits, dtype=jnp.uint32),
        jnp.sum(bits * (position + np.uint32(1)), dtype=jnp.uint32),
      ]
    )

  return jax.tree.map(sums, arrays)


def _summary(error: Exception) -> str:
  """One line, not too long: the end, where the cause stands."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) < 250 else f"... {text[-240:]}"


def _crc32(body: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(body, sort_keys=True).encode())
