"""The numbers of the paper and of the authors' own log, from claims.csv.

The authors kept the log beside their layer files; it is public since 2025 with
the source (`layer-params-145` and others). It has six digits where the paper
prints three.
"""

import csv
import pathlib
from typing import NamedTuple


class Net(NamedTuple):
  """What has to be trained and evaluated for our number of a claim."""

  configs: tuple[str, ...]  # names in configs/, any of which will do
  dataset: str  # tfds name, without the "_256" of a prepared dataset
  views: int = 10  # or 1
  # Of a difference: whose error is subtracted, in the order of `configs`, each
  # with the same recipe.
  minus: tuple[str, ...] = ()
  nets: int = 1  # number of networks that are averaged
  pretrained: int = 0  # how many of them have the sixth convolutional layer


class Claim(NamedTuple):
  """One number of the paper."""

  key: str  # its name; results refer to it
  where: str  # table or section
  what: str  # the method and the dataset
  measure: str  # "top-1 error", "parameters", ...
  paper: str  # the number as printed
  unit: str = ""  # "%" or, of a difference, "points": ours are then fractions
  logged: tuple[str, ...] = ()  # six digits; of two, the first minus the second
  run: str = ""  # the entries of the authors' log
  note: str = ""  # what limits the comparison
  net: Net | None = None  # how trained networks give our number, if they do


def _claim(row: dict[str, str]) -> Claim:
  """A row of claims.csv; " " separates several entries of a cell."""
  net = None
  if row["configs"]:
    configs, minus = (tuple(row[key].split()) for key in ("configs", "minus"))
    counts = (int(row[key]) for key in ("views", "nets", "pretrained"))
    views, nets, pretrained = counts
    net = Net(configs, row["dataset"], views, minus, nets, pretrained)
  texts = {key: row[key] for key in Claim._fields if key != "net"}
  return Claim(**texts | {"logged": tuple(row["logged"].split())}, net=net)


_TEXT = pathlib.Path(__file__).with_name("claims.csv").read_text("utf-8")
CLAIMS = tuple(map(_claim, csv.DictReader(_TEXT.splitlines())))
# Sizes and hyperparameters have keys "size.*"; all others are results.
ERRORS = tuple(c for c in CLAIMS if not c.key.startswith("size."))
