"""Which runs answer a claim of the paper, and why others cannot.

A run answers only if it is the training that its configuration file describes,
to the end. Two runs are subtracted only if they have the same seed and differ
in nothing but what their two files differ in.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alexnet_jax.analysis.claims import Net
from alexnet_jax.runtime import config as configs

# Keys that a resumed run may change, and that change its result.
RESULT = (
  "total_epochs",
  "total_steps",
  "early_stopping",
  "network.exchange_dtype",
)
# Keys that change neither the network nor what it learns from. (The dataset is
# compared with the claim's.)
IGNORED = (
  "seed",
  "dataset",
  *(key for key in configs.RESUMABLE if key not in RESULT),
)
# configs/original2012.py names these two for the run of 2010, and for a run
# without changes by hand. Both runs of a difference must have the same.
DOCUMENTED = {
  "schedule.name": ("log145_2012", "log145_2010", "dexp"),
  "schedule.bias_drops": ("never", "once"),
}
PRETRAINED = "conv6"
PERCENT_DONE = 0.999  # of the epochs: the last step may not complete one

Config = Mapping[str, Any]


class Trained(NamedTuple):
  """A run.

  Attributes:
    workdir: its directory.
    name: of its configuration file in configs/; "" if none is like it.
    config: as in its config.json.
    file: the configuration of the file, in the same form; {} if there is none.
    epochs: how many it has done.
  """

  workdir: str
  name: str
  config: Config
  file: Config
  epochs: float

  @property
  def dataset(self) -> str:
    """The name of the images, however they were prepared."""
    return self.config["dataset"].split(":")[0].removesuffix("_256")


class Answer(NamedTuple):
  """Our number for a claim, or None, and why some runs do not count."""

  value: float | None
  source: str
  refused: tuple[str, ...]


def answer(
  net: Net, runs: Sequence[Trained], error: Callable[[Sequence[str]], float]
) -> Answer:
  """Answers a claim with the runs that are like the paper's.

  Args:
    net: what the claim is about.
    runs: all that are given.
    error: of the network in a workdir, or of the average of several.
  """
  runs = [run for run in runs if run.dataset == net.dataset]
  if net.minus:
    return _difference(net, runs, error)
  if net.nets > 1:
    return _ensemble(net, runs, error)
  names = (PRETRAINED,) if net.pretrained else net.configs
  refused: list[str] = []
  for name in names:
    good = _comparable([run for run in runs if run.name == name], refused)
    if good:
      value = statistics.fmean(error([run.workdir]) for run in good)
      return Answer(value, _source(good), tuple(refused))
  return Answer(None, "", tuple(refused))


def problems(run: Trained) -> list[str]:
  """Why a run is not the training that its file describes; empty if it is."""
  if not run.name:
    return ["its configuration is none of configs/"]
  found = []
  for key, own, file in _differences(run.config, run.file):
    documented = DOCUMENTED.get(key, ())
    if own in documented and file in documented:
      continue
    if key.startswith("start_") and run.name == PRETRAINED:
      continue  # which run it starts from
    found.append(f"{key} is {own!r}, in configs/{run.name}.py {file!r}")
  if run.name == PRETRAINED and not run.config["start_from"]:
    found.append("it was trained from scratch, the paper's from a wider set")
  total = run.config["total_epochs"]
  if run.epochs < PERCENT_DONE * total:
    found.append(f"it has done {run.epochs:g} of {total:g} epochs")
  return found


def _comparable(
  candidates: Sequence[Trained], refused: list[str]
) -> list[Trained]:
  """The runs without problems, one a seed; adds the others to `refused`."""
  good: dict[int, Trained] = {}
  for run in candidates:
    reasons = problems(run)
    seed = run.config["seed"]
    if not reasons and seed in good:
      reasons = [f"it has the seed of {good[seed].workdir}"]
    if reasons:
      refused.append(f"{run.workdir}: {'; '.join(reasons)}")
    else:
      good[seed] = run
  return list(good.values())


def _difference(
  net: Net, runs: Sequence[Trained], error: Callable[[Sequence[str]], float]
) -> Answer:
  refused: list[str] = []
  for name, base in zip(net.configs, net.minus, strict=True):
    treated = _comparable([run for run in runs if run.name == name], refused)
    if not treated:
      continue
    bases = _comparable([run for run in runs if run.name == base], refused)
    partners = {run.config["seed"]: run for run in bases}
    pairs = []
    for run in treated:
      partner = partners.get(run.config["seed"])
      if partner is None:
        reason = f"no run of configs/{base}.py with its seed"
      else:
        reason = _unlike(run, partner)
      if reason:
        refused.append(f"{run.workdir}: {reason}")
      else:
        pairs.append((run, partner))
    if pairs:
      values = [error([a.workdir]) - error([b.workdir]) for a, b in pairs]
      source = " minus ".join(
        _source([pair[side] for pair in pairs]) for side in (0, 1)
      )
      return Answer(statistics.fmean(values), source, tuple(refused))
  return Answer(None, "", tuple(refused))


def _unlike(run: Trained, partner: Trained) -> str:
  """What two runs differ in beside the difference of their files, or ""."""
  meant = {key for key, _, _ in _differences(run.file, partner.file)}
  other = [
    f"{key} is {own!r} and in {partner.workdir} {theirs!r}"
    for key, own, theirs in _differences(run.config, partner.config)
    if key not in meant
  ]
  return "; ".join(other)


def _ensemble(
  net: Net, runs: Sequence[Trained], error: Callable[[Sequence[str]], float]
) -> Answer:
  if len(runs) != net.nets:
    return Answer(None, "", ())
  wider = [run for run in runs if run.name == PRETRAINED]
  plain = [run for run in runs if run.name != PRETRAINED]
  refused = [
    f"{run.workdir}: it is {run.name or 'none of configs/'}, wanted is"
    f" {' or '.join(net.configs)}"
    for run in plain
    if run.name not in net.configs
  ]
  if len({run.name for run in plain}) > 1:
    names = ", ".join(sorted({run.name or "unknown" for run in plain}))
    refused.append(f"the networks have several recipes: {names}")
  good = _comparable(plain, refused) + _comparable(wider, refused)
  if len(wider) != net.pretrained:
    refused.append(
      f"{len(wider)} of the networks are {PRETRAINED}, wanted are"
      f" {net.pretrained}"
    )
  if refused or len(good) != net.nets:
    return Answer(None, "", tuple(refused))
  workdirs = [run.workdir for run in runs]
  return Answer(error(workdirs), " + ".join(workdirs), ())


def _source(runs: Sequence[Trained]) -> str:
  text = " + ".join(run.workdir for run in runs)
  return text if len(runs) == 1 else f"mean of {text}"


def _differences(one: Config, other: Config) -> list[tuple[str, Any, Any]]:
  """(key, value in one, value in the other) of every key that matters."""
  first, second = (dict(configs.flatten(dict(x))) for x in (one, other))
  return [
    (key, first.get(key), second.get(key))
    for key in sorted(first.keys() | second.keys())
    if first.get(key) != second.get(key)
    and not any(f"{key}.".startswith(f"{name}.") for name in IGNORED)
  ]
