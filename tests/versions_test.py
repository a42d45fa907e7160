"""The two tested sets of versions: their files say the same."""

import pathlib
import tomllib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = {"3.11": "constraints.txt", "3.13": "constraints-newest.txt"}


def read(file: str) -> list[Requirement]:
  lines = (ROOT / file).read_text().splitlines()
  lines = [line.partition("#")[0].strip() for line in lines]
  return [Requirement(line) for line in lines if line and line[0] != "-"]


def versions(python: str) -> dict[str, str]:
  """Versions by library in the file for one Python."""
  return {
    requirement.name: next(iter(requirement.specifier)).version
    for requirement in read(FILES[python])
  }


@pytest.mark.parametrize("python", FILES)
def test_each_requirement_admits_the_tested_version(python):
  tested = versions(python)
  for path in ROOT.glob("requirements*.txt"):
    for requirement in read(path.name):
      if requirement.name == "setuptools":  # comes with Python's venv or pip's
        continue
      assert requirement.specifier.contains(tested[requirement.name])


@pytest.mark.parametrize("python", FILES)
def test_uv_takes_the_tested_versions(python):
  settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
  tested = versions(python)
  found = {}
  for line in settings["tool"]["uv"]["constraint-dependencies"]:
    requirement = Requirement(line)
    marker = requirement.marker
    if marker is None or marker.evaluate({"python_version": python}):
      assert str(requirement.specifier) == f"=={tested[requirement.name]}"
      found[requirement.name] = requirement
  assert {"jax", "jaxlib", "flax", "grain", "orbax-checkpoint"} <= set(found)
