"""Figure 1: how many epochs to 25% training error with ReLU, and with tanh?

  python -m experiments.relu_tanh --set=data_dir=DIR [--quick]

Section 3.1: a four-layer network on CIFAR-10 reaches 25% training error six
times faster with ReLU than with tanh, the learning rate chosen for each, no
regularisation at all. The paper does not say which four layers. Here it is
cuda-convnet's 80-second net (three convolutions, one hidden layer of 64, ten
classes) without weight decay; a learning rate is chosen among those below by
the least epochs, and the ratio is of the chosen ones.
"""

import statistics

from experiments import frame
from experiments.frame import Experiment, Outcome, Outcomes, Run

BOUND = 0.25
RATES = (0.0003, 0.001, 0.003)
STEPS = ("relu", "tanh", "sigmoid")
LAYERS = ("conv1", "conv2", "conv3", "fc6")


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
  }
  return Run(f"{step}-{rate:g}", "configs/cifar_80sec.py", overrides)


def epochs_to_bound(outcome: Outcome, window: int = 39) -> float | None:
  """When the mean training error of `window` batches falls below the bound.

  Thirty-nine batches of 128 are a tenth of an epoch. The epoch of the last of
  them counts; None if they never do.
  """
  lines = [line for line in outcome.lines if line["split"] == "train"]
  errors = [line["top1_error"] for line in lines]
  window = min(window, len(errors))
  for end in range(window, len(errors) + 1):
    if statistics.fmean(errors[end - window : end]) < BOUND:
      return lines[end - 1]["epoch"]
  return None


def measure(outcomes: Outcomes) -> dict:
  """Epochs by step and rate, the chosen rates, and the ratio to ReLU's."""
  found, chosen = {}, {}
  for name, each in outcomes.items():
    step, rate = name.split("-", 1)
    epochs = [epochs_to_bound(one) for one in each]
    found[name] = {
      "epochs_to_25_percent": epochs,
      "epochs_trained": [one.lines[-1]["epoch"] for one in each],
      "train_top1_error": [one.final("top1_error") for one in each],
    }
    if all(epochs):
      mean = statistics.fmean(epochs)
      if step not in chosen or mean < chosen[step]["epochs"]:
        chosen[step] = {"learning_rate": float(rate), "epochs": mean}
  result = {"runs": found, "chosen": chosen}
  if "relu" in chosen:
    result["ratio_to_relu"] = {
      step: value["epochs"] / chosen["relu"]["epochs"]
      for step, value in chosen.items()
    }
  return result


def words(result: dict) -> str:
  """The chosen rates' epochs to the bound, and which runs never crossed it."""
  found = [
    f"{step} {value['epochs']:.1f} epochs (rate {value['learning_rate']:g})"
    for step, value in result["chosen"].items()
  ]
  never = [
    name
    for name, run in result["runs"].items()
    if None in run["epochs_to_25_percent"]
  ]
  if never:
    found.append(f"never within the run: {', '.join(never)}")
  ratio = result.get("ratio_to_relu", {}).get("tanh")
  if ratio:
    found.append(f"tanh takes {ratio:.1f} times as long, paper 6")
  return "; ".join(found)


def claims(result: dict) -> dict:
  """The paper's factor of six, if both were seen to cross the bound."""
  if "tanh" not in result.get("ratio_to_relu", {}):
    return {}
  seeds = len(next(iter(result["runs"].values()))["epochs_trained"])
  how = f"80-second net without decay, {seeds} seed(s), best of the rates tried"
  ratio = result["ratio_to_relu"]["tanh"]
  return {"relu.speedup": {"value": ratio, "how": how}}


def check(outcomes: Outcomes, result: dict) -> None:
  """Same weights and images at first; then ReLU is ahead of the sigmoid."""
  frame.learned(outcomes)
  last = {name: each[0].final("loss") for name, each in outcomes.items()}
  assert last["relu-0.001"] < last["sigmoid-0.001"]
  first = {name: each[0].train("loss")[0] for name, each in outcomes.items()}
  assert first["tanh-0.001"] == first["tanh-0.003"] != first["relu-0.001"]


EXPERIMENT = Experiment(
  name="relu_tanh",
  question="How many epochs to 25% training error with ReLU, tanh, sigmoid?",
  runs=[_run(step, rate) for step in STEPS for rate in RATES],
  check=check,
  measure=measure,
  claims=claims,
  quick={"image_size": 32, "network.crop_size": 32, "network.width": 1.0},
  quick_runs=("relu-0.001", "tanh-0.001", "tanh-0.003", "sigmoid-0.001"),
  words=words,
  seeds=3,
)

if __name__ == "__main__":
  frame.main(EXPERIMENT)
