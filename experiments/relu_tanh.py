"""Figure 1: how many epochs to 25% training error with ReLU, and with tanh?

  python -m experiments.relu_tanh --set=data_dir=DIR [--runs=relu,tanh]

Section 3.1: a four-layer network on CIFAR-10 reaches 25% training error six
times faster with ReLU than with tanh, with a learning rate chosen for each and
without regularisation. The paper does not say which four layers. Here they are
those of cuda-convnet's 80-second network (three convolutions, a hidden layer of
64, ten classes) without weight decay.

Each kind of unit trains for one epoch with each of three rates, one seed. The
rate with the lowest training error then continues with three seeds until a
running mean of the error is below 25%, at most 60 epochs. What that choice and
that mean cannot tell is in docs/results.md.
"""

import statistics

from experiments.common import frame
from experiments.common.curves import running_mean
from experiments.common.experiment import (
  Analysis,
  Experiment,
  Quick,
  Run,
  Trial,
)
from experiments.common.outcome import (
  Outcome,
  Outcomes,
  assert_learned,
  first_losses,
)

BOUND = 0.25
RATES = (0.001, 0.003, 0.01)
UNITS = ("relu", "tanh", "sigmoid")
TRIAL_EPOCHS = 1
WINDOW = 39  # batches of 128: a tenth of an epoch of CIFAR-10


def _run(unit: str, rate: float) -> Run:
  then = {
    "conv1": ("pool", unit),
    "conv2": (unit, "avg_pool"),
    "conv3": (unit, "avg_pool"),
    "fc6": (unit,),
  }
  overrides = {f"network.{name}.then": steps for name, steps in then.items()}
  overrides |= {
    "optimizer.weight_decay": 0.0,
    "optimizer.layer_weight_decay": (),
    "schedule.learning_rate": rate,
    "schedule.bias_learning_rate": rate,
    "schedule.boundaries": (),
    "total_epochs": 60,
    "log_every_steps": 1,
    "eval_every_epochs": 5,
    "diagnose_every_lines": 0,
    # A run can only end early at a checkpoint: every quarter of an epoch.
    "checkpoint_every_steps": 98,
  }
  return Run(f"{unit}-{rate:g}", "configs/cifar_80sec.py", overrides)


def _unit(name: str) -> str:
  return name.partition("-")[0]


def smoothed(outcome: Outcome, window: int = WINDOW) -> list[dict[str, float]]:
  """The running mean of the training error, with the epoch of each mean."""
  epochs, errors = outcome.train("epoch"), outcome.train("top1_error")
  window = min(window, len(errors))
  if not window:
    return []
  means = zip(epochs[window - 1 :], running_mean(errors, window), strict=True)
  return [{"epoch": epoch, "error": error} for epoch, error in means]


def epochs_to_bound(outcome: Outcome, window: int = WINDOW) -> float | None:
  """The epoch at which the running mean is first below the bound, or None."""
  below = (p for p in smoothed(outcome, window) if p["error"] < BOUND)
  return next((point["epoch"] for point in below), None)


def choose(outcomes: Outcomes) -> list[str]:
  """For each unit the run with the lowest error at the end of the trial."""
  errors = {
    name: [
      p["error"] for p in smoothed(repeats[0]) if p["epoch"] <= TRIAL_EPOCHS
    ][-1]
    for name, repeats in outcomes.items()
  }
  return [
    min((name for name in errors if _unit(name) == unit), key=errors.get)
    for unit in UNITS
    if any(_unit(name) == unit for name in errors)
  ]


