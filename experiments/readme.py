"""The text of experiments/README.md, from the committed results.

One row an experiment: question, configurations, command, result, hardware, date
and commit; "not run" where there is no result. `python -m docs.generate` writes
the file, and a test compares the two.
"""

import importlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from experiments import costs
from experiments.common import markdown
from experiments.common.experiment import Experiment

FOLDER = pathlib.Path(__file__).parent
HEAD = """# Experiments

One file for each claim of the paper. `python -m experiments.NAME` trains the
networks that the claim compares and writes `runs.jsonl` (all metrics),
`result.json` and `figure.svg` to `runs/NAME`. The same command continues an
interrupted experiment and repeats nothing that is finished. The docstring of
each file says what is compared and how many networks are trained.

- `--quick` trains for a few steps on embedded images, within a minute on two
  cores, and checks that the experiment works; it measures nothing.
- `--set=KEY=VALUE,...` overrides the configuration of every run.
- `--seeds=N` repeats every run with N seeds.
- `--runs=START,...` carries out only the runs whose names begin with one of
  these.
- `--output=DIR` writes there instead of `runs/NAME`. Experiments that share a
  folder share the runs they have in common; give each its own `--record`.
- `--record=FILE.json` copies the result to FILE.json and its figure to
  FILE.svg.
- `--parallel=N` trains N runs at a time, each in a process on its share of the
  cores; set `mesh.data=1,mesh.model=1` with it.
- `--analyse` trains nothing and writes the result of the runs that are
  finished.
- `--stage=NAME`, where the docstring names stages, makes every run small enough
  for a machine.

Other commands here: `launch` (a sweep of trainings on this machine or a SLURM
cluster), `mesh_sweep` (one training step on many meshes), `start_of_training`
(the first steps of two recipes), `hand_made_features` (SIFT and patches with
support vector machines, on the images of trained runs), `paper_tables` (every
number of the paper beside ours), `record` (the result of one training as JSON).
An experiment of your own: [docs/extending.md](../docs/extending.md).

## On ImageNet, with a GPU

Each stage of the study (below) is one command. It continues where it was
interrupted, runs named `source` are shared through `--output`, and `--analyse`
with the same flags includes whatever is finished:

```sh
python -m alexnet_jax.prepare --raw --source=tars:DIR --data_dir=DATA
python -m experiments.lrn --output=runs/imagenet --record=lrn.json \\
  --set=data_dir=DATA,dataset=imagenet2012_256,network.compute_dtype=bfloat16,mesh.data=1,mesh.model=1
```

Hours are those of an H100 at {rate:,.0f} images/s, the bound by the memory
traffic of the compiled step (batches of 128 in bfloat16). Nobody has run it; a
real GPU takes longer. JPEGs are decoded more slowly than that
([docs/gpu.md](../docs/gpu.md#input-for-a-gpu)), so `--raw` stores their pixels.

{costs}

## Results

`python -m experiments.study` carries out the registered study,
[docs/study.md](../docs/study.md): fifteen of these experiments, two trainings
at a time, resumable.

`python -m docs.generate` writes this table from `results/*.json`. A command
belongs to the commit of its row: `augmentation`, `dropout`, `figure3` and
`figure4` on imagenette224, `plateau` and the older row of `relu_tanh` were
measured with other arms than the experiments have now. All results come from
small datasets; [docs/results.md](../docs/results.md) says what they do not
show. The other measurements in that folder are in [docs/](../docs/).

"""


def all_experiments() -> dict[str, Experiment]:
  """The experiments of this folder, by name."""
  names = [
    path.stem
    for path in sorted(FOLDER.glob("*.py"))
    if "\nEXPERIMENT = " in path.read_text()
  ]
  return {
    name: importlib.import_module(f"experiments.{name}").EXPERIMENT
    for name in names
  }


def results() -> dict[str, dict[str, Any]]:
  """The committed records of experiments, by file name."""
  found = {
    path.name: json.loads(path.read_text())
    for path in sorted((FOLDER / "results").glob("*.json"))
  }
  return {
    file: record for file, record in found.items() if "in_words" in record
  }


def text() -> str:
  """The page."""
  records = results()
  rows = []
  for name, experiment in all_experiments().items():
    mine = {k: r for k, r in records.items() if r.get("experiment") == name}
    for file, record in mine.items():
      # The experiment may ask another question, of other runs, since then.
      configs = _code(record["configs"].values())
      rows.append([record["what"], configs, *_cells(record, file)])
    if not mine:
      configs = _code(run.config for run in experiment.runs)
      command = f"`python -m experiments.{name}`"
      rows.append([experiment.question, configs, command, "not run", *[""] * 3])
  headings = "question|configurations|command|result|hardware|date|commit"
  head = HEAD.format(rate=costs.images_per_second(), costs=costs.table())
  return f"{head}{markdown.table(headings.split('|'), rows)}\n"


def _cells(record: dict[str, Any], file: str) -> list[str]:
  return [
    f"`{record['command']}`",
    f"{record['in_words']} ({_link(file)})",
    record["hardware"],
    record["date"],
    record["commit"][:12],
  ]


def _code(configs: Iterable[str]) -> str:
  """At most three names, or two and the number of the others."""
  configs = sorted(set(configs))
  shown = configs if len(configs) <= 3 else configs[:2]
  others = [f"and {len(configs) - 2} more"] * (len(configs) > 3)
  return ", ".join([*(f"`{name}`" for name in shown), *others])


def _link(file: str) -> str:
  """A link to the record, and one to its figure if there is one."""
  figure = f"results/{pathlib.Path(file).stem}.svg"
  link = f", [figure]({figure})" if (FOLDER / figure).exists() else ""
  return f"[{file}](results/{file}){link}"
