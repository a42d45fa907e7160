"""Imports point one way: nobody knows those above him."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "alexnet_jax"


def _imports(path):
  """Names of the package's modules that a file imports, at any depth."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      if node.module == "alexnet_jax":
        names |= {alias.name for alias in node.names}
      elif (node.module or "").startswith("alexnet_jax."):
        names.add(node.module.split(".")[1])
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith("alexnet_jax."):
          names.add(alias.name.split(".")[1])
  return names


GRAPH = {path.stem: _imports(path) for path in PACKAGE.glob("*.py")}


def _reaches(name):
  """Everything that `name` imports, and that imports, and so on."""
  found, frontier = set(), {name}
  while frontier:
    frontier = set().union(*(GRAPH.get(n, set()) for n in frontier)) - found
    found |= frontier
  return found


def test_the_graph_is_read():
  assert {"step", "checkpoint", "job"} <= GRAPH["train"]
  assert "network" in _reaches("main")


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_no_module_reaches_itself(name):
  assert name not in _reaches(name)


@pytest.mark.parametrize(
  "name",
  [
    "layers",
    "sharding",
    "optimizer",
    "augment",
    "datasets",
    "checkpoint",
    "metrics",
  ],
)
def test_the_lowest_modules_know_nobody_above(name):
  above = {"model", "input_pipeline", "prepare", "step", "evaluate", "train"}
  assert not _reaches(name) & above


def test_nobody_knows_train_but_those_on_top():
  knowing = {name for name in GRAPH if "train" in GRAPH[name]}
  assert knowing <= {"main", "report", "selftest"}


def test_nobody_imports_tensorflow():
  for path in PACKAGE.glob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
      else:
        continue
      assert not any(m.split(".")[0] == "tensorflow" for m in modules), path
