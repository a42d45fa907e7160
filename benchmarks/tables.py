"""Tables of the committed results, in Markdown, from the `result` of a record.

`python -m docs.generate` writes them into README.md and docs/.
"""

from benchmarks import compare, kernels, starting
from experiments import dropout, figure3, figure4, precision, ten_views

IMAGENET = 1_281_167 + 50_000
WANTED_END_TO_END = 0.95  # of the step's own rate


def prepare_table(result) -> str:
  lines = [
    "| JPEG quality | cores | images/s | cores used, wanted | peak memory |"
    " an image | ILSVRC-2012: disk, time |",
    "|---|---|---|---|---|---|---|",
  ]
  for row in result["rows"]:
    size = row["bytes_per_image"]
    hours = IMAGENET / row["images_per_second"] / 3600
    lines.append(
      f"| {row['quality']}, {':'.join(row['subsampling'])} | {row['cores']} |"
      f" {row['images_per_second']:,.0f} | {row['cores_used']:.2f},"
      f" {row['cores_wanted']:.2f} |"
      f" {row['peak_memory_mb']:,.0f} MB | {size / 1e3:.1f} kB |"
      f" {size * IMAGENET / 1e9:.0f} GB, {hours:.1f} h |"
    )
  same = "the same to the byte" if result["same_bytes_after_kills"] else "other"
  lines += ["", f"After {result['kills']} kills at random: {same}."]
  return "\n".join(lines)


def loaders_table(result) -> str:
  names = {
    "decode_all_cores": "bare decoding on all cores (the yardstick)",
    "alexnet_jax": "this pipeline",
    "torch_dataloader_pillow": "torch `DataLoader`, Pillow, a worker a core",
    "tf_data": "`tf.data`",
  }
  rates = {row["name"]: row["images_per_second"] for row in result["rows"]}
  lines = ["| | images/s | of the yardstick |", "|---|---|---|"]
  for name, rate in rates.items():
    share = rate / rates["decode_all_cores"]
    lines.append(f"| {names[name]} | {rate:,.0f} | {share:.0%} |")
  return "\n".join(lines)


def start_table(result) -> str:
  lines = [
    "| recipe | seed | first loss | mean loss of each 100 steps | spread of the"
    " scores before training; after steps | images until learning |",
    "|---|---|---|---|---|---|",
  ]
  for recipe, runs in result["recipes"].items():
    for run in runs:
      losses = run["mean_loss_of_each_100_steps"]
      before, *after = run["spread_of_scores_at_step"].items()
      images = run["images_until_learning"]
      seen = f"more than {run['images_seen']:,}"
      lines.append(
        f"| {recipe} | {run['seed']} | {run['first_loss']:.3f} |"
        f" {', '.join(f'{loss:.3f}' for loss in losses)} |"
        f" {before[1]:.4f};"
        f" {', '.join(f'{spread:.3f} ({step})' for step, spread in after)} |"
        f" {f'{images:,}' if images else seen} |"
      )
  return "\n".join(lines)


def compare_table(result) -> str:
  return compare.table(result["rows"])


def step_table(result) -> str:
  lines = [
    "| | images/s | ms: min, median, max | does | of the peak |",
    "|---|--:|--:|--:|--:|",
  ]
  shares = {"matmul_peak": 1.0} | result["share_of_peak"]
  for row in result["rows"]:
    name = row["name"]
    if "bytes_per_second" in row:
      does = f"{row['bytes_per_second'] / 1e9:.1f} GB/s"
    else:
      does = f"{row['flops_per_second'] / 1e9:.0f} GFLOP/s"
    share = f"{shares[name]:.0%}" if name in shares else ""
    lines.append(f"| {name} | {_rate(row)} | {_ms(row)} | {does} | {share} |")
  memory = result["memory_bytes"]
  lines += [
    "",
    "By the compiler's account a training step moves"
    f" {result['bytes_accessed'] / 1e9:.1f} GB on a device and needs"
    f" {memory['arguments'] / 1e9:.2f} GB for arguments,"
    f" {memory['temporaries'] / 1e9:.2f} GB for temporaries. It runs at"
    f" {result['share_of_roofline']:.0%} of the roofline.",
  ]
  return "\n".join(lines)


def end_to_end_table(result) -> str:
  lines = ["| | images/s | ms: min, median, max |", "|---|--:|--:|"]
  for row in result["rows"]:
    lines.append(f"| {row['name']} | {_rate(row)} | {_ms(row)} |")
  share = result["share_of_step"]
  verdict = "at least" if share >= WANTED_END_TO_END else "short of"
  return "\n".join(
    [
      *lines,
      "",
      f"{share:.1%} of the step's own rate, {verdict} the"
      f" {WANTED_END_TO_END:.0%} wanted; {result['waited']:.1%} of the time is"
      f" waited for images, and {result['limited_by']} limits.",
    ]
  )


