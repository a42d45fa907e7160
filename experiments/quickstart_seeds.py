"""Does the quickstart end well whatever the seed and the mesh are?

  python -m experiments.quickstart_seeds [--quick]

Not the paper's question. Trains configs/quickstart.py as it is, on the meshes
1x1, 1x2 (a tower on each device) and 2x1, with ten seeds each. Meshes differ in
rounding, as processors do. The result has every validation error, and the
seconds of each training with its evaluations.
"""

import statistics
from typing import Any

from experiments.common import frame, markdown
from experiments.common.experiment import Analysis, Experiment, Quick, Run
from experiments.common.outcome import Outcomes, assert_learned, first_losses

CONFIG = "configs/quickstart.py"
MESHES = ((1, 1), (1, 2), (2, 1))  # data, model


def measure(outcomes: Outcomes) -> dict[str, Any]:
  """By mesh and seed: the validation error after each epoch, and seconds."""
  return {
    name: [
      {
        "seed": outcome.seed,
        "top1_errors": [
          line["top1_error"]
          for line in outcome.lines
          if line["split"] == "validation"
        ],
        "seconds": outcome.lines[-1]["seconds"],
      }
      for outcome in repeats
    ]
    for name, repeats in outcomes.items()
  }


def describe(result: dict[str, Any]) -> str:
  """The worst error of each mesh."""
  return "; ".join(
    f"mesh {name}: validation top-1 error at most"
    f" {max(run['top1_errors'][-1] for run in runs):.1%} with {len(runs)} seeds"
    for name, runs in result.items()
  )


def table(result: dict[str, Any]) -> str:
  """The validation errors after each epoch, by mesh, as Markdown."""
  rows = []
  for mesh, runs in result.items():
    epochs = zip(*(run["top1_errors"] for run in runs), strict=True)
    cells = [
      f"{statistics.fmean(errors):.1%}, at most {max(errors):.1%}"
      for errors in epochs
    ]
    seeds = [run["seed"] for run in runs]
    rows.append([mesh, ", ".join(map(str, seeds)), *cells])
  epochs = range(1, len(rows[0]) - 1)
  headings = ["mesh", "seeds", *(f"error after epoch {n}" for n in epochs)]
  return markdown.table(headings, rows)


def check(outcomes: Outcomes, result: dict[str, Any]) -> None:
  """Every mesh starts with the same loss, to rounding, and learns."""
  assert_learned(outcomes)
  first = first_losses(outcomes)
  assert len(first) == len(outcomes)
  assert max(first.values()) - min(first.values()) < 1e-3, first
  assert all(runs[0]["top1_errors"] for runs in result.values())


EXPERIMENT = Experiment(
  name="quickstart_seeds",
  question="Does the quickstart end well with every seed on every mesh?",
  runs=[
    Run(
      f"{data}x{model}",
      CONFIG,
      {"mesh.data": data, "mesh.model": model},
      scale_weights=False,
    )
    for data, model in MESHES
  ],
  quick=Quick(check),
  analysis=Analysis(measure, describe),
  seeds=10,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
