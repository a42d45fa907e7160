"""README.md, docs/ and experiments/README.md name only what exists."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {
  str(path.relative_to(ROOT)): path.read_text()
  for path in (
    ROOT / "README.md",
    ROOT / "experiments" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
  )
  if path.name != "extending.md"  # its diffs create what it names
}
FOLDERS = "alexnet_jax|configs|experiments|benchmarks|docs|tests"


def commands(page: str) -> set[tuple[str, tuple[str, ...]]]:
  """The modules of the package that a page runs, with the flags it passes."""
  text = PAGES[page].replace("\\\n", " ")
  return {
    (module, tuple(re.findall(r"--(\w+)", arguments)))
    for module, arguments in re.findall(
      r"python -m (alexnet_jax\.\w+)([^\n`#&|]*)", text
    )
  }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
  folder = (ROOT / page).parent
  targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[page])
  for target in targets:
    assert "://" in target or (folder / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page):
  for path, name in re.findall(
    rf"`((?:{FOLDERS})/[\w./]+\.\w+)(?:::([\w.]+))?`", PAGES[page]
  ):
    assert (ROOT / path).exists(), path
    assert not name or name in definitions(ROOT / path), (path, name)


def definitions(path: pathlib.Path) -> set[str]:
  """The functions and classes of a file, and `Class.method`."""
  names = set()
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      names.add(node.name)
      for child in getattr(node, "body", ()):
        if isinstance(child, ast.FunctionDef):
          names.add(f"{node.name}.{child.name}")
  return names


@pytest.mark.parametrize("page", PAGES)
def test_modules_exist(page):
  names = re.findall(
    r"python -m ((?:alexnet_jax|experiments|benchmarks|docs|tests)[\w.]*)",
    PAGES[page].replace("\n", " "),
  )
  for name in set(names) - {"experiments.NAME"}:
    path = ROOT / name.replace(".", "/")
    assert path.with_suffix(".py").exists() or path.is_dir(), name


@pytest.mark.slow
def test_flags_exist():
  used = {}
  for page in PAGES:
    for module, flags in commands(page):
      used.setdefault(module, set()).update(flags)
  assert {"alexnet_jax.main", "alexnet_jax.prepare"} <= used.keys()
  for module, flags in used.items():
    text = subprocess.run(
      [sys.executable, "-m", module, "--help"],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for flag in flags:
      assert re.search(rf"--(\[no\])?{flag}\b", text), (module, flag)
