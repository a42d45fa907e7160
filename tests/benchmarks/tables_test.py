"""The tables of the results are arithmetic on the records."""

from benchmarks import tables


def test_a_table_is_arithmetic_on_its_rows():
  rows = [
    {"name": "decode_all_cores", "images_per_second": 4000.0},
    {"name": "alexnet_jax", "images_per_second": 3000.0},
  ]
  text = tables.loaders_table({"rows": rows})
  assert "| this pipeline | 3,000 | 75% |" in text
  row = {
    "quality": 95,
    "subsampling": "444",
    "cores": 2,
    "images_per_second": 1_331_167 / 7200,  # all of ILSVRC-2012 in two hours
    "cores_used": 1.8,
    "cores_wanted": 1.95,
    "peak_memory_mb": 300.4,
    "bytes_per_image": 40_000.0,
  }
  result = {"rows": [row], "kills": 5, "same_bytes_after_kills": True}
  text = tables.prepare_table(result)
  assert (
    "| 95, 4:4:4 | 2 | 185 | 1.80, 1.95 | 300 MB | 40.0 kB | 53 GB, 2.0 h |"
    in text
  )
  assert "After 5 kills at random: the same to the byte." in text


def test_the_table_of_lists_shows_seconds_and_megabytes():
  row = {
    "layout": "folder",
    "classes": 22_000,
    "images": 1_331_000,
    "seconds": 14.4,
    "cpu_seconds": 11.26,
    "bytes": 66e6,
  }
  line = "| class folders | 22,000 | 1,331,000 | 14.4 | 11.3 | 66 MB |"
  assert line in tables.listing_table([row])


def test_a_run_that_did_not_learn_shows_the_images_it_saw():
  run = {
    "seed": 4,
    "first_loss": 2.5,
    "mean_loss_of_each_100_steps": [2.25, 2.125],
    "spread_of_scores_at_step": {"0": 0.05, "100": 0.5, "164": 0.75},
    "images_until_learning": None,
    "images_seen": 10496,
  }
  text = tables.start_table({"recipes": {"paper": [run]}})
  assert text.endswith(
    "| paper | 4 | 2.500 | 2.250, 2.125 | 0.0500; 0.500 (100), 0.750 (164) |"
    " more than 10,496 |"
  )


def test_tables_of_the_step_and_end_to_end():
  def row(name, rate, **does):
    ms = {"min": 1.0, "median": 1234.5, "max": 2000.0}
    row = {"name": name, "images_per_second": rate, "ms": ms}
    return row | does

  rows = [
    row("train", 57.25, flops_per_second=150e9),
    row("matmul_peak", 0.0, flops_per_second=200e9),
    row("memory_copy", 0.0, bytes_per_second=12.34e9),
  ]
  result = {
    "rows": rows,
    "share_of_peak": {"train": 0.75},
    "share_of_roofline": 0.8,
    "bytes_accessed": 3.14e9,
    "memory_bytes": {"arguments": 5e8, "temporaries": 12.5e8},
  }
  assert tables.step_table(result).splitlines()[2:] == [
    "| train | 57.2 | 1, 1234, 2000 | 150 GFLOP/s | 75% |",
    "| matmul_peak |  | 1, 1234, 2000 | 200 GFLOP/s | 100% |",
    "| memory_copy |  | 1, 1234, 2000 | 12.3 GB/s |  |",
    "",
    "According to the compiler, a training step moves 3.1 GB on a device and"
    " needs 0.50 GB for arguments and 1.25 GB for temporaries. It runs at 80%"
    " of the roofline.",
  ]
  result = {"rows": rows, "waited": 0.02, "limited_by": "step"}
  for share, verdict in ((0.96, "at least"), (0.94, "below")):
    text = tables.end_to_end_table(result | {"share_of_step": share})
    assert text.endswith(
      f"{share:.1%} of the rate of the step alone, {verdict} the target of 95%;"
      " 2.0% of the time is spent waiting for images. The bottleneck: step."
    )


def test_runs_that_did_not_leave_the_plateau():
  cell = {
    "images_to_leave": [None, 12_800, None],
    "images_trained": [64_000, 12_800, 64_000],
    "last_loss": [6.9, 6.5, 6.8],
    "first_score_spread": [0.003, 0.004, 0.005],
    "first_fc7_correlation": [],
  }
  assert tables.plateau_64000_table({"text": cell}).splitlines()[-1] == (
    "| `text` | 1 of 3 | not in 64,000, 12,800, not in 64,000 |"
    " 6.900, 6.500, 6.800 | 0.0030, 0.0040, 0.0050 | not measured |"
  )


