"""README.md, docs/ and experiments/README.md say what the results say."""

import json

import pytest

from docs import generate, rooms
from tests.imports_test import MODULES, ROOMS, room


def test_every_generated_file_is_up_to_date():
  stale = [
    str(path)
    for path, text in generate.generated().items()
    if path.read_text() != text
  ]
  assert not stale, "run `python -m docs.generate`"


def test_every_table_is_on_a_page():
  pages = "".join(page.read_text() for page in generate.PAGES)
  for name in (*generate.FROM_RESULTS, *generate.FROM_SOURCE):
    assert f"<!-- table: {name} -->" in pages


@pytest.mark.parametrize("name", [*generate.FROM_RESULTS, "input"])
def test_a_record_has_its_origin(name):
  record = json.loads((generate.RESULTS / f"{name}.json").read_text())
  for key in ("what", "hardware", "versions", "seed", "command", "commit"):
    assert key in record
  assert record["result"]


def test_an_unknown_table_is_an_error():
  with pytest.raises(FileNotFoundError):
    generate.fill("<!-- table: unknown -->\n<!-- end -->")


def test_the_picture_has_every_room_and_every_module():
  assert {name for row in rooms.ROWS for name in row} == set(ROOMS)
  picture = rooms.picture()
  for module in MODULES:
    assert module.rsplit(".", 1)[-1] in picture
  for importer, imported in rooms.imports():
    assert importer != imported
  assert rooms.imports()["training", "model"] > 3


def test_a_row_of_the_picture_imports_only_rows_below():
  """ROWS is drawn by hand; the rooms' own table has to agree with it."""
  height = {
    name: number for number, row in enumerate(rooms.ROWS) for name in row
  }
  for name, allowed in ROOMS.items():
    assert all(height[other] > height[name] for other in allowed)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module):
  line = rooms._first_line(MODULES[module])
  assert line.endswith((".", "?")), f"{module}: {line!r}"
  assert room(module) in ROOMS


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_is_for(name):
  assert rooms.purpose(name).endswith(".")
