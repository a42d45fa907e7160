"""Checkpoints: asynchronous, atomic, for every mesh, and verified on reading.

Orbax writes the arrays in the background into a temporary directory, and
renames it once it is complete. The saved arrays are global, so any mesh can
restore them. The size and checksum of every file and of every array are saved
with it and compared on reading, because neither Orbax nor the disk would notice
a flipped bit. `checkpoint_files` says what counts as damaged.
"""

import contextlib
import logging
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import absl.logging
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from alexnet_jax.runtime import processes
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.files import crc32_of_json
from alexnet_jax.training import array_checksums
from alexnet_jax.training import checkpoint_files as files
from alexnet_jax.training.best_checkpoint import BestCheckpoint
from alexnet_jax.training.checkpoint_files import DamagedError

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
    """Lists the checkpoints.

    Args:
      directory: created when needed.
      max_to_keep: the number of newest checkpoints to keep, beside the best
        one: that with the lowest validation error.
      read_only: for evaluation; nothing in `directory` is changed.
      validation_errors: by step, of checkpoints that may have been saved before
        their evaluation had finished.

    Raises:
      UserError: the directory cannot be created or read.
    """
    self._directory = pathlib.Path(directory).absolute()
    self._read_only = read_only
    self._failure = ""
    self._saving: int | None = None
    self._best = BestCheckpoint()
    self._max_to_keep = max_to_keep
    try:
      self._manager = self._open()
    except Exception as error:  # Orbax raises many types
      raise UserError(
        f"the checkpoints in {self._directory} cannot be opened"
        f" ({_summary(error)}). Fix the cause, then run the same command again."
      ) from error
    for step in self._manager.all_steps():
      self._best.note(step, (validation_errors or {}).get(step))
      with contextlib.suppress(DamagedError, OSError):
        body = files.read_body(self._directory / str(step))
        self._best.note(step, body.get("validation_error"))

  def _open(self) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      save_interval_steps=0 if self._read_only else 1,
      preservation_policy=policies.AnyPreservationPolicy(
        [policies.LatestN(self._max_to_keep), self._best]
      ),
      # If a directory cannot be created in the background, Orbax's threads wait
      # five minutes for it, and the process waits for the threads.
      async_options=ocp.AsyncOptions(
        create_directories_asynchronously=False,
        post_finalization_callback=self._record_files,
      ),
      # `restore` removes the remains of killed saves, if the run goes on.
      cleanup_tmp_directories=False,
      create=not self._read_only,
      read_only=self._read_only,
    )
    with _quiet_log():
      return ocp.CheckpointManager(self._directory, options=options)

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
      "arrays": array_checksums.describe(arrays),
      "checksums": array_checksums.checksums(arrays),
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

    A newest checkpoint that is damaged is renamed to `damaged-STEP`, with a
    warning, and the previous one is read. If none can be read, or it is not
    proven that the newest is damaged, nothing is changed.

    Args:
      abstract: pytree of jax.ShapeDtypeStruct with shardings on any mesh.
      checkpoint: "newest"; "best", that with the lowest validation error; or a
        step, such as "1200".

    Returns:
      The arrays, bit for bit as saved, and the metadata; None if there is no
      checkpoint.

    Raises:
      UserError: there is no such checkpoint, or it is damaged, or all of them
        are; it has another format or is of another network; or it could not be
        read, for example for lack of memory or permission.
    """
    if checkpoint != "newest":
      step = self._choose(checkpoint)
      try:
        return None if step is None else self._read(step, abstract)
      except DamagedError as error:
        raise UserError(
          f"checkpoint {step} in {self._directory} is damaged ({error})."
          f" Choose another one: {self._describe_steps()}."
        ) from error
    damaged: dict[int, DamagedError] = {}
    restored = None
    for step in reversed(self._steps()):
      try:
        restored = self._read(step, abstract)
        break
      except DamagedError as error:
        damaged[step] = error
    if damaged and restored is None:
      each = "; ".join(f"{step} ({why})" for step, why in damaged.items())
      raise UserError(
        f"every checkpoint in {self._directory} is damaged: {each}. Nothing was"
        " changed. Restore one of them from a copy, or start a new run with"
        " another --workdir."
      )
    for step, error in damaged.items():
      action = "it is left as it is"
      if not self._read_only:
        action = self._rename(step)
      print(
        f"warning: checkpoint {step} in {self._directory} is damaged"
        f" ({error}); {action}, and the previous one is used",
        file=sys.stderr,
      )
    if not self._read_only:
      self._remove_partial()
    return restored

  def _steps(self) -> list[int]:
    try:
      return files.steps(self._directory)
    except OSError as error:
      raise UserError(
        f"the checkpoints in {self._directory} cannot be listed"
        f" ({error.strerror}). Nothing was changed. Fix the cause, then run the"
        " same command again."
      ) from error

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
        f"{self._failure}. Free disk space there, or fix the cause, then run"
        " the same command again to continue."
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
    with contextlib.suppress(Exception):  # the folder cannot be read either
      if processes.is_single_process():
        # The old one has writes of the failed save under way, and would raise
        # their errors as those of the next save.
        with contextlib.suppress(Exception):
          self._manager.close()
        self._manager = self._open()
      else:  # to open one, all processes wait for each other
        self._manager.reload()
    self._remove_partial()  # frees the disk
    if self._is_complete(self._saving):
      return  # it was removing an older one, or a note of Orbax, that failed
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

  def _is_complete(self, step: int | None) -> bool:
    folder = self._directory / str(step)
    with contextlib.suppress(DamagedError, OSError):
      return files.check(folder) and bool(files.read_body(folder))
    return False

  def _partial(self, name: str = "*") -> list[pathlib.Path]:
    """The folders of saves that are not complete."""
    return list(self._directory.glob(f"{name}.orbax-checkpoint-tmp*"))

  def _remove_partial(self) -> None:
    if processes.is_main():
      for folder in self._partial():
        shutil.rmtree(folder, ignore_errors=True)

  def _record_files(self) -> None:
    """Lists the files of the current save, before Orbax renames its folder."""
    for folder in self._partial(str(self._saving)):
      files.record(folder)

  def _read(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint; raises DamagedError, or UserError if unreadable."""
    folder = self._directory / str(step)
    body, are_listed = self._verified_body(folder)
    if body["format"] != FORMAT:
      raise UserError(
        f"{folder} has checkpoint format {body['format']}, this program reads"
        f" format {FORMAT}. Continue the run with the version that started it"
        f" ({body['metadata'].get('versions', 'unknown')}), or start a new run"
        " with another --workdir."
      )
    here, there = array_checksums.describe(abstract), body["arrays"]
    if here != there:
      names = here.keys() | there.keys()
      name = min(name for name in names if here.get(name) != there.get(name))
      raise UserError(
        f"{folder} is a checkpoint of another network: {name} is"
        f" {there.get(name, 'absent')} there and {here.get(name, 'absent')}"
        " here. Use the configuration it was trained with (config.json beside"
        " the checkpoints)."
      )
    try:
      arrays, read = self._read_arrays(step, abstract)
    except Exception as error:  # Orbax and JAX raise many types
      versions = body["metadata"].get("versions", {})
      reason = _summary(error)
      if are_listed and "orbax-checkpoint" in versions:
        reason += (
          "; its files are those that were saved, with orbax-checkpoint"
          f" {versions['orbax-checkpoint']}, and this is {ocp.__version__}"
        )
      raise self._unreadable(folder, reason) from error
    for name, saved in body["checksums"].items():
      if read[name] != saved:
        raise DamagedError(f"{name} differs from the saved array")
    return arrays, body["metadata"]

  def _verified_body(self, folder: pathlib.Path) -> tuple[dict[str, Any], bool]:
    """The JSON of a checkpoint, and whether all its files are as saved.

    If several processes do not see the same, all raise the same kind of error.
    """
    body, are_listed, error = {}, False, None
    try:
      are_listed = files.check(folder)
      body = files.read_body(folder)
    except (DamagedError, OSError, MemoryError) as caught:
      error = caught
    is_damaged = isinstance(error, DamagedError)
    kinds = np.array([is_damaged, error is not None and not is_damaged])
    damaged, unreadable = processes.gather(kinds).reshape(-1, 2).any(0)
    elsewhere = DamagedError("another process of this run found it so")
    if unreadable:
      reason = elsewhere if error is None or is_damaged else error
      raise self._unreadable(folder, _summary(reason)) from error
    if damaged:
      raise error or elsewhere
    return body, are_listed

  def _read_arrays(self, step: int, abstract: Any) -> tuple[Any, dict]:
    """The arrays and their checksums; reads once more after an error."""

    def read() -> tuple[Any, dict]:
      args = ocp.args.Composite(arrays=ocp.args.StandardRestore(abstract))
      arrays = self._manager.restore(step, args=args).arrays
      return arrays, array_checksums.checksums(arrays)

    if processes.is_single_process():  # several would have to agree on it
      with contextlib.suppress(Exception):
        return read()
    return read()

  def _unreadable(self, folder: pathlib.Path, reason: Any) -> UserError:
    return UserError(
      f"checkpoint {folder.name} in {self._directory} could not be read here"
      f" ({reason}). Nothing was changed. Fix the cause, then run the same"
      " command again. To continue from the checkpoint before it, move this one"
      " out of its folder."
    )

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


def _summary(error: Exception) -> str:
  """One line of at most 250 characters: the end, which names the cause."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text if len(text) < 250 else f"... {text[-240:]}"
