"""Sections of the report, made from small invented runs."""

import json
import re

import pytest

from alexnet_jax.analysis import sections
from alexnet_jax.analysis.figures import Specialisation
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
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


def test_summary_of_a_run_and_of_a_run_without_lines():
  run = make_run()._replace(net=object(), checkpoint="best", step=1200)
  html = sections.summary([run, make_run("runs/new", lines=[])])
  dataset = CONFIG["dataset"]
  assert cells(html) == [
    *(
      "runs/a",
      dataset,
      "1",
      "75.00%",
      "25.00%",
      "1.5",
      "100",
      "best, step 1,200",
    ),
    *("runs/new", dataset, "-", "-", "-", "-", "-", "-"),
  ]


def test_charts_of_losses_errors_and_diagnostics():
  html = sections.curves([make_run()])
  titles = re.findall(r"<figcaption>(.*?)</figcaption>", html)
  assert titles == [
    *("loss", "top-1 error (%)", "top-5 error (%)"),
    *("images per second", "dead fc7"),
  ]
  data = [json.loads(text) for text in re.findall(r"json\">(.*?)</sc", html)]
  train, validation = data[0]["series"]
  assert (train["name"], train["y"]) == ("train", [2.5, 2.25])
  assert (validation["name"], validation["y"]) == ("validation", [2.0])
  assert data[1]["series"][0]["y"] == [75.0]
  # The first line has no speed yet.
  assert data[3]["series"] == [{"name": "train", "x": [1.0], "y": [100.0]}]
  assert html.index("<details>") < html.index("dead fc7")


def test_differences_lists_the_changed_keys_only():
  paper = configs.to_json(configs.load(sections.PAPER))
  changed = paper | {"seed": 7, "optimizer": paper["optimizer"] | {"new": 1}}
  html = sections.differences([make_run(config=changed)])
  assert cells(html) == [
    *("seed", json.dumps(paper["seed"]), "7"),
    *("optimizer.new", "&quot;absent&quot;", "1"),
  ]


@pytest.mark.parametrize("section", [sections.figure3, sections.figure4])
def test_a_run_without_a_checkpoint_has_a_reason_instead(section):
  arguments = () if section is sections.figure3 else (0, "")
  with pytest.raises(UserError, match="no checkpoint"):
    section(make_run(), *arguments)
  parts = sections._section(
    "Title", lambda run: section(run, *arguments), make_run()
  )
  assert parts[0] == "<h2>Title</h2>" and "no checkpoint" in parts[1]


def test_the_comparison_of_towers_says_what_was_measured():
  text = sections.specialisation_text(
    Specialisation((0.5, 0.4), 0, 0.2, 12, 0.15)
  )
  assert text.startswith("No difference between the towers found: 0.500 and")
  assert "p = 0.2000" in text
  assert "12 kernels" in text and "0.150 is found in 80%" in text
  text = sections.specialisation_text(
    Specialisation((0.2, 0.6), 1, 0.001, 12, 0.1)
  )
  assert text.startswith("Tower 1 is more coloured")


@pytest.mark.parametrize(
  "dataset, folded",
  [("patterns/10", True), ("imagenet2012", False), ("imagenet2012_256", False)],
)
def test_the_papers_results_are_folded_for_runs_on_other_images(
  dataset, folded
):
  html = sections.paper_tables([make_run(config=CONFIG | {"dataset": dataset})])
  assert html.startswith("<details><summary>The paper") == folded
  assert "40.7%" in html and "40.6640%" in html
