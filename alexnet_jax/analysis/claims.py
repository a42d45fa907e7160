"""The numbers of the paper and of the authors' own log, from claims.csv.

The log is the one that the authors kept beside their layer files and released
in 2024 with the source (`layer-params-145` and others). It has six digits where
the paper prints three.
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
    unit: "%" (ours is a fraction), "points" (of a difference of errors; ours is
      a difference of fractions) or "".
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


def _read() -> tuple[Claim, ...]:
  """The rows of claims.csv; cells with several entries separate them by " "."""
  found = []
  path = pathlib.Path(__file__).with_name("claims.csv")
  with path.open(newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
      net = None
      if row["configs"]:
        net = Net(
          tuple(row["configs"].split()),
          row["dataset"],
          int(row["views"]),
          tuple(row["minus"].split()),
          int(row["nets"]),
          int(row["pretrained"]),
        )
      fields = {name: row[name] for name in Claim._fields if name != "net"}
      fields["logged"] = tuple(row["logged"].split())
      found.append(Claim(**fields, net=net))
  return tuple(found)


CLAIMS = _read()
# Sizes and hyperparameters have keys "size.*"; all others are results.
ERRORS = tuple(c for c in CLAIMS if not c.key.startswith("size."))
