"""Environment variables that commands ignore, follow or refuse."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from alexnet_jax.runtime import environment

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_flags_of_xla(monkeypatch):
  monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_ignored_variables_are_removed_and_named(monkeypatch, capsys):
  for name in environment.IGNORED:
    monkeypatch.setenv(name, "banana")
  environment.prepare()
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == len(environment.IGNORED)
  for name, line in zip(environment.IGNORED, lines, strict=True):
    assert name not in os.environ
    assert line.startswith(f"note: {name}=banana is ignored: ")


def test_nothing_is_printed_of_other_variables(monkeypatch, capsys):
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  environment.prepare()
  assert capsys.readouterr() == ("", "")


def test_no_option_of_jax_that_decides_types_or_draws_is_forgotten():
  """Options that a new version of JAX brings are found here."""
  names = {f"{name}".upper() for name in jax.config.values}
  decides = re.compile("X64|DTYPE|PROMOTION|PRNG|THREEFRY|RANDOM|SEED|GUMBEL")
  # The GPU's kernel of threefry draws the same numbers.
  same = {"JAX_THREEFRY_GPU_KERNEL_LOWERING"}
  found = {name for name in names if decides.search(name)} - same
  assert found <= set(environment.IGNORED)
  assert len(found) >= 8
  assert len(names & set(environment.IGNORED)) >= 15  # correctly spelt


@pytest.mark.parametrize(
  ("value", "reason"),
  [
    ("--xla_banana=1", "Unknown flag in XLA_FLAGS: --xla_banana=1"),
    pytest.param(
      "banana", 'Could not open file "banana"', marks=pytest.mark.slow
    ),
  ],
)
def test_flags_that_abort_xla_are_refused(monkeypatch, capsys, value, reason):
  monkeypatch.setenv("XLA_FLAGS", value)
  with pytest.raises(SystemExit) as stopped:
    environment.prepare()
  assert stopped.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith(f"error: XLA_FLAGS={value}: {reason}")
  assert error.count("\n") == 1


@pytest.mark.slow
def test_valid_flags_of_xla_pass(monkeypatch, capsys):
  flags = "--xla_force_host_platform_device_count=4"
  monkeypatch.setenv("XLA_FLAGS", flags)
  environment.prepare()
  assert capsys.readouterr().err == ""


def raised(kind, text, file):
  """An error that was raised in `file`."""
  try:
    exec(compile(f"raise {kind.__name__}({text!r})", file, "exec"))
  except kind as error:
    return error


def test_a_platform_without_devices_is_explained(monkeypatch):
  file = "site-packages/jax/_src/xla_bridge.py"
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  for kind, text in (
    (AssertionError, ""),  # JAX 0.10 without the plugin
    (RuntimeError, "Unable to initialize backend 'cuda'"),
  ):
    reason = environment.reason_of(raised(kind, text, file))
    assert reason.startswith("JAX finds no device for JAX_PLATFORMS=cuda")
    assert text in reason
    # Errors of other places, and those that no variable explains, stay errors.
    assert environment.reason_of(raised(kind, text, "ours.py")) == ""
  for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "CUDA_VISIBLE_DEVICES"):
    monkeypatch.delenv(name, raising=False)
  assert environment.reason_of(raised(RuntimeError, "text", file)) == ""


def test_numbers_that_are_not_finite_are_explained(monkeypatch):
  error = raised(FloatingPointError, "invalid value (nan)", "jax.py")
  monkeypatch.delenv("JAX_DEBUG_NANS", raising=False)
  assert environment.reason_of(error) == ""
  monkeypatch.setenv("JAX_DEBUG_NANS", "1")
  reason = environment.reason_of(error)
  assert re.match(r"invalid value \(nan\)\. With JAX_DEBUG_NANS", reason)


@pytest.mark.slow
@pytest.mark.parametrize(
  "command",
  [
    ["alexnet_jax.audit", "--config=quickstart"],
    ["experiments.lrn"],
    ["benchmarks.gpu"],
  ],
)
def test_a_command_with_values_that_jax_rejects(command):
  """Ignored ones do not matter; the other one is a sentence, and status 2."""
  run = subprocess.run(
    [sys.executable, "-m", *command],
    cwd=ROOT,
    env=os.environ
    | dict.fromkeys([*environment.IGNORED, "JAX_DEBUG_NANS"], "banana"),
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert run.returncode == 2
  *notes, error = run.stderr.splitlines()
  assert len(notes) == len(environment.IGNORED)
  assert error.startswith("error: JAX rejects the environment: ")
  assert "JAX_DEBUG_NANS=banana" in error
  assert run.stdout == ""


@pytest.mark.parametrize(
  "module", ["alexnet_jax.predict", "experiments.lrn", "benchmarks.gpu"]
)
def test_a_python_without_the_libraries_is_refused_with_a_sentence(module):
  ended = subprocess.run(
    # Without site-packages: as a Python whose environment is not activated.
    [sys.executable, "-S", "-m", module, "--help"],
    capture_output=True, text=True, cwd=ROOT,
  )  # fmt: skip
  assert ended.returncode == 2 and ended.stdout == ""
  assert ended.stderr.startswith("error: PIL, absl, array_record and others ")
  assert ended.stderr.count("\n") == 1 and sys.executable in ended.stderr


def test_the_required_libraries_are_those_of_requirements_txt():
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  required = {re.split(r"[^\w-]", line)[0] for line in lines} - {""}
  packages = importlib.metadata.packages_distributions()
  names = {
    imported: {name.replace("-", "_").lower() for name in found}
    for imported, found in packages.items()
  }
  needed = {name.replace("-", "_").lower() for name in required}
  assert len(environment.LIBRARIES) == len(needed)
  for library in environment.LIBRARIES:
    assert names[library] & needed, library


def test_make_refuses_an_old_python(tmp_path):
  old = tmp_path / "python"
  old.write_text(
    f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 10, 1)\n"
    "sys.version = '3.10.1 (main)'\nexec(sys.argv[2])\n"
  )
  old.chmod(0o755)
  folder = tmp_path / "environment"
  ended = subprocess.run(
    ["make", "quickstart", f"PYTHON={old}", f"VENV={folder}"],
    capture_output=True, text=True, cwd=ROOT,
  )  # fmt: skip
  assert "Python 3.11 or newer is needed (this is 3.10.1)" in ended.stderr
  assert ended.returncode and not folder.exists()
