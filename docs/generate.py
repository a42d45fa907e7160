"""Writes the generated tables and figures of README.md, docs/ and experiments/.

  python -m docs.generate

Everything comes from experiments/results and from the source: the tables
between `<!-- table: NAME -->` and `<!-- end -->`, experiments/README.md, the
pictures of the rooms and of the towers, the figure of the comparison with
PyTorch. A test compares the files with what this writes.
"""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from jax.sharding import AbstractMesh

from alexnet_jax.analysis import collectives, tower_diagram
from alexnet_jax.model.network import Network
from alexnet_jax.model.sharding import DATA, MODEL
from alexnet_jax.runtime.files import write_atomic
from benchmarks import compare, study_tables, tables
from docs import rooms
from experiments import quickstart_seeds, readme, verdicts
from tests.faults import __main__ as faults

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "experiments" / "results"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))

BATCH_SIZE = 128  # the paper's, section 5
FLOAT32 = 4  # bytes

# By the name of the file in RESULTS: from its `result` to Markdown.
FROM_RESULTS: dict[str, Callable[[Any], str]] = {
  **tables.TABLES,
  "faults": lambda result: faults.table(result["faults"]),
  "faults_environment": lambda result: faults.table(result["faults"]),
  "faults_processes": lambda result: faults.table(result["faults"]),
  "faults_command_lines": lambda result: faults.table(result["faults"]),
  "quickstart_seeds": quickstart_seeds.table,
}
FROM_SOURCE: dict[str, Callable[[], str]] = {
  "rooms": rooms.tables,
  "claims": verdicts.table,
  "telling_claims": verdicts.telling,
}
# What a reader needs to know about a table beside where it was measured.
NOTES = {
  "quickstart_seeds": " Mean error, and that of the worst seed; chance is 90%.",
  "prepare": " All of ILSVRC-2012 is calculated from this sample.",
  "readers": " Four processes share two cores.",
  "listing": " Other programs used both cores at the same time; the CPU seconds"
  " are near the seconds of an idle machine.",
}


def table(name: str) -> str:
  """The content of a table; one of results says where it was measured.

  Raises:
    KeyError: nothing makes a table of this name, and it has no contrasts.
  """
  if name in FROM_SOURCE:
    return FROM_SOURCE[name]() + "\n"
  record = json.loads((RESULTS / f"{name}.json").read_text())
  source = (
    f"(`{record['command']}` on {record['hardware']}."
    f" `experiments/results/{name}.json`.){NOTES.get(name, '')}"
  )
  result = record["result"]
  has_contrasts = isinstance(result, dict) and "contrasts" in result
  contrasts = {name: study_tables.contrasts} if has_contrasts else {}
  make = (contrasts | FROM_RESULTS)[name]
  return f"{make(result)}\n\n{source}\n"


def fill(page: str) -> str:
  """The text of a page with the content of every table replaced."""
  return re.sub(
    r"<!-- table: ([\w.]+) -->\n.*?<!-- end -->",
    lambda found: f"<!-- table: {found[1]} -->\n{table(found[1])}<!-- end -->",
    page,
    flags=re.DOTALL,
  )


def towers() -> str:
  """The paper's two towers with the exchanges that its network declares."""
  network = Network()
  mesh = AbstractMesh((1, network.towers), (DATA, MODEL))
  drawing = tower_diagram.draw(
    network,
    (
      tower_diagram.Exchange(item.layer, item.phase, FLOAT32 * item.numbers)
      for item in collectives.declared_exchanges(
        network, mesh, BATCH_SIZE, "train"
      )
    ),
  )
  return drawing.replace("><", ">\n<") + "\n"


def generated() -> dict[pathlib.Path, str]:
  """Every generated text file, with what it should contain."""
  return {
    **{page: fill(page.read_text()) for page in PAGES},
    ROOT / "experiments" / "README.md": readme.text(),
    DOCS / "rooms.svg": rooms.picture(),
    DOCS / "towers.svg": towers(),
  }


def main() -> None:
  for path, text in generated().items():
    if not path.exists() or path.read_text() != text:
      write_atomic(path, text)
      print(f"wrote {path.relative_to(ROOT)}")
  rows = json.loads((RESULTS / "compare.json").read_text())["result"]["rows"]
  compare.plot(rows, RESULTS / "compare.png")


if __name__ == "__main__":
  main()
