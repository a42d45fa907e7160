"""Next steps after a training: its report, pictures to try, three commands."""

import collections
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from alexnet_jax.analysis import sections
from alexnet_jax.data.class_words import in_words
from alexnet_jax.data.sources import Source
from alexnet_jax.runtime.files import write_atomic
from alexnet_jax.training import runs

REPORT, PICTURES = "report.html", "pictures"
# Not the folders that README's commands use, so that these follow without harm.
EXAMPLE_DATA, EXAMPLE_RUN = "data/example", "runs/finetune_example"
MAX_CLASSES = 10
PER_CLASS = 10  # pictures of each class, so that prepare can hold out a tenth


def write(workdir: str, config: Mapping[str, Any], name: str) -> str:
  """Writes `report.html` and `pictures/` into a run that has finished.

  The pictures are validation images, in one folder for each class. Files that
  exist are not written again.

  Args:
    workdir: directory of the run.
    config: of the run.
    name: of its configuration, as `configs/finetune.py` takes it.

  Returns:
    What to do next: three tasks, with commands of one line each.

  Raises:
    UserError: the dataset is missing.
    OSError: a file cannot be written.
  """
  report = pathlib.Path(workdir, REPORT)
  if not report.exists():
    write_atomic(report, sections.report([workdir]))
  pictures = pathlib.Path(workdir, PICTURES)
  source = runs.open_split(dict(config), "validation")
  files = _write_pictures(source, config["dataset"], pictures)

  python = f"{shlex.quote(sys.orig_argv[0])} -m alexnet_jax"
  run, folder, file = map(shlex.quote, map(str, (workdir, pictures, files[0])))
  num_classes = len({file.parent for file in files})
  return f"""Next:
1. Open the report in a browser: {report}
2. Classify a picture:
   {python}.predict --workdir={run} {file}
3. Train on pictures of your own, in one folder for each class. {folder} is an
   example; for yours, change it, both folders and the number of classes:
   {python}.prepare --source=folder:{folder} --holdout=0.1 \
--data_dir={EXAMPLE_DATA}
   {python}.main --config=configs/finetune.py:{name} --config.start_from={run} \
--config.data_dir={EXAMPLE_DATA} --config.num_classes={num_classes} \
--workdir={EXAMPLE_RUN}"""


def _write_pictures(
  source: Source, dataset: str, folder: pathlib.Path
) -> list[pathlib.Path]:
  """Writes PER_CLASS images of each of the first classes; returns the files."""
  words = in_words(source.class_names, dataset)[:MAX_CLASSES]
  wanted, files = len(words) * PER_CLASS, []
  counts = collections.Counter[int]()
  for index in range(len(source)):
    image, label = source[index]
    if label >= len(words) or counts[label] == PER_CLASS:
      continue
    counts[label] += 1
    suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
    name = re.sub(r"\W+", "_", words[label])
    files.append(folder / name / f"{counts[label]}.{suffix}")
    if not files[-1].exists():
      write_atomic(files[-1], image)
    if len(files) == wanted:
      break
  return files
