"""What did features made by hand reach on a network's images, before 2012?

  python -m experiments.hand_made_features --workdir=DIR,... [--record=FILE]

Tables 1 and 2 compare the network with sparse coding and with SIFT + Fisher
vectors. Here trained runs, which differ in their seed, are compared with three
such methods on their own training, validation and test images: Fisher vectors
of SIFT and clusters of patches, each with a linear support vector machine, and
visual words with a chi-squared kernel. A method draws its samples with the
run's seed; the validation images choose the machine's cost; the test images are
read once. A method sees whole images, the network their centre. Trains no
network; it wants requirements-study.txt. For 10,000 training and 15,000 other
images a seed took 26 minutes of a core, and SIFT, which is computed once and
kept in memory (2 GB), ten. FILE is written after each method and seed, and the
same command continues. On a busy machine set OPENBLAS_NUM_THREADS=1: the
products are small, and threads wait for each other.
"""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from alexnet_jax.analysis.run_images import open_images
from alexnet_jax.runtime import command, files, paths, provenance
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import runs
from alexnet_jax.training.checkpoint_files import latest_step
from experiments.common import contrasts, evaluations, markdown, statistics
from experiments.common.contrasts import Contrast

SAME = ("dataset", "splits", "holdout", "image_size", "pixels")
# Table 1: the network has 8.2 points less error than Fisher vectors of SIFT.
BEST = Contrast(
  "the best method minus the network", {}, claimed="more", margin=1.0
)


