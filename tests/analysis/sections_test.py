"""Sections of the report, made from small invented runs."""

import json
import math
import re

import pytest

from alexnet_jax.analysis import sections
from alexnet_jax.runtime import config as configs
from alexnet_jax.training.runs import Run

CONFIG = configs.to_json(configs.load("configs/quickstart.py"))
LINES = [
  {
    "split": "train",
    "step": 1,
    "epoch": 0.5,
    "loss": 2.5,
    "images_per_second": 0.0,
    "seconds": 6.0,
  },
  {
    "split": "train",
    "step": 2,
    "epoch": 1.0,
    "loss": 2.25,
    "images_per_second": 100.0,
    "dead_fc7": 0.25,
    "seconds": 60.0,
  },
  {
    "split": "validation",
    "step": 2,
    "epoch": 1.0,
    "loss": 2.0,
    "top1_error": 0.75,
    "top5_error": 0.25,
    "seconds": 90.0,
  },
]


def make_run(name="runs/a", lines=LINES, config=CONFIG):
  return Run(name, config, lines, net=None, metadata={}, mesh=None)


def cells(html):
  return re.findall(r"<td>(.*?)</td>", html)


def test_charts_of_losses_errors_and_diagnostics():
  html = sections.curves([make_run()])
  titles = re.findall(r"<figcaption>(.*?)</figcaption>", html)
  assert titles == [
    *("loss", "top-1 error (%)", "top-5 error (%)"),
    *("images per second", "dead fc7 (%)"),
  ]
  data = [json.loads(text) for text in re.findall(r"json\">(.*?)</sc", html)]
  train, validation, guessing = data[0]["series"]
  assert (train["name"], train["y"]) == ("train", [2.5, 2.25])
  assert (validation["name"], validation["y"]) == ("validation", [2.0])
  assert data[1]["series"][0]["y"] == [75.0]
  assert guessing["y"] == pytest.approx([math.log(10)] * 2)
  assert data[1]["series"][1]["y"] == [90.0, 90.0]
  # The first line has no speed yet.
  (speed,) = data[3]["series"]
  assert (speed["x"], speed["y"]) == ([1.0], [100.0])
  assert html.index("<details>") < html.index("dead fc7")


def test_differences_lists_the_changed_keys_only():
  paper = configs.to_json(configs.load(sections.PAPER))
  changed = paper | {"seed": 7, "optimizer": paper["optimizer"] | {"new": 1}}
  html = sections.differences([make_run(config=changed)])
  assert cells(html) == [
    *("seed", json.dumps(paper["seed"]), "7"),
    *("optimizer.new", "absent", "1"),
  ]


def test_two_runs_share_charts_and_are_told_apart_by_colour():
  runs = [make_run("runs/a"), make_run("runs/b")]
  html = sections.curves(runs)
  data = [json.loads(text) for text in re.findall(r"json\">(.*?)</sc", html)]
  series = [(x["name"], x["colour"], x["dashed"]) for x in data[0]["series"]]
  assert series == [
    ("a train", "var(--c0)", True),
    ("a validation", "var(--c0)", False),
    ("b train", "var(--c1)", True),
    ("b validation", "var(--c1)", False),
    ("guessing", "var(--faint)", True),
  ]
  (keys, *_) = re.findall(r"<tr>.*?</tr>", sections.differences(runs))
  assert re.findall(r"<th>(.*?)</th>", keys) == [
    "key",
    "configs/paper.py",
    "a",
    "b",
  ]


@pytest.mark.parametrize(
  "dataset, folded",
  [("patterns/10", True), ("imagenet2012", False), ("imagenet2012_256", False)],
)
def test_the_papers_results_are_folded_for_runs_on_other_images(
  dataset, folded
):
  html = sections.paper_tables([make_run(config=CONFIG | {"dataset": dataset})])
  assert html.startswith("<details><summary>The paper") == folded
  assert "40.7%" in html and "40.6640%" not in html
