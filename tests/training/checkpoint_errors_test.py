"""Checkpoints that cannot be read now: nothing is set aside, nothing changes.

Each error at each place where a checkpoint is read, always or once.
"""

import errno
import pathlib

import jax
import numpy as np
import pytest

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import checkpoint_files
from alexnet_jax.training.checkpoint import Checkpoints

ERRORS = {
  "EIO": OSError(errno.EIO, "Input/output error"),
  "ESTALE": OSError(errno.ESTALE, "Stale file handle"),
  "ENOMEM": OSError(errno.ENOMEM, "Cannot allocate memory"),
  "EACCES": PermissionError(errno.EACCES, "Permission denied"),
  "memory": MemoryError("no memory"),
}
ABSTRACT = {
  "x": jax.ShapeDtypeStruct(
    (6,),
    np.float32,
    sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
  )
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Two checkpoints, of the steps 1 and 2."""
  path = tmp_path_factory.mktemp("checkpoints")
  checkpoints = Checkpoints(str(path))
  for step in (1, 2):
    arrays = {"x": jax.numpy.full(6, step, np.float32)}
    checkpoints.save(step, arrays, {"of": step})
  checkpoints.wait()
  checkpoints.close()
  return path


def fail(monkeypatch, checkpoints, place, error, times):
  """Makes the next `times` readings of the newest checkpoint fail."""
  left = [times]

  def failing(function, is_chosen):
    def call(*arguments, **more):
      if is_chosen(*arguments) and left[0]:
        left[0] -= 1
        raise error
      return function(*arguments, **more)

    return call

  if place == "metadata":
    read = failing(
      pathlib.Path.read_bytes,
      lambda path: path.match("2/metadata/metadata"),
    )
    monkeypatch.setattr(pathlib.Path, "read_bytes", read)
  elif place == "files":
    opened = failing(open, lambda path, *rest: "2" in path.parts)
    monkeypatch.setattr(checkpoint_files, "open", opened, raising=False)
  else:
    restore = failing(checkpoints._manager.restore, lambda step: step == 2)
    monkeypatch.setattr(checkpoints._manager, "restore", restore)


def content(folder):
  return {
    str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()
  }


@pytest.mark.parametrize("place", ["metadata", "files", "arrays"])
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_at_reading_is_no_damage(folder, monkeypatch, place, name):
  before, checkpoints = content(folder), Checkpoints(str(folder))
  with monkeypatch.context() as patch:
    fail(patch, checkpoints, place, ERRORS[name], times=1000)
    with pytest.raises(UserError) as caught:
      checkpoints.restore(ABSTRACT)
  message = str(caught.value)
  assert message.startswith("checkpoint 2 in ")
  assert "could not be read here" in message
  assert str(ERRORS[name].args[-1]) in message
  assert content(folder) == before
  assert checkpoints.restore(ABSTRACT)[1] == {"of": 2}
  checkpoints.close()


@pytest.mark.parametrize("place", ["metadata", "files", "arrays"])
def test_an_error_that_does_not_come_again_is_none(folder, monkeypatch, place):
  checkpoints = Checkpoints(str(folder))
  fail(monkeypatch, checkpoints, place, ERRORS["ESTALE"], times=1)
  arrays, metadata = checkpoints.restore(ABSTRACT)
  assert metadata == {"of": 2} and (np.asarray(arrays["x"]) == 2).all()
  checkpoints.close()
