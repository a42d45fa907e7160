"""Checkpoints: asynchronous, atomic, for every mesh, and verified on reading.

Orbax writes the arrays in the background into a temporary directory, and
renames it once it is complete. The saved arrays are global, so any mesh can
restore them. A checksum of every array, computed on its devices, is saved with
it and compared on reading, because neither Orbax nor the disk would notice a
flipped bit.
"""

import contextlib
import logging
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import crc32_of_json

# Errors in reading that come from this machine and do not mean a damaged file.
_MACHINE_ERRORS = (
  "Permission denied",
  "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED",
  "Too many open files",
)

# Version of the layout; increased when a saved value changes its meaning.
FORMAT = 1


class Checkpoints:
  """The checkpoints of one run: `DIRECTORY/STEP/arrays` and `/metadata`.

  If a save fails, for example on a full disk, a warning is printed and the
  older checkpoints stay; training can continue and the next save tries again.
  """

  def __init__(
    self,
    directory: str,
    max_to_keep: int = 2,
    read_only: bool = False,
    validation_errors: Mapping[int, float] | None = None,
  ):
    """Lists the checkpoints, and removes the remains of killed saves.

    Args:
      directory: created when needed.
      max_to_keep: the number of newest checkpoints to keep, beside the best
        one: that with the lowest validation error.
      read_only: for evaluation; nothing in `directory` is changed.
      validation_errors: by step, of checkpoints that may have been saved before
        their evaluation had finished.
    """
    self._directory = pathlib.Path(directory).absolute()
    self._read_only = read_only
    self._failure = ""
    self._saving: int | None = None
    self._best = _Best()
    with _quiet_log():
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          save_interval_steps=0 if read_only else 1,
          preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(max_to_keep), self._best]
          ),
          # If a directory cannot be created in the background, Orbax's threads
          # wait five minutes for it, and the process waits for the threads.
          async_options=ocp.AsyncOptions(
            create_directories_asynchronously=False
          ),
          cleanup_tmp_directories=not read_only,
          create=not read_only,
          read_only=read_only,
        ),
      )
    for step in self._manager.all_steps():
      self._best.note(step, (validation_errors or {}).get(step))
      with contextlib.suppress(_DamagedError):
        self._best.note(step, self._read_body(step).get("validation_error"))

  def save(
    self,
    step: int,
    arrays: Any,
    metadata: dict[str, Any],
    validation_error: float | None = None,
  ) -> None:
    """Starts a save; waits only until the arrays are copied to the host.

    Does nothing if `step` is saved already. A failure of the previous save, or
    of this one, is printed as a warning.

    Args:
      step: steps trained so far; the checkpoint's name.
      arrays: pytree of jax.Array with any sharding.
      metadata: JSON values, such as the state of the learning rate schedule.
      validation_error: top-1 error of these parameters, if known.
    """
    self._settle()
    if step == self.latest_step():
      return
    body = {
      "format": FORMAT,
      "step": step,
      "validation_error": validation_error,
      "metadata": metadata,
      "arrays": _describe(arrays),
      "checksums": _checksums(arrays),
    }
    self._saving, self._failure = step, ""
    self._best.note(step, validation_error)
    items = ocp.args.Composite(
      arrays=ocp.args.StandardSave(arrays),
      metadata=ocp.args.JsonSave({**body, "crc32": crc32_of_json(body)}),
    )
    try:
      self._manager.save(step, args=items)
    except Exception as error:  # Orbax raises many types for a full disk
      self._save_failed(error)

  def note(self, step: int, validation_error: float) -> None:
    """Sets the validation error of a checkpoint that was saved without it.

    It is not written: the next `Checkpoints` need it as `validation_errors`.
    """
    self._best.note(step, validation_error)

  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint; None if there is none."""
    return self._manager.latest_step()

  def restore(
    self, abstract: Any, checkpoint: str = "newest"
  ) -> tuple[Any, dict[str, Any]] | None:
    """Reads a checkpoint onto the mesh of `abstract`.

    A damaged newest checkpoint is renamed to `damaged-STEP`, with a warning,
    and the previous one is read.

    Args:
      abstract: pytree of jax.ShapeDtypeStruct with shardings on any mesh.
      checkpoint: "newest"; "best", that with the lowest validation error; or a
        step, such as "1200".

    Returns:
      The arrays, bit for bit as saved, and the metadata; None if there is no
      undamaged checkpoint.

    Raises:
      UserError: there is no such checkpoint, or it is damaged; it has another
        format or is of another network; or this machine could not read it, for
        lack of memory or permission.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if checkpoint != "newest":
      step = self._choose(checkpoint)
      try:
        return None if step is None else self._read(step, abstract)
      except _DamagedError as error:
        raise UserError(
          f"checkpoint {step} in {self._directory} is damaged ({error})."
          f" Choose another one: {self._describe_steps()}."
        ) from error
    for step in steps:
      try:
        return self._read(step, abstract)
      except _DamagedError as error:
        action = "it is left as it is"
        if not self._read_only:
          action = self._rename(step)
        print(
          f"warning: checkpoint {step} in {self._directory} is damaged"
          f" ({error}); {action}, and the previous one is used",
          file=sys.stderr,
        )
    return None

  def _choose(self, checkpoint: str) -> int | None:
    """The step of the "best" checkpoint, or the named one; None without any."""
    if checkpoint != "best" and not re.fullmatch("[0-9]+", checkpoint):
      raise UserError(
        "the checkpoint must be newest, best or the step of one (got"
        f" {checkpoint!r})."
      )
    steps = list(self._manager.all_steps())
    best = self._best.step(steps)
    if checkpoint == "best":
      if steps and best is None:
        raise UserError(
          f"no checkpoint in {self._directory} has been evaluated yet, so none"
          f" is the best. Choose one by its step: {self._describe_steps()}."
        )
      return best
    if steps and int(checkpoint) not in steps:
      raise UserError(
        f"{self._directory} has no checkpoint of step {int(checkpoint)}. Choose"
        f" newest, best or one of {self._describe_steps()}."
      )
    return int(checkpoint) if steps else None

  def _describe_steps(self) -> str:
    steps = sorted(self._manager.all_steps())
    best = self._best.step(steps)
    return ", ".join(
      f"{step} (best)" if step == best else str(step) for step in steps
    )

  def wait(self) -> None:
    """Waits until the current save is complete on disk.

    Raises:
      UserError: it failed; names the reason and the last good checkpoint.
    """
    self._settle()
    if self._failure:
      raise UserError(
        f"{self._failure}. Free disk space there, then run the same command"
        " again to continue."
      )

  def close(self) -> None:
    """Waits for the current save and ends the background threads."""
    self._settle()
    with contextlib.suppress(Exception):  # raises a failed save's error again
      self._manager.close()

  def _settle(self) -> None:
    try:
      self._manager.wait_until_finished()
    except Exception as error:  # as in save
      self._save_failed(error)

  def _save_failed(self, error: Exception) -> None:
    last = "There is no other checkpoint yet"
    if self.latest_step() is not None:
      last = f"The last good checkpoint is that of step {self.latest_step()}"
    self._failure = (
      f"the checkpoint of step {self._saving} could not be written into"
      f" {self._directory}: {_summary(error)}. {last}"
    )
    print(
      f"warning: {self._failure}; the next save tries again", file=sys.stderr
    )
    for partial in self._directory.glob("*.orbax-checkpoint-tmp*"):
      shutil.rmtree(partial, ignore_errors=True)  # frees the disk
    self._manager.reload()

  def _read(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
    folder = self._directory / str(step)
    body = self._read_body(step)
    if body["format"] != FORMAT:
      raise UserError(
        f"{folder} has checkpoint format {body['format']}, this program reads"
        f" format {FORMAT}. Continue the run with the version that started it"
        f" ({body['metadata'].get('versions', 'unknown')}), or start a new run"
        " with another --workdir."
      )
    here, there = _describe(abstract), body["arrays"]
    if here != there:
      names = here.keys() | there.keys()
      name = min(name for name in names if here.get(name) != there.get(name))
      raise UserError(
        f"{folder} is a checkpoint of another network: {name} is"
        f" {there.get(name, 'absent')} there and {here.get(name, 'absent')}"
        " here. Use the configuration it was trained with (config.json beside"
        " the checkpoints)."
      )
    restore = ocp.args.StandardRestore(abstract)
    arrays = self._read_item(step, arrays=restore).arrays
    read = _checksums(arrays)
    for name, saved in body["checksums"].items():
      if read[name] != saved:
        raise _DamagedError(f"{name} differs from the saved array")
    return arrays, body["metadata"]

  def _read_body(self, step: int) -> dict[str, Any]:
    """The JSON of a checkpoint, as `save` wrote it."""
    body = self._read_item(step, metadata=ocp.args.JsonRestore()).metadata
    crc32 = body.pop("crc32", None)
    if crc32 != crc32_of_json(body) or body["step"] != step:
      raise _DamagedError("its metadata differ from the saved metadata")
    return body

  def _read_item(self, step: int, **item: Any) -> ocp.args.Composite:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**item))
    except Exception as error:  # Orbax raises many types for a damaged file
      if any(words in str(error) for words in _MACHINE_ERRORS):
        raise UserError(
          f"checkpoint {step} in {self._directory} could not be read here"
          f" ({_summary(error)}). The checkpoint is unchanged. Fix the cause,"
          " then run the same command again."
        ) from error
      raise _DamagedError(_summary(error)) from error

  def _rename(self, step: int) -> str:
    """Renames a damaged checkpoint; says what it did."""
    source = self._directory / str(step)
    target, n = self._directory / f"damaged-{step}", 1
    while target.exists():
      target, n = self._directory / f"damaged-{step}-{n}", n + 1
    with contextlib.suppress(FileNotFoundError):  # another process was first
      source.rename(target)
    self._manager.reload()
    return f"it is renamed to {target.name}"


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
  """Leaves out Orbax's warning that a directory is read-only, as it should be.

  Commands do so for good (`libraries.configure`); a library may not.
  """
  logger = absl.logging.get_absl_logger()

  def keep(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname

  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)


