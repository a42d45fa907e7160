"""Configuration files: the shipped ones, and the user's own in any folder.

`from configs import paper` works in every configuration file, whichever folder
the program runs in: `configs` then holds the files of the folder's own
`configs/`, and those that are shipped with the program. Nothing of that name is
installed.
"""

import contextlib
import os
import pathlib
import runpy
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# In an installed package inside of it; in a checkout beside it.
SHIPPED = _PACKAGE / "configs"
if not SHIPPED.is_dir():
  SHIPPED = _PACKAGE.parent / "configs"


def find(name: str) -> pathlib.Path | None:
  """The file that `--config` names; None if there is none.

  Args:
    name: a path, which may begin with `~`; or the name of a shipped
      configuration, as `paper` or `configs/paper.py`. A file at that path comes
      first.
  """
  file = pathlib.Path(os.path.expanduser(name))
  if file.is_file():
    return file
  if (str(file.parent), file.suffix) in ((".", ""), ("configs", ".py")):
    shipped = SHIPPED / f"{file.stem}.py"
    if file.stem in names() and shipped.is_file():
      return shipped
  return None


def names() -> list[str]:
  """The names of the shipped configurations."""
  return sorted(path.stem for path in SHIPPED.glob("[a-z]*.py"))


def run(file: pathlib.Path, *argument: str) -> Any:
  """What `get_config(*argument)` of a file returns; raises what it raises."""
  with _importable_configs():
    get_config: Callable[..., Any] = runpy.run_path(str(file))["get_config"]
    return get_config(*argument)


@contextlib.contextmanager
def _importable_configs() -> Iterator[None]:
  """Makes the package `configs` for as long as a file is executed."""
  before = _remove_configs()
  package = types.ModuleType("configs")
  own = pathlib.Path("configs").resolve()
  package.__path__ = [str(folder) for folder in (own, SHIPPED)]
  sys.modules["configs"] = package
  try:
    yield
  finally:
    _remove_configs()
    sys.modules.update(before)


def _remove_configs() -> dict[str, types.ModuleType]:
  """Forgets `configs` and its modules; returns them."""
  found = [name for name in sys.modules if name.split(".")[0] == "configs"]
  return {name: sys.modules.pop(name) for name in found}
