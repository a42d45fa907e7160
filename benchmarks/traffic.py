"""Compares the memory traffic of two compiled training steps by layer.

  python -m alexnet_jax.audit --config=configs/paper.py --topology=h100:1 \
    --config.network.compute_dtype=bfloat16 --config.batch_size=1024 \
    --json=after.json
  python -m benchmarks.traffic --before=before.json --after=after.json

Both files are what the audit writes for a GPU, of two versions of this project.
"""

import json
import pathlib
import sys

from absl import flags

from alexnet_jax.runtime import command, files, paths, provenance
from alexnet_jax.runtime.command import UserError
from experiments.common import markdown

PARTS = ("before", "after")


def read(path: str) -> dict:
  """The `traffic` of a file of the audit.

  Raises:
    UserError: the file has none.
  """
  try:
    found = json.loads(pathlib.Path(path).read_text()).get("traffic")
  except (OSError, ValueError, AttributeError) as error:
    raise UserError(
      f"{path} is not a JSON file of the audit: {error}"
    ) from None
  if not found:
    raise UserError(
      f"{path} has no traffic. The audit counts it for GPUs only: use"
      " --topology=h100:1."
    )
  return found


def table(result: dict) -> str:
  """Traffic in GB and kernels by pass and layer, before and after."""
  by_place = {
    part: {(row["pass"], row["layer"]): row for row in result[part]["layers"]}
    for part in PARTS
  }
  none = {"bytes": 0, "kernels": 0}
  places = dict.fromkeys(place for part in PARTS for place in by_place[part])
  rows = [
    (*place, *_cells([by_place[part].get(place, none) for part in PARTS]))
    for place in places
  ]
  rows.append(("all", "", *_cells([result[part] for part in PARTS])))
  headings = ("pass", "layer", "GB before", "after", "kernels before", "after")
  return markdown.table(headings, rows, "llrrrr")


def _cells(pair) -> list[str]:
  return [
    *(f"{part['bytes'] / 1e9:.2f}" for part in pair),
    *(f"{part['kernels']}" for part in pair),
  ]


def main() -> None:
  result = {"before": read(_BEFORE.value), "after": read(_AFTER.value)}
  print(table(result))
  if _OUTPUT.value:
    record = provenance.record(
      "traffic and kernels of a compiled training step, by pass and layer",
      " ".join(["python -m benchmarks.traffic", *sys.argv[1:]]),
      result,
    )
    files.write_atomic(_OUTPUT.value, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
  _BEFORE = flags.DEFINE_string(
    "before", None, "the audit's JSON", required=True
  )
  _AFTER = flags.DEFINE_string("after", None, "the audit's JSON", required=True)
  _OUTPUT = paths.DEFINE_output("output", "", "JSON file for the results")
  command.run(main)
