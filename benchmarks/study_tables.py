"""Markdown tables of the registered study, from the `result` of a record."""

import numpy as np

from experiments.common import markdown, specialisation

START_WEIGHTS = {"source": "cuda-convnet's", "glorot": "Glorot's"}


def contrasts(result) -> str:
  """The contrasts of an experiment, and what died in its arms."""
  headings = (
    "contrast|paper|difference|95% interval|seeds|p, adjusted|verdict|"
    "detectable|deaths"
  )
  rows = []
  for name, found in result["contrasts"].items():
    claimed = found["claimed"]
    if isinstance(claimed, float):
      claimed = f"{claimed:.3g}"
    cells, deaths = [""] * 6, sum(found["deaths"].values())
    if "difference" in found:
      d, p_value = found["difference"], found["adjusted_p_value"]
      cells = [
        f"{d['mean']:+.2f}",
        f"{d['low']:+.2f} to {d['high']:+.2f}",
        str(d["seeds"]),
        f"{p_value:.3f}" if p_value >= 0.001 else "below 0.001",
        found.get("verdict", ""),
        f"{d['detectable']:.2f}",
      ]
    rows.append([name, claimed or "", *cells, str(deaths)])
  return markdown.table(headings.split("|"), rows)


def depth(result) -> str:
  """The contrasts, and the differences with each network's own rate."""
  headings = "without|its rate|difference|95% interval|seeds|detectable"
  rows = []
  for name, found in result["tuned"].items():
    d = found["difference"]
    rows.append(
      [
        name.removeprefix("no_"),
        f"{found['rate']:g} times the base's",
        f"{d['mean']:+.2f}",
        f"{d['low']:+.2f} to {d['high']:+.2f}",
        str(d["seeds"]),
        f"{d['detectable']:.2f}",
      ]
    )
  tuned = markdown.table(headings.split("|"), rows)
  return f"{contrasts(result)}\n\n{tuned}"


def relu_tanh(result) -> str:
  """The contrasts in logarithms, and the epochs at the chosen rates."""
  rows = []
  for arm, chosen in result["chosen"].items():
    unit, _, start = arm.partition("-")
    edge = ", the end of the range" if chosen["at_an_edge"] else ""
    by_bound = [
      [each[bound] for each in chosen["epochs"]]
      for bound in ("40%", "30%", "25%", "20%")
    ]
    rows.append(
      [
        f"{unit}, {START_WEIGHTS[start]}",
        f"{chosen['learning_rate']:g}{edge}",
        *map(_epochs, by_bound),
      ]
    )
  headings = "units, initial weights|rate|epochs to 40%|30%|25%|20%"
  epochs = markdown.table(headings.split("|"), rows)
  return f"{contrasts(result)}\n\n{epochs}"


def figure3(result) -> str:
  """The test of each topology of two towers, then every network."""
  tests, networks = [], []
  for name, found in result.items():
    if "p_value" in found:
      tests.append(
        [
          name,
          f"{np.mean(found['apart']):.3f}",
          f"{found['null_mean']:.3f}",
          f"{found['p_value']:.2g}",
          specialisation.share_in_words(found),
        ]
      )
    rows = zip(
      found["seeds"],
      found["means"],
      found.get("auc", [None] * len(found["seeds"])),
      found["noise_share"],
      strict=True,
    )
    networks += [
      [
        name,
        str(seed),
        ", ".join(f"{mean:.2f}" for mean in means),
        f"{auc:.2f}" if auc is not None else "",
        f"{noise:.0%}",
      ]
      for seed, means, auc, noise in rows
    ]
  test = (
    "topology|distance of the AUC from .5|in random halves|p|would be found"
  )
  network = (
    "topology|seed|mean colour score by tower|AUC of tower 1|initial noise left"
  )
  return (
    f"{markdown.table(test.split('|'), tests)}\n\n"
    f"{markdown.table(network.split('|'), networks)}"
  )


def _epochs(epochs) -> str:
  """One number a seed."""
  return ", ".join(
    "never" if each is None else f"{each:.1f}" for each in epochs
  )
