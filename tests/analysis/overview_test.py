"""The first section of a report, of invented runs."""

import json
import re

import pytest
from sample_data import write_checkpoint_metadata

from alexnet_jax.analysis import overview
from alexnet_jax.runtime import config as configs
from alexnet_jax.training.runs import Run

CONFIG = configs.to_json(configs.load("configs/quickstart.py"))


def evaluation(epoch, top1):
  line = {"split": "validation", "step": 10 * epoch, "epoch": epoch}
  line |= {"top1_error": top1, "top5_error": top1 / 8, "loss": 0.5}
  return line | {"num_examples": 1000, "seconds": 60.0 * epoch}


def train_line(epoch, **changes):
  line = {"split": "train", "step": 10 * epoch, "epoch": epoch, "loss": 0.5}
  line |= {"top1_error": 0.2, "learning_rate": 0.01, "seconds": 60.0 * epoch}
  return line | {"images_per_second": 100.0, "data_wait_fraction": 0} | changes


def make_run(folder, lines, step=0, **config):
  """A run; with a step, it has that checkpoint."""
  net = object() if step else None
  return Run(str(folder), CONFIG | config, lines, net, {}, mesh=None, step=step)


def save(folder, lines, **config):
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(CONFIG | config))
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)


def text_of(html):
  return re.sub(r"<[^>]*>", " ", html)


def rows(html):
  """The cells of the table of errors, as text."""
  table = html[html.index("<tbody>") : html.index("</tbody>")]
  return [
    [" ".join(text_of(cell).split()) for cell in row.split("<td>")[1:]]
    for row in table.split("<tr>")[1:]
  ]


def test_the_error_is_compared_with_what_helps_to_judge_it(tmp_path):
  save(tmp_path / "older", [evaluation(5, 0.5)], seed=3)
  save(tmp_path / "other_images", [evaluation(5, 0.4)], dataset="cifar10")
  save(tmp_path / "no_evaluation", [])
  (tmp_path / "damaged").mkdir()
  (tmp_path / "damaged" / "config.json").write_text("{")
  (tmp_path / "damaged" / "metrics.jsonl").write_text("")
  errors = (0.4, 0.16, 0.24)
  lines = [evaluation(i, error) for i, error in enumerate(errors, 3)]
  html = overview.overview(make_run(tmp_path / "own", lines, step=50))
  assert rows(html) == [
    ["this checkpoint epoch 5", "24.0%", "3.0%"],
    ["evaluation before epoch 4", "16.0%", "2.0%"],
    ["best evaluation epoch 4", "16.0%", "2.0%"],
    ["guessing 10 classes of equal size", "90.0%", "50.0%"],
    ["run older same images; seed 3", "50.0%", "6.2%"],
  ]
  headline = text_of(html[html.index("headline") :])
  assert "24.0% validation top-1 error 95% interval 21.5% to 26.7%" in (
    " ".join(headline.split())
  )


def test_a_run_of_the_papers_network_is_compared_with_the_paper():
  paper = configs.to_json(configs.load("configs/original2012.py"))
  run = make_run("runs/x", [evaluation(5, 0.5)], step=50, **paper)
  found = [row for row in rows(overview.overview(run)) if "paper" in row[0]]
  assert [row[0] for row in found if row[1:] == ["40.7%", "18.2%"]] == [
    "the paper Table 2, 1 CNN, ILSVRC-2012 validation; 10 views"
  ]


def test_the_next_steps_are_those_of_this_run(tmp_path):
  def advice(lines, **options):
    html = overview.overview(make_run(tmp_path / "run", lines, **options))
    return " ".join(text_of(html[html.index("What next") :]).split())

  assert "Wait for the first checkpoint" in advice([train_line(1)])
  assert "run the training command again" in advice([train_line(1)], step=10)
  done = [train_line(5), evaluation(4, 0.2), evaluation(5, 0.19)]
  command = f"alexnet_jax.predict --workdir={tmp_path}/run PICTURE"
  assert command in advice(done, step=50)
  assert "Train longer" not in advice(done, step=50)
  done[2] = evaluation(5, 0.05)  # clearly better than before
  assert "Train longer" in advice(done, step=50)
  done[2] = evaluation(5, 0.4)
  assert "--checkpoint=best" in advice(done, step=50)
  ill = [train_line(5, loss=None), evaluation(5, 0.9)]
  assert "Correct what is marked" in advice(ill, step=50)


def test_why_the_last_attempt_ended_is_said(tmp_path):
  status = {"state": "failed", "step": 12, "message": "the disk <is> full"}
  status |= {"host": "here", "pid": 1, "time": "2026-01-01 00:00:00 +0000"}
  (tmp_path / "status.json").write_text(json.dumps(status))
  html = overview.overview(make_run(tmp_path, [train_line(1)]))
  assert "ended at step 12: the disk &lt;is&gt; full" in html


def test_a_run_that_ended_early_is_complete(tmp_path):
  state = {"best_error": 0.5, "waited": 2}
  lines = [train_line(1), evaluation(1, 0.5)]
  write_checkpoint_metadata(
    tmp_path, 10, config={"seed": 0}, early_stopping=state
  )
  html = overview.overview(make_run(tmp_path, lines, step=10, early_stopping=2))
  assert "Finished at epoch 1: early stopping: 2 evaluations" in html
  assert "Resume it" not in html
  html = overview.overview(make_run(tmp_path, lines, step=10, early_stopping=3))
  assert "early stopping" not in html and "Resume it" in html


@pytest.mark.parametrize("step", [0, 50])
def test_a_run_without_an_evaluation_has_an_overview(step):
  html = overview.overview(make_run("runs/new", [], step=step))
  assert "has not been evaluated yet" in html
  assert "Nothing has been logged yet" in html
