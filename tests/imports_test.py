"""The rooms of the package and the direction of imports between them."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "alexnet_jax"

# The other rooms that each room may import. `commands` is the top of the
# package: the modules that people run.
ROOMS = {
  "runtime": set(),
  "model": {"runtime"},
  "data": {"runtime"},
  "training": {"runtime", "model", "data"},
  "analysis": {"runtime", "model", "data", "training"},
  "commands": {"runtime", "model", "data", "training", "analysis"},
}

# Folders that use the package; it imports none of them.
ABOVE = {"experiments", "benchmarks", "configs", "docs", "tests"}

MODULES = {
  ".".join(path.relative_to(ROOT).with_suffix("").parts): path
  for path in sorted(PACKAGE.rglob("*.py"))
  if path.name != "__init__.py"
}


def imported_names(path: pathlib.Path) -> set[str]:
  """Full dotted names that a file imports, at any depth of the file."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
      names.add(node.module)
    elif isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
  return names


GRAPH = {
  name: imported_names(path) & set(MODULES) for name, path in MODULES.items()
}


def room(name: str) -> str:
  """The room of a module, by its full dotted name."""
  parts = name.split(".")
  return parts[1] if len(parts) > 2 else "commands"


def reachable(name: str) -> set[str]:
  """Every module that `name` imports, directly or through others."""
  found, frontier = set(), {name}
  while frontier:
    frontier = set().union(*(GRAPH[n] for n in frontier)) - found
    found |= frontier
  return found


def test_the_graph_holds_every_module_and_its_imports():
  assert {room(name) for name in MODULES} == set(ROOMS)
  assert len(MODULES) > 30
  assert "alexnet_jax.runtime.command" in GRAPH["alexnet_jax.main"]
  assert "alexnet_jax.model.network" in reachable("alexnet_jax.main")


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
  allowed = ROOMS[room(name)] | {room(name)}
  wrong = {other for other in GRAPH[name] if room(other) not in allowed}
  assert not wrong


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_itself_through_others(name):
  assert name not in reachable(name)


@pytest.mark.parametrize("name", MODULES)
def test_no_file_exceeds_450_lines(name):
  assert len(MODULES[name].read_text().splitlines()) <= 450


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_tensorflow(name):
  modules = {n.split(".")[0] for n in imported_names(MODULES[name])}
  assert "tensorflow" not in modules


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_what_is_above_the_package(name):
  modules = {n.split(".")[0] for n in imported_names(MODULES[name])}
  assert not modules & ABOVE


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) == "commands"])
def test_the_top_holds_commands_only(name):
  """They end in `command.run`, and import no other command."""
  assert "\n  command.run(main" in MODULES[name].read_text()
  assert not {other for other in GRAPH[name] if room(other) == "commands"}


def test_the_package_has_no_other_folders():
  folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
  assert {folder.relative_to(PACKAGE).as_posix() for folder in folders} == (
    set(ROOMS) - {"commands"}
  )
