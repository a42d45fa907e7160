"""Tables of the committed results, in Markdown, from the `result` of a record.

`python -m docs.generate` writes them into README.md and docs/.
"""

from benchmarks import (
  compare,
  kernels,
  quickstart,
  starting,
  study_tables,
  traffic,
)
from experiments import (
  costs,
  figure4,
  hand_made_features,
  precision,
  rates,
  ten_views,
)
from experiments.common import markdown

ILSVRC_2012 = costs.IMAGES + 50_000  # training and validation images
TARGET = 0.95  # of the rate of the training step alone


def prepare_table(result) -> str:
  headings = (
    "JPEG quality|cores|images/s|cores used, wanted|peak memory|an image|"
    "ILSVRC-2012: disk, time"
  )
  rows = []
  for row in result["rows"]:
    size, rate = row["bytes_per_image"], row["images_per_second"]
    gigabytes, hours = size * ILSVRC_2012 / 1e9, ILSVRC_2012 / rate / 3600
    rows.append(
      [
        f"{row['quality']}, {':'.join(row['subsampling'])}",
        f"{row['cores']}",
        f"{rate:,.0f}",
        f"{row['cores_used']:.2f}, {row['cores_wanted']:.2f}",
        f"{row['peak_memory_mb']:,.0f} MB",
        f"{size / 1e3:.1f} kB",
        f"{gigabytes:.0f} GB, {hours:.1f} h",
      ]
    )
  same = "the same to the byte" if result["same_bytes_after_kills"] else "other"
  return (
    f"{markdown.table(headings.split('|'), rows)}\n\n"
    f"After {result['kills']} kills at random: {same}."
  )


def listing_table(rows) -> str:
  names = {"folder": "class folders", "tars": "the official tars"}
  return markdown.table(
    ["source", "classes", "images", "seconds", "CPU seconds", "memory"],
    [
      [
        names[row["layout"]],
        f"{row['classes']:,}",
        f"{row['images']:,}",
        f"{row['seconds']:.1f}",
        f"{row['cpu_seconds']:.1f}",
        f"{row['bytes'] / 1e6:,.0f} MB",
      ]
      for row in rows
    ],
  )


def readers_table(result) -> str:
  cells = [
    [
      row["name"],
      f"{row['processes']} x {row['threads']}",
      f"{row['images_per_second']:,.0f}",
      f"{row['processor_ms']:.3f}",
    ]
    for row in result["rows"]
  ]
  headings = ["", "processes x threads", "images/s", "processor ms an image"]
  found = result["calculated"]
  shares = found["share of bare decoding"].values()
  core, most = found["images/s of a core"], found["images/s of a process"]
  return (
    f"{markdown.table(headings, cells, 'llrr')}\n\nBy processor time, the share"
    f" of bare decoding is {min(shares):.0%} to {max(shares):.0%}."
    f" A core loads {core:,.0f} images/s, a process at most {most:,.0f}."
    f" Calculated for {found['cores']} such cores: {found['images/s']:,.0f}"
    " images/s."
  )


def loaders_table(result) -> str:
  names = {
    "decode_all_cores": "decoding alone on all cores (the yardstick)",
    "alexnet_jax": "this pipeline",
    "torch_dataloader_pillow": "torch `DataLoader`, Pillow, a worker a core",
    "tf_data": "`tf.data`",
  }
  rates = {row["name"]: row["images_per_second"] for row in result["rows"]}
  yardstick = rates["decode_all_cores"]
  return markdown.table(
    ["", "images/s", "of the yardstick"],
    [
      [names[name], f"{rate:,.0f}", f"{rate / yardstick:.0%}"]
      for name, rate in rates.items()
    ],
  )


def start_table(result) -> str:
  headings = (
    "recipe|seed|first loss|mean loss of each 100 steps|spread of the scores"
    " before training; after steps|images until learning"
  )
  rows = []
  for recipe, runs in result["recipes"].items():
    for run in runs:
      losses = run["mean_loss_of_each_100_steps"]
      (_, before), *after = run["spread_of_scores_at_step"].items()
      spreads = ", ".join(f"{spread:.3f} ({step})" for step, spread in after)
      images = run["images_until_learning"]
      unreached = f"more than {run['images_seen']:,}"
      rows.append(
        [
          recipe,
          f"{run['seed']}",
          f"{run['first_loss']:.3f}",
          ", ".join(f"{loss:.3f}" for loss in losses),
          f"{before:.4f}; {spreads}",
          f"{images:,}" if images else unreached,
        ]
      )
  return markdown.table(headings.split("|"), rows)


def compare_table(result) -> str:
  return compare.table(result["rows"])


