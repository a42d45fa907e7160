"""The numbers of the paper and of the authors' own log, from claims.csv.

The authors kept the log beside their layer files and released it in 2024 with
the source (`layer-params-145` and others). It has six digits where the paper
prints three.
"""

import csv
import pathlib
from typing import NamedTuple


class Net(NamedTuple):
  """What has to be trained and evaluated for our number of a claim.

  Attributes:
    configs: names in configs/, any of which will do.
    dataset: tfds name, without the "_256" of a prepared dataset.
    views: 1 or 10.
    minus: configurations whose error is subtracted, for a difference.
    nets: number of networks that are averaged.
    pretrained: how many of them have the sixth convolutional layer.
  """

  configs: tuple[str, ...]
  dataset: str
  views: int = 10
  minus: tuple[str, ...] = ()
  nets: int = 1
  pretrained: int = 0


class Claim(NamedTuple):
  """One number of the paper.

  Attributes:
    key: its name; results refer to it.
    where: table or section.
    what: the method and the dataset.
    measure: "top-1 error", "parameters", ...
    paper: the number as printed.
    unit: "%" (ours is a fraction), "points" (ours is a difference of fractions)
      or "".
    logged: the authors' six digits; of two, the first minus the second.
    run: the entries of their log.
    note: what limits the comparison.
    net: how our number comes from trained networks; None if it does not.
  """

  key: str
  where: str
  what: str
  measure: str
  paper: str
  unit: str = ""
  logged: tuple[str, ...] = ()
  run: str = ""
  note: str = ""
  net: Net | None = None


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