def latest_step(directory: str) -> int:
  """Step of the newest checkpoint in `directory`; -1 if there is none."""
  folders = pathlib.Path(directory).glob("*")
  return max((int(p.name) for p in folders if p.name.isdigit()), default=-1)


class _Best(policies.PreservationPolicy):
  """Keeps the checkpoint with the lowest validation error.

  Orbax's own `BestN` knows only errors that were saved with a checkpoint, but
  an evaluation that a signal interrupts is finished after the save.
  """

  def __init__(self):
    self._errors: dict[int, float] = {}

  def note(self, step: int, error: float | None) -> None:
    if error is not None:
      self._errors[step] = error

  def step(self, steps: Sequence[int]) -> int | None:
    """The best of `steps`, of equally good ones the first; None if unknown."""
    known = sorted(step for step in steps if step in self._errors)
    return min(known, key=self._errors.__getitem__, default=None)

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    best = self.step(steps)
    return [step == best for step in steps]


class _DamagedError(Exception):
  """A checkpoint that cannot be read, or differs from what was saved."""


def _describe(arrays: Any) -> dict[str, list]:
  """Dtype and shape of each array, by path."""
  return {
    jax.tree_util.keystr(path): [str(leaf.dtype), *leaf.shape]
    for path, leaf in jax.tree.leaves_with_path(arrays)
  }


def _checksums(arrays: Any) -> dict[str, list[int]]:
  """Two sums modulo 2**32 of each array's bits, the same on every mesh.

  The plain sum changes if any one element changes; the sum weighted by position
  changes if elements are swapped.
  """
  return {
    jax.tree_util.keystr(path): np.asarray(sums).tolist()
    for path, sums in jax.tree.leaves_with_path(_sum_bits(arrays))
  }


@jax.jit
def _sum_bits(arrays: Any) -> Any:
  def sums(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    elif x.dtype == bool:
      x = x.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    bits = bits.astype(jnp.uint32)
    sharding = jax.typeof(x).sharding
    position = jnp.zeros(x.shape, jnp.uint32, out_sharding=sharding)
    for axis in range(x.ndim):
      index = jax.lax.broadcasted_iota(
        jnp.uint32, x.shape, axis, out_sharding=sharding
      )
      position = position * np.uint32(x.shape[axis]) + index
    weighted = bits * (position + np.uint32(1))
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32) for x in (bits, weighted)])

  return jax.tree.map(sums, arrays)


def _summary(error: Exception) -> str:
  """One line of at most 250 characters: the end, which names the cause."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) < 250 else f"... {text[-240:]}"