def step_table(result) -> str:
  shares = {"matmul_peak": 1.0} | result["share_of_peak"]
  rows = []
  for row in result["rows"]:
    name = row["name"]
    if "bytes_per_second" in row:
      work = f"{row['bytes_per_second'] / 1e9:.1f} GB/s"
    else:
      work = f"{row['flops_per_second'] / 1e9:.0f} GFLOP/s"
    share = f"{shares[name]:.0%}" if name in shares else ""
    rows.append([name, _rate(row), _ms(row), work, share])
  headings = ["", "images/s", "ms: min, median, max", "work", "of the peak"]
  memory = result["memory_bytes"]
  return (
    f"{markdown.table(headings, rows, 'lrrrr')}\n\n"
    "According to the compiler, a training step moves"
    f" {result['bytes_accessed'] / 1e9:.1f} GB on a device and needs"
    f" {memory['arguments'] / 1e9:.2f} GB for arguments and"
    f" {memory['temporaries'] / 1e9:.2f} GB for temporaries. It runs at"
    f" {result['share_of_roofline']:.0%} of the roofline."
  )


def end_to_end_table(result) -> str:
  rows = [[row["name"], _rate(row), _ms(row)] for row in result["rows"]]
  share = result["share_of_step"]
  verdict = "at least" if share >= TARGET else "below"
  headings = ["", "images/s", "ms: min, median, max"]
  return (
    f"{markdown.table(headings, rows, 'lrr')}\n\n"
    f"{share:.1%} of the rate of the step alone, {verdict} the target of"
    f" {TARGET:.0%}; {result['waited']:.1%} of the time is spent waiting for"
    f" images. The bottleneck: {result['limited_by']}."
  )


def tpu_step_table(result) -> str:
  headings = [
    *("slice", "batch", "operations", "bytes", "memory at the peak"),
    *("ms at least: compute", "memory"),
  ]
  rows = []
  for place, row in result.items():
    memory = row["memory"]
    cells = [
      place,
      f"{row['batch_size']}",
      f"{row['flops'] / 1e9:,.0f} GFLOP",
      f"{row['bytes_accessed'] / 1e9:.1f} GB",
      f"{(memory['arguments'] + memory['temporary']) / 1e9:.2f} GB",
      f"{1e3 * row['roofline']['compute']:.2f}",
      f"{1e3 * row['roofline']['memory']:.2f}",
    ]
    rows.append(cells)
  return markdown.table(headings, rows, "lrrrrrr")


