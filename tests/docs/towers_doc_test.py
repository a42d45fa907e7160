"""docs/towers.md: its code runs from top to bottom, its sizes are right."""

import pathlib
import re

import pytest

DOC = pathlib.Path(__file__).resolve().parents[2] / "docs" / "towers.md"


@pytest.mark.slow  # compiles and audits two programs
def test_the_code_of_the_page_runs():
  blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
  assert len(blocks) >= 6
  names = {}
  for block in blocks:
    exec(compile(block, str(DOC), "exec"), names)


def test_the_table_is_the_networks(capsys):
  """Each row's sizes, against the network's own."""
  from alexnet_jax.model.network import Network
  from alexnet_jax.model.shapes import shapes

  rows = re.findall(
    r"^\| \**(\w+)\** \| ([\dx ]+) \|", DOC.read_text(), re.MULTILINE
  )
  sizes = {
    shape.name: " x ".join(map(str, shape.convolved))
    for shape in shapes(Network())
  }
  assert {name: size.strip() for name, size in rows} == sizes