def test_a_bound_not_reached_has_no_mean_and_no_ratio():
  result = {
    "chosen": {
      "relu": {
        "learning_rate": 0.001,
        "epochs_to_25_percent": [6.04, 5.96],
        "mean": 6.0,
      },
      "tanh": {
        "learning_rate": 0.01,
        "epochs_to_25_percent": [None, 30.0],
        "mean": None,
      },
    },
    "ratio_to_relu": {"relu": 1.0},
  }
  assert tables.relu_tanh_50000_table(result).splitlines()[2:] == [
    "| relu | 0.001 | 6.0, 6.0 | 6.0 | 1.0 |",
    "| tanh | 0.01 | not reached, 30.0 |  |  |",
  ]


def test_errors_of_recipes_are_percentages():
  def mean(value):
    return {"mean": value, "each": [value]}

  run = {
    "validation_top1_error": mean(0.5),
    "validation_top5_error": mean(0.125),
    "train_top1_error": mean(0.375),
  }
  result = {
    "runs": {"paper": run},
    "images_to_leave_the_plateau": {"paper": [12_800, None]},
  }
  assert tables.released_source_table(result).splitlines()[-1] == (
    "| `paper` | 12,800, never | 50.0%, 12.5% | 37.5% |"
  )


def test_overfitting_shows_the_gap_between_the_splits():
  result = {
    "runs": {"paper": {"seeds": [0, 1]}},
    "errors": {"paper": {"train": [0.25, 0.5], "validation": [0.5, 0.625]}},
  }
  assert tables.overfitting_table(result).splitlines()[-2:] == [
    "| `paper` | 0 | 25.0% | 50.0% | 25.0% |",
    "| `paper` | 1 | 50.0% | 62.5% | 12.5% |",
  ]
  result["iterations_ratios"] = [1.5, None]
  result["dead_by_step"] = {"paper": [None, None], "same_rate": [100, None]}
  cost, _, dead = tables.overfitting_table(result).splitlines()[-3:]
  assert "with dropout 1.5, never times the iterations" in cost
  assert dead == "`same_rate`: all units of fc7 dead by step 100, never."


def test_fine_tuning_shows_errors_and_minutes():
  errors = {
    "validation_top1_error": {"mean": 0.25},
    "train_top1_error": {"mean": 0.125},
  }
  result = {"runs": {"frozen": errors}, "minutes": {"frozen": [1.0, 2.0]}}
  assert tables.fine_tuning_table(result).splitlines()[-1] == (
    "| `frozen` | 25.0% | 12.5% | 1.5 |"
  )


def test_cifar_table_shows_the_epochs():
  result = {
    "runs": {
      "13pct": {
        "validation_top1_error": {"mean": 0.25},
        "train_top1_error": {"mean": 0.375},
      }
    },
    "epochs": {"13pct": 4},
  }
  assert tables.lrn_cifar10_table(result).splitlines()[-1] == (
    "| `13pct` | 4 | 25.0% | 37.5% |"
  )


def test_figure3_imagenette224_table_shows_each_seed():
  seeds = [
    {"seed": 0, "means": [0.5, 0.25], "p_value": 0.004, "appears": True},
    {"seed": 1, "means": [0.375, 0.5], "p_value": 0.75, "appears": False},
  ]
  result = {"seeds": seeds, "appears_in": 1, "coloured_tower": [0]}
  lines = tables.figure3_imagenette224_table(result).splitlines()
  assert lines[2:4] == [
    "| 0 | 0.500 | 0.250 | 0.004 |",
    "| 1 | 0.375 | 0.500 | 0.75 |",
  ]
  assert lines[-1].endswith("in 1 of 2 seeds; coloured tower: 0.")


def test_precision_table_has_five_points_of_each_curve():
  losses = [float(i) for i in range(15)]  # one of every 20 steps
  result = {
    "losses": {"float32": [losses]},
    "precisions_apart": [0.25],
    "seeds_apart": [],
  }
  lines = tables.precision_table(result).splitlines()
  assert lines[0].endswith("| 60 | 120 | 180 | 240 | 300 |")
  places = "2.000 | 5.000 | 8.000 | 11.000 | 14.000"
  assert lines[2] == f"| float32, seed 0 | {places} |"
