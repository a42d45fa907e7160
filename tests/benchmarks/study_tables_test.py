"""Tests of benchmarks/study_tables.py."""

from benchmarks import study_tables


def test_a_record_with_contrasts_has_a_table_of_them():
  difference = {
    **{"mean": -1.234, "low": -2.0, "high": -0.5},
    **{"seeds": 5, "detectable": 1.1},
  }
  found = {
    "claimed": -1.4,
    "deaths": {"a": 1, "b": 0},
    "difference": difference,
    "adjusted_p_value": 0.0123,
    "verdict": "supported",
  }
  clear = found | {"adjusted_p_value": 3e-6, "claimed": None}
  one_seed = {"claimed": None, "deaths": {"a": 0, "b": 0}}
  result = {"contrasts": {"LRN": found, "x": clear, "other": one_seed}}
  *_, first, x, second = study_tables.contrasts(result).splitlines()
  assert first == (
    "| LRN | -1.4 | -1.23 | -2.00 to -0.50 | 5 | 0.012 | supported | 1.10 | 1 |"
  )
  assert x.startswith("| x |  | -1.23 |") and "| 5 | below 0.001 |" in x
  assert second.startswith("| other |") and second.endswith("| 0 |")


def contrasts():
  return {"x": {"claimed": None, "deaths": {"a": 0}}}


def test_each_removed_layer_has_the_difference_at_its_own_rate():
  difference = {
    **{"mean": 0.31, "low": -1.74, "high": 2.35},
    **{"seeds": 3, "detectable": 2.6},
  }
  result = {
    "contrasts": contrasts(),
    "tuned": {"no_conv2": {"rate": 0.5, "difference": difference}},
  }
  assert study_tables.depth(result).splitlines()[-1] == (
    "| conv2 | 0.5 times the base's | +0.31 | -1.74 to +2.35 | 3 | 2.60 |"
  )


def test_each_seed_has_its_epochs_to_each_bound():
  epochs = [
    {"40%": 8.04, "30%": 19.0, "25%": 25.5, "20%": None},
    {"40%": 8.16, "30%": 20.0, "25%": 26.5, "20%": 40.0},
  ]
  chosen = {"learning_rate": 0.016, "epochs": epochs, "at_an_edge": True}
  inside = chosen | {"learning_rate": 0.004, "at_an_edge": False}
  result = {
    "contrasts": contrasts(),
    "chosen": {"relu-source": inside, "tanh-glorot": chosen},
  }
  *_, first, second = study_tables.relu_tanh(result).splitlines()
  assert first.startswith("| relu, cuda-convnet's | 0.004 | 8.0, 8.2 |")
  assert second == (
    "| tanh, Glorot's | 0.016, the end of the range | 8.0, 8.2 | 19.0, 20.0 |"
    " 25.5, 26.5 | never, 40.0 |"
  )


def test_figure3_has_its_tests_and_every_network():
  towers = {
    "seeds": [0, 1],
    "means": [[0.25, 0.5], [0.5, 0.375]],
    "noise_share": [0.125, 0.5],
    "auc": [0.75, 0.375],
    "apart": [0.25, 0.125],
    "null_mean": 0.0625,
    "p_value": 0.0123,
    "seen_share": 0.4,
  }
  dense = {"seeds": [0], "means": [[0.5]], "noise_share": [0.25]}
  none = towers | {"seen_share": None}
  result = {"source": towers, "apart": none, "dense": dense}
  tests, networks = study_tables.figure3(result).split("\n\n")
  assert tests.splitlines()[2:] == [
    "| source | 0.188 | 0.062 | 0.012 | 40% of the kernels |",
    "| apart | 0.188 | 0.062 | 0.012 | not even all kernels |",
  ]
  first, second, *_, last = networks.splitlines()[2:]
  assert first == "| source | 0 | 0.25, 0.50 | 0.75 | 12% |"
  assert second == "| source | 1 | 0.50, 0.38 | 0.38 | 50% |"
  assert last == "| dense | 0 | 0.50 |  | 25% |"