def measure(outcomes: Outcomes) -> dict:
  """The chosen rates, epochs to the bound by seed, and their ratio to ReLU's.

  The curves are running means at ten points an epoch.
  """
  runs, chosen = {}, {}
  for name, repeats in outcomes.items():
    points = [smoothed(outcome) for outcome in repeats]
    runs[name] = {
      "epochs_trained": [outcome.lines[-1]["epoch"] for outcome in repeats],
      "train_top1_error": [curve[-1]["error"] for curve in points],
      "curves": [
        [[round(p["epoch"], 2), round(p["error"], 4)] for p in curve[::WINDOW]]
        for curve in points
      ],
    }
  for name in choose(outcomes):
    epochs = [epochs_to_bound(outcome) for outcome in outcomes[name]]
    chosen[_unit(name)] = {
      "learning_rate": float(name.partition("-")[2]),
      "epochs_to_25_percent": epochs,
      "mean": statistics.fmean(epochs) if all(epochs) else None,
    }
  result = {"trial_epochs": TRIAL_EPOCHS, "runs": runs, "chosen": chosen}
  base = chosen.get("relu", {}).get("mean")
  result["ratio_to_relu"] = {
    unit: value["mean"] / base
    for unit, value in chosen.items()
    if base and value["mean"]
  }
  return result


def describe(result: dict) -> str:
  """The chosen rates, their epochs to the bound, and the ratio."""
  parts = []
  for unit, value in result["chosen"].items():
    epochs = ", ".join(
      "never" if epoch is None else f"{epoch:.1f}"
      for epoch in value["epochs_to_25_percent"]
    )
    rate = value["learning_rate"]
    parts.append(f"{unit} (rate {rate:g}) crossed after {epochs} epochs")
  ratio = result["ratio_to_relu"].get("tanh")
  if ratio:
    parts.append(f"tanh takes {ratio:.1f} times as long, paper 6")
  return "; ".join(parts)


def claims(result: dict) -> dict:
  """The paper's factor of six, if both units crossed the bound."""
  if "tanh" not in result["ratio_to_relu"]:
    return {}
  seeds = len(result["chosen"]["tanh"]["epochs_to_25_percent"])
  how = f"80-second net without decay, {seeds} seed(s), best of the rates tried"
  ratio = result["ratio_to_relu"]["tanh"]
  return {"relu.speedup": {"value": ratio, "how": how}}


def draw(outcomes: Outcomes, axes) -> None:
  """Figure 1: the training error of the chosen runs, one colour a unit."""
  for name in choose(outcomes):
    for outcome in outcomes[name]:
      curve = smoothed(outcome)[::WINDOW]
      axes.plot(
        [point["epoch"] for point in curve],
        [point["error"] for point in curve],
        color=f"C{UNITS.index(_unit(name))}",
        linestyle="--" if _unit(name) == "tanh" else "-",
        label=name.replace("-", ", rate ") if outcome.seed == 0 else None,
      )
  axes.axhline(BOUND, color="grey", linewidth=0.6)
  axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None))
  axes.legend()


def check(outcomes: Outcomes, result: dict) -> None:
  """Runs start alike for each unit; ReLU then learns faster than sigmoid."""
  assert_learned({n: o for n, o in outcomes.items() if _unit(n) != "sigmoid"})
  last = {name: repeats[0].final("loss") for name, repeats in outcomes.items()}
  assert last["relu-0.001"] < last["sigmoid-0.001"]
  first = first_losses(outcomes)
  assert first["tanh-0.001"] == first["tanh-0.003"] != first["relu-0.001"]
  assert set(result["chosen"]) == set(UNITS)


EXPERIMENT = Experiment(
  name="relu_tanh",
  question="How many epochs to 25% training error with ReLU, tanh, sigmoid?",
  runs=[_run(unit, rate) for unit in UNITS for rate in RATES],
  quick=Quick(
    check,
    overrides={
      "image_size": 32,
      "network.crop_size": 32,
      "network.width": 1 / 4,
      "mesh.data": 1,
      "splits.train": "train[:512]",
      "total_steps": 16,  # one epoch
    },
    runs=("relu-0.001", "tanh-0.001", "tanh-0.003", "sigmoid-0.001"),
  ),
  analysis=Analysis(measure, describe, draw, claims),
  seeds=3,
  trial=Trial({"total_epochs": TRIAL_EPOCHS}, choose),
  stop_early=lambda outcome: epochs_to_bound(outcome) is not None,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
