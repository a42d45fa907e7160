"""The self-test reports a failed check and still runs the others.

The checks themselves are run by `python -m alexnet_jax.selftest`.
"""

import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax import selftest


def test_a_failed_check_is_reported_and_the_others_still_run(
  monkeypatch, capsys
):
  def fails():
    raise selftest.Failure("two and two make five")

  checks = {"first": fails, "second": lambda: "four devices"}
  monkeypatch.setattr(selftest, "CHECKS", checks)
  assert selftest.main() == 1
  first, second, verdict = capsys.readouterr().out.splitlines()
  assert first.startswith("FAILED first: Failure('two and two make five')")
  assert second.startswith("ok     second: four devices")
  assert verdict == "1 of 2 checks failed"


def test_all_checks_passed(monkeypatch, capsys):
  monkeypatch.setattr(selftest, "CHECKS", {"only": lambda: "fine"})
  assert selftest.main() == 0
  assert capsys.readouterr().out.endswith("all checks passed\n")


def test_a_mesh_that_trains_another_network_fails(monkeypatch):
  def update(data, model):
    return [np.ones(3, np.float32) * (1.01 if data == 2 else 1.0)]

  monkeypatch.setattr(selftest, "_update", update)
  with pytest.raises(selftest.Failure, match="differs by"):
    selftest.check_meshes()


def test_a_resumed_run_that_differs_fails(monkeypatch):
  def start(workdir, environment):
    return subprocess.Popen(
      [sys.executable, "-c", "print('step 5/8', flush=True)"],
      stdout=subprocess.PIPE,
      text=True,
    )

  monkeypatch.setattr(selftest, "_start", start)
  monkeypatch.setattr(selftest, "_record", lambda workdir: workdir[-5:])
  with pytest.raises(selftest.Failure, match="differs from an uninterrupted"):
    selftest.check_resume()
  monkeypatch.setattr(selftest, "_record", lambda workdir: "same")
  assert "equal to an uninterrupted run" in selftest.check_resume()
