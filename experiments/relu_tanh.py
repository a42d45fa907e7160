"""Figure 1: how many epochs to 25% training error with ReLU, and with tanh?

  python -m experiments.relu_tanh --set=data_dir=DIR [--runs=relu,tanh]

Section 3.1: a four-layer network on CIFAR-10 reaches 25% training error six
times faster with ReLU than with tanh, the learning rate chosen for each, no
regularisation at all. The paper does not say which four layers. Here it is
cuda-convnet's 80-second net (three convolutions, one hidden layer of 64, ten
classes) without weight decay. Each net is tried with three learning rates for
an epoch, one seed; the one of the lowest training error then goes on, with
three seeds, until the error is reached.
"""

import statistics

from experiments import frame
from experiments.frame import Experiment, Run
from experiments.outcome import Outcome, Outcomes, learned

BOUND = 0.25
RATES = (0.001, 0.003, 0.01)
STEPS = ("relu", "tanh", "sigmoid")
LAYERS = ("conv1", "conv2", "conv3", "fc6")
TRIAL = 1  # epoch
WINDOW = 39  # batches of 128: a tenth of an epoch of CIFAR-10


def _run(step: str, rate: float) -> Run:
  then = {
    "conv1": ("pool", step),
    "conv2": (step, "avg_pool"),
    "conv3": (step, "avg_pool"),
    "fc6": (step,),
  }
  overrides = {f"network.{name}.then": then[name] for name in LAYERS}
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
    "checkpoint_every_steps": 98,  # a quarter of an epoch; there it may end
  }
  return Run(f"{step}-{rate:g}", "configs/cifar_80sec.py", overrides)


def smoothed(outcome: Outcome, window: int = WINDOW) -> list[dict[str, float]]:
  """The training error as the mean of `window` batches, at the last one."""
  lines = [line for line in outcome.lines if line["split"] == "train"]
  errors = [line["top1_error"] for line in lines]
  window = min(window, len(errors))
  return [
    {
      "epoch": lines[end - 1]["epoch"],
      "error": statistics.fmean(errors[end - window : end]),
    }
    for end in range(window, len(errors) + 1)
    if window
  ]


def epochs_to_bound(outcome: Outcome, window: int = WINDOW) -> float | None:
  """The epoch when the smoothed training error is first below the bound."""
  below = (p for p in smoothed(outcome, window) if p["error"] < BOUND)
  return next((point["epoch"] for point in below), None)


def choose(outcomes: Outcomes) -> list[str]:
  """Of each net the run of the lowest training error when the trial ended."""
  errors = {
    name: [p["error"] for p in smoothed(each[0]) if p["epoch"] <= TRIAL][-1]
    for name, each in outcomes.items()
  }
  steps = [step for step in STEPS if any(_step(n) == step for n in errors)]
  return [
    min((name for name in errors if _step(name) == step), key=errors.get)
    for step in steps
  ]


def _step(name: str) -> str:
  return name.partition("-")[0]


def measure(outcomes: Outcomes) -> dict:
  """The chosen rates, epochs to the bound by seed, and their ratio to ReLU's.

  Curves are smoothed and have ten points an epoch.
  """
  runs, chosen = {}, {}
  for name, each in outcomes.items():
    points = [smoothed(one) for one in each]
    runs[name] = {
      "epochs_trained": [one.lines[-1]["epoch"] for one in each],
      "train_top1_error": [curve[-1]["error"] for curve in points],
      "curves": [
        [[round(p["epoch"], 2), round(p["error"], 4)] for p in curve[::WINDOW]]
        for curve in points
      ],
    }
  for name in choose(outcomes):
    epochs = [epochs_to_bound(one) for one in outcomes[name]]
    chosen[_step(name)] = {
      "learning_rate": float(name.partition("-")[2]),
      "epochs_to_25_percent": epochs,
      "mean": statistics.fmean(epochs) if all(epochs) else None,
    }
  result = {"trial_epochs": TRIAL, "runs": runs, "chosen": chosen}
  base = chosen.get("relu", {}).get("mean")
  result["ratio_to_relu"] = {
    step: value["mean"] / base
    for step, value in chosen.items()
    if base and value["mean"]
  }
  return result


def words(result: dict) -> str:
  """The chosen rates' epochs to the bound, and which nets never crossed it."""
  found = []
  for step, value in result["chosen"].items():
    each = value["epochs_to_25_percent"]
    said = ", ".join("never" if e is None else f"{e:.1f}" for e in each)
    rate = value["learning_rate"]
    found.append(f"{step} (rate {rate:g}) crossed after {said} epochs")
  ratio = result["ratio_to_relu"].get("tanh")
  if ratio:
    found.append(f"tanh takes {ratio:.1f} times as long, paper 6")
  return "; ".join(found)


def claims(result: dict) -> dict:
  """The paper's factor of six, if both were seen to cross the bound."""
  if "tanh" not in result["ratio_to_relu"]:
    return {}
  seeds = len(result["chosen"]["tanh"]["epochs_to_25_percent"])
  how = f"80-second net without decay, {seeds} seed(s), best of the rates tried"
  ratio = result["ratio_to_relu"]["tanh"]
  return {"relu.speedup": {"value": ratio, "how": how}}


def draw(outcomes: Outcomes, axes) -> None:
  """Figure 1: the training error of the chosen runs, a colour a net."""
  for name in choose(outcomes):
    for one in outcomes[name]:
      curve = smoothed(one)[::WINDOW]
      axes.plot(
        [point["epoch"] for point in curve],
        [point["error"] for point in curve],
        color=f"C{STEPS.index(_step(name))}",
        linestyle="--" if _step(name) == "tanh" else "-",
        label=name.replace("-", ", rate ") if one.seed == 0 else None,
      )
  axes.axhline(BOUND, color="grey", linewidth=0.6)
  axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None))
  axes.legend()


def check(outcomes: Outcomes, result: dict) -> None:
  """Same weights and images at first; then ReLU is ahead of the sigmoid."""
  learned({n: o for n, o in outcomes.items() if _step(n) != "sigmoid"})
  last = {name: each[0].final("loss") for name, each in outcomes.items()}
  assert last["relu-0.001"] < last["sigmoid-0.001"]
  first = {name: each[0].train("loss")[0] for name, each in outcomes.items()}
  assert first["tanh-0.001"] == first["tanh-0.003"] != first["relu-0.001"]
  assert set(result["chosen"]) == set(STEPS)


EXPERIMENT = Experiment(
  name="relu_tanh",
  question="How many epochs to 25% training error with ReLU, tanh, sigmoid?",
  runs=[_run(step, rate) for step in STEPS for rate in RATES],
  check=check,
  measure=measure,
  draw=draw,
  claims=claims,
  quick={
    "image_size": 32,
    "network.crop_size": 32,
    "network.width": 1 / 4,
    "mesh.data": 1,
    "total_steps": 16,  # an epoch
  },
  quick_runs=("relu-0.001", "tanh-0.001", "tanh-0.003", "sigmoid-0.001"),
  words=words,
  seeds=3,
  enough=lambda outcome: epochs_to_bound(outcome) is not None,
  trial={"total_epochs": TRIAL},
  choose=choose,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
