"""The paper's numbers: against its text, the released log and arithmetic."""

import json
import pathlib

import pytest

from alexnet_jax.analysis import claims, comparison
from alexnet_jax.analysis.comparison import NOT_RUN, Ours
from alexnet_jax.runtime import config as configs

PAPER = "configs/paper.py"


def by_key(ours=None):
  return {row["key"]: row for row in comparison.table(ours or {})}


def test_tables_1_and_2_as_printed():
  printed = {
    "table1.sparse_coding": ("47.1", "28.2"),
    "table1.sift_fv": ("45.7", "25.7"),
    "table1.cnn": ("37.5", "17.0"),
    "table2.1_cnn": ("40.7", "18.2"),
    "table2.5_cnns": ("38.1", "16.4"),
    "table2.1_cnn_star": ("39.0", "16.6"),
    "table2.7_cnns_star": ("36.7", "15.4"),
    "one_view": ("39.0", "18.3"),
    "imagenet2009.cnn": ("67.4", "40.9"),
    "imagenet2009.before": ("78.1", "60.9"),
  }
  rows = by_key()
  for key, (top1, top5) in printed.items():
    assert rows[f"{key}.top1"]["paper"] == top1
    assert rows[f"{key}.top5"]["paper"] == top5
  test_top5 = {"sift_fv": "26.2", "5_cnns": "16.4", "7_cnns_star": "15.3"}
  for key, top5 in test_top5.items():
    assert rows[f"table2.{key}.test.top5"]["paper"] == top5


@pytest.mark.parametrize(
  "key, logged, run",
  [
    ("table1.cnn.top1", "0.374727", "145-2010"),
    ("table1.cnn.top5", "0.169987", "145-2010"),
    ("one_view.top1", "0.390247", "145-2010, centre patch"),
    ("table2.1_cnn.top1", "0.406640", "145"),
    ("table2.1_cnn.top5", "0.182100", "145"),
    ("table2.1_cnn_star.top5", "0.166220", "146-2012-2011"),
    ("two_gpus.top1", "0.016953", "145-half - 145-2010"),
    ("lrn.top5", "0.011520", "148 - 145"),
    ("pooling.top1", "0.003940", "147 - 145"),
    ("depth.top1", None, ""),
  ],
)
def test_the_log_keeps_its_six_digits(key, logged, run):
  row = by_key()[key]
  assert (row["logged"], row["run"]) == (logged, run)


def test_the_log_rounds_to_what_is_printed():
  checked = 0
  for row in comparison.table({}):
    if row["logged"]:
      assert f"{100 * float(row['logged']):.1f}" == row["paper"], row["key"]
      checked += 1
  assert checked == 14


def test_what_is_not_run_says_so():
  row = by_key()["table2.1_cnn.top1"]
  assert (row["ours"], row["difference"]) == (NOT_RUN, NOT_RUN)
  assert comparison.format_row(row) == ("40.7%", "40.6640%", "not run", "")


def test_differences_are_in_points():
  row = by_key({"table2.1_cnn.top1": Ours(0.41, "x"), "lrn.top1": Ours(0, "y")})
  assert row["table2.1_cnn.top1"]["difference"] == pytest.approx(0.3)
  assert row["lrn.top1"]["difference"] == pytest.approx(-1.4)
  shown = comparison.format_row(row["table2.1_cnn.top1"])
  assert shown[2:] == ("41.0000%", "+0.30 points")


def test_sizes_are_the_arithmetic():
  sizes = comparison.sizes(configs.load(PAPER))
  conv1 = 11 * 11 * 3 * 96 + 96
  conv2 = 5 * 5 * 48 * 256 + 256
  conv3 = 3 * 3 * 256 * 384 + 384
  conv4 = 3 * 3 * 192 * 384 + 384
  conv5 = 3 * 3 * 192 * 256 + 256
  fc6, fc7, fc8 = 9217 * 4096, 4097 * 4096, 4097 * 1000
  total = conv1 + conv2 + conv3 + conv4 + conv5 + fc6 + fc7 + fc8
  assert sizes["size.parameters"] == total == 60_965_224
  assert sizes["size.neurons"] == 659_272
  assert sizes["size.neurons.conv1"] == 290_400  # the caption has 253,440
  assert sizes["size.crops"] == 33 * 33 * 2
  keys = {claim.key for claim in claims.CLAIMS}
  unanswered = {key for key in keys if key.startswith("size.")} - set(sizes)
  assert not unanswered


def test_all_settings_of_the_text_but_the_known_ones_are_ours():
  sizes = comparison.sizes(configs.load(PAPER))
  ours = {key: Ours(value, PAPER) for key, value in sizes.items()}
  other = {
    key
    for key, row in by_key(ours).items()
    if key.startswith("size.") and row["difference"]
  }
  rounded = {"size.parameters", "size.neurons"}
  assert other == rounded | {"size.neurons.conv1", "size.crops"}


def test_committed_results_answer_claims(tmp_path):
  record = {"claims": {"relu.speedup": {"value": 4.5, "how": "one seed"}}}
  pathlib.Path(tmp_path, "figure1.json").write_text(json.dumps(record))
  pathlib.Path(tmp_path, "other.json").write_text("{}")
  ours = comparison.committed(str(tmp_path))
  assert ours == {"relu.speedup": Ours(4.5, "figure1: one seed")}
  assert by_key(ours)["relu.speedup"]["difference"] == -1.5


def test_committed_claims_exist():
  keys = {claim.key for claim in claims.CLAIMS}
  assert len(keys) == len(claims.CLAIMS)
  assert comparison.committed().keys() <= keys


def test_a_run_is_known_by_its_network_and_training():
  config = configs.load(PAPER)
  config.seed, config.total_epochs = 5, 3
  run = configs.to_json(config)
  known = ["configs/quickstart.py", PAPER]
  assert comparison.name_of(run, known) == "paper"
  other_schedule = ["configs/cosine.py", *known]
  assert comparison.name_of(run, other_schedule) == "paper"
  run["augmentation"]["lighting"] = 0.0
  assert comparison.name_of(run, known) == ""
