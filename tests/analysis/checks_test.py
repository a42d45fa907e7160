"""Checks of a machine fail when something is wrong.

`python -m alexnet_jax.selftest` runs the checks themselves.
"""

import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax.analysis import checks


def test_a_mesh_that_trains_another_network_fails(monkeypatch):
  def update(data, model):
    return [np.ones(3, np.float32) * (1.01 if data == 2 else 1.0)]

  monkeypatch.setattr(checks, "_update", update)
  with pytest.raises(checks.Failure, match="differs by"):
    checks.check_meshes()


def test_a_resumed_run_that_differs_fails(monkeypatch):
  def start(workdir, environment):
    return subprocess.Popen(
      [sys.executable, "-c", "print('step 5/8', flush=True)"],
      stdout=subprocess.PIPE,
      text=True,
    )

  monkeypatch.setattr(checks, "_start", start)
  monkeypatch.setattr(checks, "_record", lambda workdir: workdir[-5:])
  with pytest.raises(checks.Failure, match="differs from an uninterrupted"):
    checks.check_resume()
  monkeypatch.setattr(checks, "_record", lambda workdir: "same")
  assert "equal to an uninterrupted run" in checks.check_resume()
