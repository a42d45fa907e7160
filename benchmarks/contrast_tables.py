"""Markdown tables of the registered study, from the `result` of a record."""

from experiments.common import markdown

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


def _epochs(epochs) -> str:
  """One number a seed."""
  return ", ".join(
    "never" if each is None else f"{each:.1f}" for each in epochs
  )