def precision_table(result) -> str:
  last = len(result["losses"]["float32"][0])
  places = [last * (i + 1) // 5 - 1 for i in range(5)]
  steps = (str(precision.WINDOW * (place + 1)) for place in places)
  lines = [
    f"| loss, mean of {precision.WINDOW} steps until step | "
    + " | ".join(steps)
    + " |",
    "|---" * 6 + "|",
  ]
  for name, curves in result["losses"].items():
    for seed, curve in enumerate(curves):
      losses = " | ".join(f"{curve[place]:.3f}" for place in places)
      lines.append(f"| {name}, seed {seed} | {losses} |")
  return "\n".join([*lines, "", f"{precision.describe(result).capitalize()}."])


def plateau_table(result) -> str:
  lines = [
    "| cell | left | after images, by seed | loss at the end | spread of the"
    " scores before training | correlation in fc7 |",
    "|---|---|---|---|---|---|",
  ]
  for name, cell in result.items():
    left, seen = cell["images_to_leave"], cell["images_trained"]
    each = (
      f"{at:,}" if at else f"not in {count:,}"
      for at, count in zip(left, seen, strict=True)
    )
    figures = (
      ", ".join(f"{x:.{digits}f}" for x in cell[key]) or "not measured"
      for key, digits in (
        ("last_loss", 3),
        ("first_score_spread", 4),
        ("first_fc7_correlation", 4),
      )
    )
    lines.append(
      f"| `{name}` | {sum(map(bool, left))} of {len(left)} |"
      f" {', '.join(each)} | {' | '.join(figures)} |"
    )
  return "\n".join(lines)


def relu_tanh_table(result) -> str:
  lines = [
    "| units | learning rate | epochs to 25% training error, by seed | mean |"
    " times ReLU's |",
    "|---|---|---|---|---|",
  ]
  for step, chosen in result["chosen"].items():
    each = (
      "not reached" if epochs is None else f"{epochs:.1f}"
      for epochs in chosen["epochs_to_25_percent"]
    )
    ratio = result["ratio_to_relu"].get(step)
    mean = f"{chosen['mean']:.1f} | {ratio:.1f}" if ratio else " | "
    lines.append(
      f"| {step} | {chosen['learning_rate']:g} | {', '.join(each)} | {mean} |"
    )
  return "\n".join(lines)


def released_source_table(result) -> str:
  lines = [
    "| recipe | left the loss of guessing after images | validation error,"
    " top-1 and top-5 | error on training batches, top-1 |",
    "|---|---|---|---|",
  ]
  for name, run in result["runs"].items():
    images = result["images_to_leave_the_plateau"][name]
    left = ", ".join("never" if i is None else f"{i:,}" for i in images)
    top1, top5, train = (
      f"{run[f'{key}_error']['mean']:.1%}"
      for key in ("validation_top1", "validation_top5", "train_top1")
    )
    lines.append(f"| `{name}` | {left} | {top1}, {top5} | {train} |")
  return "\n".join(lines)


def overfitting_table(result) -> str:
  lines = [
    "| run | seed | top-1 error on training images | on validation images |"
    " gap |",
    "|---|---|---|---|---|",
  ]
  for name, errors in result["errors"].items():
    seeds = result["runs"][name]["seeds"]
    for seed, train, validation in zip(
      seeds, errors["train"], errors["validation"], strict=True
    ):
      lines.append(
        f"| `{name}` | {seed} | {train:.1%} | {validation:.1%} |"
        f" {validation - train:.1%} |"
      )
  if "iterations_ratios" in result:
    lines += [
      "",
      "To the training loss that the run without dropout has after a quarter of"
      f" its steps: {dropout.describe_cost(result['iterations_ratios'])}.",
    ]
  for name, steps in result.get("dead_by_step", {}).items():
    if any(steps):
      told = ", ".join(str(step or "never") for step in steps)
      lines += ["", f"`{name}`: all units of fc7 dead by step {told}."]
  return "\n".join(lines)


def lrn_cifar10_table(result) -> str:
  lines = [
    "| net | epochs | test error | error on training batches |",
    "|---|---|---|---|",
  ]
  for name, run in result["runs"].items():
    test, train = (
      f"{run[f'{key}_top1_error']['mean']:.1%}"
      for key in ("validation", "train")
    )
    lines.append(f"| `{name}` | {result['epochs'][name]} | {test} | {train} |")
  return "\n".join(lines)


def figure3_table(result) -> str:
  lines = [
    "| seed | colour score of tower 0 | of tower 1 | p |",
    "|---|---|---|---|",
  ]
  for seed in result["seeds"]:
    means = " | ".join(f"{mean:.3f}" for mean in seed["means"])
    lines.append(f"| {seed['seed']} | {means} | {seed['p_value']:.2g} |")
  return "\n".join(
    [*lines, "", f"One tower is coloured {figure3.describe(result)}."]
  )


def _rate(row) -> str:
  """Images a second; nothing for the yardstick, which has no images."""
  rate = row["images_per_second"]
  return f"{rate:,.1f}" if rate else ""


def _ms(row) -> str:
  return ", ".join(f"{row['ms'][key]:.0f}" for key in ("min", "median", "max"))


# The tables by the name of their file of results.
TABLES = {
  "prepare": prepare_table,
  "loaders": loaders_table,
  "start_of_training_0.0625": start_table,
  "start_of_training_1": start_table,
  "kernels": kernels.table,
  "compare": compare_table,
  "compare_epyc": compare_table,
  "step": step_table,
  "end_to_end": end_to_end_table,
  "plateau": plateau_table,
  "relu_tanh": relu_tanh_table,
  "released_source": released_source_table,
  "lrn_cifar10": lrn_cifar10_table,
  "dropout": overfitting_table,
  "augmentation": overfitting_table,
  "starting": starting.table,
  "precision": precision_table,
  "ten_views": lambda result: f"Ten views: {ten_views.describe(result)}.",
  "figure3": figure3_table,
  "figure4": lambda result: f"Figure 4: {figure4.describe(result)}.",
}
