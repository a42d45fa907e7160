"""The paper's numbers, the authors' logged ones, and ours, side by side."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from alexnet_jax.analysis import claims
from alexnet_jax.analysis.claims import Claim
from alexnet_jax.model import network as networks
from alexnet_jax.runtime import config as configs

NOT_RUN = "not run"


def sizes(config: Any) -> dict[str, float]:
  """The numbers of the claims `size.*` as a configuration has them."""
  net = networks.from_dict(config.network.to_dict(), config.num_classes)
  layers = networks.counts(net)
  neurons = {"input": net.crop_size**2 * net.channels}
  kernels = {}
  for layer in layers["layers"]:
    name, shape = layer["name"], layer["output_shape"]
    neurons[name] = (1 if name == "fc8" else net.towers) * math.prod(shape)
    kernels[name] = net.towers * shape[-1]
  margin = config.image_size - net.crop_size
  return {
    "size.parameters": layers["totals"]["parameters"],
    "size.neurons": sum(neurons.values()) - neurons["input"],
    **{f"size.neurons.{name}": count for name, count in neurons.items()},
    **{f"size.kernels.{name}": count for name, count in kernels.items()},
    "size.lrn_k": net.lrn_k,
    "size.lrn_n": net.lrn_n,
    "size.lrn_alpha": net.lrn_alpha,
    "size.lrn_beta": net.lrn_beta,
    "size.pool_stride": net.pool_stride,
    "size.pool_size": net.pool_size,
    "size.crops": (margin + 1) ** 2 * 2,
    "size.lighting": config.augmentation.lighting,
    "size.dropout_rate": net.dropout_rate,
    "size.batch_size": config.batch_size,
    "size.momentum": config.optimizer.momentum,
    "size.weight_decay": config.optimizer.weight_decay,
    "size.learning_rate": config.schedule.learning_rate,
    "size.drops": len(config.schedule.boundaries),
    "size.std": (net.conv3 or networks.shapes(net)[0].layer).std,
    "size.epochs": config.total_epochs,
  }


class Ours(NamedTuple):
  """Our number for a claim, and where it comes from."""

  value: float
  source: str


def committed(folder: str = "experiments/results") -> dict[str, Ours]:
  """Our numbers among the committed results.

  A result names the claims that it measures: `"claims": {KEY: {"value": x,
  "how": "in what it differs from the paper's"}}`.
  """
  found = {}
  for path in sorted(pathlib.Path(folder).glob("*.json")):
    record = json.loads(path.read_text())
    for key, claim in record.get("claims", {}).items():
      found[key] = Ours(claim["value"], f"{path.stem}: {claim['how']}")
  return found


def table(ours: Mapping[str, Ours]) -> list[dict[str, Any]]:
  """All claims in the paper's order, as JSON.

  Args:
    ours: by the claims' keys.

  Returns:
    One dict a claim: `key`, `where`, `what`, `measure`, `unit`, `paper` (text),
    `logged` (six digits, text, or None), `logged_as` (the two that make a
    difference), `run`, `ours` and `difference` (numbers, or "not run"),
    `source`, `note`. Errors of ours are fractions; differences are in points.
  """
  rows = []
  for claim in claims.CLAIMS:
    mine = ours.get(claim.key)
    rows.append(
      {
        "key": claim.key,
        "where": claim.where,
        "what": claim.what,
        "measure": claim.measure,
        "unit": claim.unit,
        "paper": claim.paper,
        "logged": logged(claim),
        "logged_as": " - ".join(claim.logged),
        "run": claim.run,
        "ours": mine.value if mine else NOT_RUN,
        "difference": difference(claim, mine.value) if mine else NOT_RUN,
        "source": mine.source if mine else "",
        "note": claim.note,
      }
    )
  return rows


def logged(claim: Claim) -> str | None:
  """The authors' number with its six digits, None if none is logged."""
  if not claim.logged:
    return None
  first, *rest = map(Decimal, claim.logged)
  return str(first - sum(rest, Decimal("0.000000")))


def difference(claim: Claim, ours: float) -> float:
  """Ours less the paper's: in points for errors, else in its own unit."""
  scale = 100 if claim.unit in ("%", "points") else 1
  return round(scale * ours - float(claim.paper), 10)


def shown(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
  """A row's paper, logged, ours and difference, for people."""
  unit, mine, delta = row["unit"], row["ours"], row["difference"]
  errors = unit in ("%", "points")
  paper = row["paper"]
  if not errors and float(paper) >= 1000:
    paper = f"{int(paper):,}"
  paper += "%" if unit == "%" else f" {unit}" if unit else ""
  if mine == NOT_RUN:
    return paper, row["logged"] or "", NOT_RUN, ""
  if errors:
    mine, delta = f"{mine:.6f}", f"{delta:+.2f} points"
  else:
    mine, delta = f"{mine:,.6g}" if mine < 1000 else f"{mine:,}", f"{delta:+,g}"
  return paper, row["logged"] or "", mine, delta


def name_of(run: Mapping[str, Any], known: Iterable[str]) -> str:
  """Which of the files `known` the configuration of a run is, "" if none.

  Two are the same if their network, augmentation and update rule are; whose
  data, length and rates they have does not matter.
  """
  for path in known:
    other = configs.to_json(configs.load(path))
    if all(
      run[key] == other[key] for key in ("network", "augmentation", "optimizer")
    ):
      return pathlib.Path(path).stem
  return ""
