"""Prints the most probable classes of pictures.

  python -m alexnet_jax.predict --workdir=DIR | --weights=FILE [--config=FILE]
      [--checkpoint=newest|best|STEP] [--top=5] [--views=1|10] [--json=FILE]
      [--exif_orientation=auto|apply|ignore]
      [--features=LAYER --output=FILE.npz] PICTURE|FOLDER...

The file of weights is one that `weights export` wrote, or published weights of
AlexNet, which need the --config of their network (docs/weights.md).

Folders are searched with all folders in them. A picture that cannot be read is
named, the others are done, and the exit status is 1.

`--features` writes the activations of a layer, such as fc7, for the centre crop
of every picture to an NPZ file with `names` and `activations`; the classes are
then not printed, and are in the file of `--json`.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alexnet_jax.data import images, picture_files
from alexnet_jax.data.augment import VIEWS
from alexnet_jax.runtime import command, output, paths, processes
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.paths import printable
from alexnet_jax.runtime.progress import Progress, waiting
from alexnet_jax.training import classifier, prediction


def main(*places: str) -> int:
  flag = flags.FLAGS
  _check_flags(flag, places)
  places = [paths.local_path(place, "PICTURE") for place in places]
  pictures, left_out = picture_files.find(places)
  if left_out:
    _warn(f"left out, not pictures: {_some(left_out)}")
  if not pictures:
    raise UserError(
      f"there are no pictures in {', '.join(places)}: looked for"
      f" {' '.join(images.suffixes())} in all folders."
    )
  processes.configure()
  source = flag.workdir or flag.weights
  if sys.stderr.isatty():
    _warn(f"Loading {source}")
  with waiting("loading the network"):
    net = classifier.load(source, flag.checkpoint, flag.config)
  if flag.exif_orientation != "auto":
    net.upright = flag.exif_orientation == "apply"
  if flag.features:
    net.check_layer(flag.features)
  print(f"{net.source}; views: {flag.views}")
  num_errors = _predict(net, pictures)
  if flag.features:
    count = len(pictures) - num_errors
    print(f"wrote {flag.output}: {flag.features} of {count:,} pictures")
  if num_errors:
    _warn(f"{num_errors:,} of {len(pictures):,} pictures cannot be read")
  return 1 if num_errors else 0


def _predict(net: classifier.Classifier, pictures: Sequence[str]) -> int:
  """Prints and writes what the flags ask for; returns the number of errors."""
  flag = flags.FLAGS
  num_errors = 0
  with contextlib.ExitStack() as opened:
    write_json = write_activations = _nothing
    if flag.json:
      write_json = opened.enter_context(prediction.write_json_list(flag.json))
    if flag.features:
      writer = prediction.write_activations(flag.output)
      write_activations = opened.enter_context(writer)
    printing = not flag.features
    # What is printed for each picture shows the progress well enough.
    title = "" if printing else f"computing {flag.features}"
    progress = opened.enter_context(
      Progress(title, len(pictures), unit="pictures")
    )
    views = flag.views if printing or flag.json else 0
    for found in prediction.predict_files(
      net, pictures, views=views, layer=flag.features
    ):
      progress.advance()
      if found.error:
        num_errors += 1
        _warn(f"{printable(found.path)} cannot be read: {found.error}")
        write_json({"image": found.path, "error": found.error})
        continue
      if flag.features:
        write_activations(found.path, found.activations)
      if views:
        classes = prediction.most_probable(net, found, flag.top)
        write_json({"image": found.path, "classes": classes})
      if printing:
        _print_classes(found.path, classes)
        # Nobody reads the rest if the pipe is closed, as by `| head`.
        if not flag.json and output.lost():
          break
  return num_errors


def _nothing(value: Any) -> None:
  """Stands for a file that is not asked for."""


def _print_classes(path: str, classes: Sequence[dict[str, Any]]) -> None:
  """Prints the probabilities of one picture as bars."""
  console = Console()
  table = Table.grid(padding=(0, 1))
  table.add_column(justify="right")
  table.add_column(width=20)
  table.add_column()
  for found in classes:
    name = printable(found["name"])
    if "words" in found:
      name = f"{found['words']} ({name})"
    bar = ProgressBar(
      1.0, found["probability"], width=20, complete_style="blue"
    )
    table.add_row(f"{found['probability']:7.2%}", bar, Text(name))
  with console.capture() as captured:
    console.print(Text(printable(path), style="bold"), soft_wrap=True)
    console.print(table)
  # Not by the console: standard output is written above the bar of progress.
  sys.stdout.write(captured.get())


def _some(names: Sequence[str], count: int = 5) -> str:
  shown = ", ".join(map(printable, names[:count]))
  rest = len(names) - count
  return f"{shown} and {rest:,} more" if rest > 0 else shown


def _warn(message: str) -> None:
  print(message, file=sys.stderr)


def _check_flags(flag: flags.FlagValues, places: Sequence[str]) -> None:
  if bool(flag.workdir) == bool(flag.weights):
    raise UserError(
      "give either --workdir=DIR, the directory of a run, or --weights=FILE,"
      " exported weights."
    )
  if flag.weights and not os.path.isfile(flag.weights):
    raise UserError(f"--weights={flag.weights}: no such file.")
  if flag.weights and flag.checkpoint != "newest":
    raise UserError("--checkpoint needs --workdir: a file has no checkpoints.")
  if flag.workdir and flag.config:
    raise UserError("--config is for --weights: a run has its configuration.")
  if not places:
    raise UserError("give the pictures, or folders of them, after the flags.")
  if flag.views not in VIEWS:
    raise UserError(f"--views must be 1 (centre) or 10 (got {flag.views}).")
  if flag.top < 1:
    raise UserError(f"--top must be at least 1 (got {flag.top}).")
  if bool(flag.features) != bool(flag.output):
    raise UserError(
      "--features=LAYER needs --output=FILE.npz, and --output needs --features:"
      " set both or neither."
    )
  if flag.features and flag.output == flag.json:
    raise UserError(f"--output and --json are the same file, {flag.json}.")


if __name__ == "__main__":
  paths.DEFINE_path("workdir", "", "directory of the run")
  paths.DEFINE_path("weights", "", "file of weights, instead of a run")
  configs.DEFINE_config(required=False)
  command.DEFINE_checkpoint()
  flags.DEFINE_enum(
    "exif_orientation",
    "auto",
    ["auto", "apply", "ignore"],
    "turn pictures as their EXIF orientation says; auto: as `prepare`, unless"
    " the classes are ImageNet's",
  )
  flags.DEFINE_integer("top", 5, "number of classes shown for each picture")
  flags.DEFINE_integer(
    "views", 1, "views per picture: 1 (centre) or 10 (section 4.1)"
  )
  flags.DEFINE_string(
    "features", "", "layer whose activations are written, such as fc7"
  )
  paths.DEFINE_output("output", "", "NPZ file for the activations")
  paths.DEFINE_output("json", "", "also write the classes to this JSON file")
  command.run(main, operands=True)