def compare(
  workdirs: Sequence[str],
  earlier: Mapping[str, Any] | None = None,
  save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
  """The networks of runs beside all methods, on the runs' images.

  Args:
    workdirs: of runs that differ in their seed alone.
    earlier: a result that was interrupted; what it has of the same networks and
      images is not measured again.
    save: called with the result after each method and seed.

  Raises:
    UserError: a workdir holds no checkpoint; the runs have other images, or
      the same seed; their dataset or scikit-learn is missing.
  """
  try:
    from experiments.common import machines
  except ModuleNotFoundError as error:
    if error.name != "sklearn":
      raise
    raise UserError(
      "features made by hand need scikit-learn, which is not installed: pip"
      " install -r requirements-study.txt (or: pip install scikit-learn)."
    ) from None
  by_seed = _by_seed(workdirs)
  splits = {
    name: open_images(workdirs[0], name)
    for name in ("train", "validation", "test")
  }
  networks = {
    seed: evaluations.evaluate(
      workdir, "test", latest_step(f"{workdir}/checkpoints")
    )
    for seed, workdir in by_seed.items()
  }
  result: dict[str, Any] = {
    "images": {name: len(images) for name, images in splits.items()},
    "network": [
      {
        "seed": seed,
        "step": network.step,
        "test_top1_error": network.top1_error,
      }
      for seed, network in networks.items()
    ],
    "methods": {},
  }
  kept = _kept(earlier, result)
  for name, method in machines.METHODS.items():
    rows: list[dict[str, Any]] = []
    for seed, network in networks.items():
      row = kept.get((name, seed))
      if row is None:
        row, wrong = machines.measure(method, splits, seed)
        print(f"{name}, seed {seed}: {row}", flush=True)
        interval = statistics.image_interval(wrong, network.wrong)
        row |= {"minus_network_over_images": interval}
      rows.append(row)
      result["methods"][name] = {"seeds": rows} | _difference(
        rows, result["network"][: len(rows)]
      )
      save(result)
  if len(networks) > 1:
    result["contrasts"] = {BEST.name: _contrast(result)}
    save(result)
  return result


def _kept(
  earlier: Mapping[str, Any] | None, result: Mapping[str, Any]
) -> dict[tuple[str, int], dict[str, Any]]:
  """The rows of an earlier result that belong to the networks of this one."""
  if earlier is None or earlier["images"] != result["images"]:
    return {}
  return {
    (name, row["seed"]): row
    for name, method in earlier["methods"].items()
    for row, network in zip(method["seeds"], earlier["network"], strict=False)
    if network in result["network"]
  }


def _by_seed(workdirs: Sequence[str]) -> dict[int, str]:
  """The workdirs by their seed, after the images were compared."""
  found: dict[int, str] = {}
  first = runs.load_config(workdirs[0])
  for workdir in workdirs:
    config = runs.load_config(workdir)
    for key in SAME:
      if config[key] != first[key]:
        raise UserError(
          f"{workdir} has other images than {workdirs[0]}: {key} is"
          f" {config[key]}, not {first[key]}. Give runs that differ in their"
          " seed alone."
        )
    if config["seed"] in found:
      raise UserError(
        f"{workdir} and {found[config['seed']]} both have the seed"
        f" {config['seed']}. Give one run for each seed."
      )
    found[config["seed"]] = workdir
  return found


def _difference(
  method: list[dict[str, Any]], network: list[dict[str, Any]]
) -> dict[str, Any]:
  """The paired difference over the seeds in points; none of a single seed."""
  if len(method) < 2:
    return {}
  treatment, base = (
    {row["seed"]: 100 * row["test_top1_error"] for row in rows}
    for rows in (method, network)
  )
  found = statistics.paired_difference(treatment, base)
  return {"minus_network": found._asdict()}


def _contrast(result: dict[str, Any]) -> dict[str, Any]:
  """The method with the lowest mean validation error, and the network."""

  def validation_error(name: str) -> float:
    seeds = result["methods"][name]["seeds"]
    lowest = [min(row["validation_top1_errors"].values()) for row in seeds]
    return sum(lowest) / len(lowest)

  best = min(result["methods"], key=validation_error)
  pairs = zip(result["methods"][best]["seeds"], result["network"], strict=True)
  by_seed = {
    row["seed"]: 100 * (row["test_top1_error"] - network["test_top1_error"])
    for row, network in pairs
  }
  found = contrasts.conclude(BEST, by_seed)
  return {
    **{"method": best, "claimed": BEST.claimed, "margin": BEST.margin},
    **{"unit": BEST.unit, "deaths": {}, "by_seed": by_seed},
    "adjusted_p_value": found["difference"]["p_value"],
    **found,
  }


def table(result: dict[str, Any]) -> str:
  """The result as Markdown."""
  rows = [["the network", _errors(result["network"], "top1"), "", "", ""]]
  for name, method in result["methods"].items():
    seeds = method["seeds"]
    low, high = seeds[0]["minus_network_over_images"]
    if between := method.get("minus_network"):
      low, high = between["low"] / 100, between["high"] / 100
    pairs = zip(seeds, result["network"], strict=False)  # seeds may be left
    differences = [
      row["test_top1_error"] - network["test_top1_error"]
      for row, network in pairs
    ]
    mean = sum(differences) / len(differences)
    rows.append(
      [
        name,
        _errors(seeds, "top1"),
        _errors(seeds, "top5"),
        f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        f"{seeds[0]['seconds'] / 60:.1f}",
      ]
    )
  unit = "seeds" if len(result["network"]) > 1 else "images"
  headings = ("method", "top-1 error by seed", "top-5 error")
  above = f"points above the network (95% over {unit})"
  return markdown.table([*headings, above, "minutes"], rows)


def _errors(rows: list[dict[str, Any]], which: str) -> str:
  return ", ".join(f"{row[f'test_{which}_error']:.1%}" for row in rows)


def main() -> None:
  path = flags.FLAGS.record

  def save(result: dict[str, Any]) -> None:
    if path:
      record = provenance.record(
        "features made by hand on the images of networks",
        "python -m experiments.hand_made_features --workdir=DIR,...",
        result,
        seed=[row["seed"] for row in result["network"]],
        libraries={"scikit-learn": importlib.metadata.version("scikit-learn")},
      )
      files.write_atomic(path, json.dumps(record, indent=1) + "\n")

  earlier = None
  if path and pathlib.Path(path).exists():
    earlier = json.loads(pathlib.Path(path).read_text())["result"]
  print(table(compare(flags.FLAGS.workdir, earlier, save)))


if __name__ == "__main__":
  paths.DEFINE_paths("workdir", None, "runs to compare with", required=True)
  paths.DEFINE_output("record", "", "JSON file for the result")
  command.run(main)
