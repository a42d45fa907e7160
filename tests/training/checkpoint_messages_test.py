"""What a command prints when checkpoints cannot be written or read."""

import pathlib
import subprocess
import sys


def test_full_disk_shows_no_traceback(tmp_path):
  result = _script(f"""
import contextlib, gc, resource
import jax, numpy as np
from alexnet_jax.training.checkpoint import Checkpoints, UserError
random = np.random.default_rng(0)
arrays = {{str(i): jax.numpy.array(random.random(9000)) for i in range(30)}}
checkpoints = Checkpoints({str(tmp_path)!r})
checkpoints.save(1, arrays, {{}})
checkpoints.wait()
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
checkpoints.save(2, arrays, {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limit[1]))
checkpoints.save(3, arrays, {{}})
with contextlib.suppress(UserError):
  checkpoints.wait()  # it is written in the background
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
checkpoints.save(4, arrays, {{}})
checkpoints.wait()
print(checkpoints.latest_step())
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
checkpoints.save(5, arrays, {{}})
checkpoints.close()  # tells it and raises nothing: the end has its own words
gc.collect()
""")
  assert result.returncode == 0, result.stdout
  lines = result.stdout.splitlines()
  assert "4" in lines
  lines.remove("4")
  assert len(lines) == 3, result.stdout
  for step, line in zip((2, 3, 5), lines, strict=True):
    assert line.startswith(f"warning: the checkpoint of step {step}")


def test_a_folder_that_cannot_be_made_does_not_hold_up_the_end(tmp_path):
  """Orbax waits five minutes for one that it makes in the background."""
  folder, away = tmp_path / "c", tmp_path / "away"
  result = _script(f"""
import pathlib
import jax
from alexnet_jax.training.checkpoint import Checkpoints
folder, away = pathlib.Path({str(folder)!r}), pathlib.Path({str(away)!r})
arrays = {{"x": jax.numpy.arange(9)}}
checkpoints = Checkpoints(str(folder))
checkpoints.save(1, arrays, {{}})
checkpoints.wait()
folder.rename(away)
folder.write_text("")
checkpoints.save(2, arrays, {{}})
checkpoints.save(3, arrays, {{}})
folder.unlink()
away.rename(folder)
checkpoints.save(4, arrays, {{}})
checkpoints.close()
""")
  assert result.returncode == 0, result.stdout
  lines = result.stdout.splitlines()
  for step, line in zip((2, 3), lines, strict=True):
    assert line.startswith(f"warning: the checkpoint of step {step} could not")
  assert {path.name for path in folder.iterdir()} == {"1", "4"}


def test_one_that_this_machine_cannot_read_now_is_not_called_damaged(tmp_path):
  """Set aside as damaged, a good one would be lost to the run."""
  result = _script(f"""
import resource, jax
from alexnet_jax.training.checkpoint import Checkpoints, UserError
checkpoints = Checkpoints({str(tmp_path)!r})
arrays = {{"x": jax.numpy.arange(9)}}
checkpoints.save(1, arrays, {{}})
checkpoints.wait()
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
try:
  checkpoints.restore(jax.eval_shape(lambda: arrays))
except UserError as error:
  print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, limit)
checkpoints.close()
""")
  assert result.returncode == 0, result.stdout
  line = result.stdout.splitlines()[0]  # asyncio misses its files, and adds so
  assert line.startswith(f"the checkpoints in {tmp_path} cannot be listed")
  assert "Too many open files" in line
  assert {path.name for path in tmp_path.iterdir()} == {"1"}


def _script(text):
  """Runs it as a command, in a process whose logs go where a user sees them."""
  configure = "from alexnet_jax.runtime import libraries\nlibraries.configure()"
  return subprocess.run(
    [sys.executable, "-c", configure + text],
    timeout=120,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=pathlib.Path(__file__).resolve().parents[2],
  )