def precision_table(result) -> str:
  last = len(result["losses"]["float32"][0])
  places = [last * (i + 1) // 5 - 1 for i in range(5)]
  window = precision.WINDOW
  headings = [
    f"loss, mean of {window} steps until step",
    *(f"{window * (place + 1)}" for place in places),
  ]
  rows = [
    [f"{name}, seed {seed}", *(f"{curve[place]:.3f}" for place in places)]
    for name, curves in result["losses"].items()
    for seed, curve in enumerate(curves)
  ]
  text = precision.describe(result).capitalize()
  return f"{markdown.table(headings, rows)}\n\n{text}."


def plateau_64000_table(result) -> str:
  headings = (
    "cell|left|after images, by seed|loss at the end|spread of the scores"
    " before training|correlation in fc7"
  )
  rows = []
  for name, cell in result.items():
    left, trained = cell["images_to_leave"], cell["images_trained"]
    images = (
      f"{at:,}" if at else f"not in {count:,}"
      for at, count in zip(left, trained, strict=True)
    )
    numbers = (
      ", ".join(f"{x:.{digits}f}" for x in cell[key]) or "not measured"
      for key, digits in (
        ("last_loss", 3),
        ("first_score_spread", 4),
        ("first_fc7_correlation", 4),
      )
    )
    count = f"{sum(map(bool, left))} of {len(left)}"
    rows.append([f"`{name}`", count, ", ".join(images), *numbers])
  return markdown.table(headings.split("|"), rows)


def relu_tanh_50000_table(result) -> str:
  headings = (
    "units|learning rate|epochs to 25% training error, by seed|mean|times"
    " ReLU's"
  )
  rows = []
  for unit, chosen in result["chosen"].items():
    epochs = (
      "not reached" if epochs is None else f"{epochs:.1f}"
      for epochs in chosen["epochs_to_25_percent"]
    )
    ratio = result["ratio_to_relu"].get(unit)
    means = [f"{chosen['mean']:.1f}", f"{ratio:.1f}"] if ratio else ["", ""]
    rate = f"{chosen['learning_rate']:g}"
    rows.append([unit, rate, ", ".join(epochs), *means])
  return markdown.table(headings.split("|"), rows)


def released_source_table(result) -> str:
  headings = (
    "recipe|left the loss of guessing after images|validation error, top-1 and"
    " top-5|error on training batches, top-1"
  )
  rows = []
  for name, run in result["runs"].items():
    images = result["images_to_leave_the_plateau"][name]
    left = ", ".join("never" if i is None else f"{i:,}" for i in images)
    top1, top5, train = (
      f"{run[f'{key}_error']['mean']:.1%}"
      for key in ("validation_top1", "validation_top5", "train_top1")
    )
    rows.append([f"`{name}`", left, f"{top1}, {top5}", train])
  return markdown.table(headings.split("|"), rows)


def fine_tuning_table(result) -> str:
  rows = [
    [
      f"`{name}`",
      f"{run['validation_top1_error']['mean']:.1%}",
      f"{run['train_top1_error']['mean']:.1%}",
      f"{sum(minutes) / len(minutes):.1f}",
    ]
    for (name, run), minutes in zip(
      result["runs"].items(), result["minutes"].values(), strict=True
    )
  ]
  headings = "run|validation error|error on training batches|minutes"
  return markdown.table(headings.split("|"), rows)


def overfitting_table(result) -> str:
  headings = "run|seed|top-1 error on training images|on validation images|gap"
  rows = [
    [
      f"`{name}`",
      f"{seed}",
      f"{train:.1%}",
      f"{validation:.1%}",
      f"{validation - train:.1%}",
    ]
    for name, errors in result["errors"].items()
    for seed, train, validation in zip(
      result["runs"][name]["seeds"],
      errors["train"],
      errors["validation"],
      strict=True,
    )
  ]
  parts = [markdown.table(headings.split("|"), rows)]
  if "iterations_ratios" in result:
    ratios = ", ".join(
      f"{ratio:.1f}" if ratio else "never"
      for ratio in result["iterations_ratios"]
    )
    parts.append(
      "To the training loss that the run without dropout has after a quarter of"
      f" its steps: with dropout {ratios} times the iterations, paper 2."
    )
  for name, steps in result.get("dead_by_step", {}).items():
    if any(steps):
      text = ", ".join(str(step or "never") for step in steps)
      parts.append(f"`{name}`: all units of fc7 dead by step {text}.")
  return "\n\n".join(parts)


def lrn_cifar10_table(result) -> str:
  rows = []
  for name, run in result["runs"].items():
    test, train = (
      f"{run[f'{key}_top1_error']['mean']:.1%}"
      for key in ("validation", "train")
    )
    rows.append([f"`{name}`", f"{result['epochs'][name]}", test, train])
  headings = ["net", "epochs", "test error", "error on training batches"]
  return markdown.table(headings, rows)


def figure3_imagenette224_table(result) -> str:
  rows = [
    [
      f"{seed['seed']}",
      *(f"{mean:.3f}" for mean in seed["means"]),
      f"{seed['p_value']:.2g}",
    ]
    for seed in result["seeds"]
  ]
  headings = ["seed", "colour score of tower 0", "of tower 1", "p"]
  towers = ", ".join(map(str, result["coloured_tower"])) or "none"
  return (
    f"{markdown.table(headings, rows)}\n\n"
    f"One tower is coloured in {result['appears_in']} of {len(rows)} seeds;"
    f" coloured tower: {towers}."
  )


def figure4_table(result) -> str:
  return f"Figure 4: {figure4.describe(result)}."


def _rate(row) -> str:
  """Images per second; empty for a yardstick, which has no images."""
  rate = row["images_per_second"]
  return f"{rate:,.1f}" if rate else ""


def _ms(row) -> str:
  return ", ".join(f"{row['ms'][key]:.0f}" for key in ("min", "median", "max"))


# The tables by the name of their file of results.
TABLES = {
  "prepare": prepare_table,
  "listing": listing_table,
  "loaders": loaders_table,
  "readers": readers_table,
  "start_of_training_0.0625": start_table,
  "start_of_training_1": start_table,
  "kernels": kernels.table,
  "gpu_traffic": traffic.table,
  "tpu_step": tpu_step_table,
  "compare": compare_table,
  "compare_epyc": compare_table,
  "compare_avx2": compare_table,
  "compare_before_forms": compare_table,
  "compare_quiet": compare_table,
  "step": step_table,
  "end_to_end": end_to_end_table,
  "plateau_64000": plateau_64000_table,
  "relu_tanh": study_tables.relu_tanh,
  "relu_tanh_50000": relu_tanh_50000_table,
  "released_source": released_source_table,
  "lrn_cifar10": lrn_cifar10_table,
  "dropout_imagenette224": overfitting_table,
  "augmentation_imagenette224": overfitting_table,
  "quickstart": quickstart.table,
  "starting": starting.table,
  "precision": precision_table,
  "fine_tuning": fine_tuning_table,
  "depth": study_tables.depth,
  "rates": lambda result: f"Rates: {rates.describe(result)}.",
  "ten_views": lambda result: f"Ten views: {ten_views.describe(result)}.",
  "figure3": study_tables.figure3,
  "figure3_imagenette224": figure3_imagenette224_table,
  "figure4": figure4_table,
  "figure4_imagenette224": figure4_table,
  "hand_made_features": hand_made_features.table,
}
