"""The table of claims: planted records of the study give known rows."""

import json
import math

from experiments import hand_made_features, study, verdicts


def plant(folder, stage, contrast, *, mean, p_value, verdict):
  values = {
    "claimed": -1.4,
    "difference": {
      "mean": mean,
      "low": mean - 0.5,
      "high": mean + 0.5,
      "p_value": p_value,
      "seeds": 5,
      "detectable": 1.25,
    },
    "equivalence_p_value": 0.5,
    "verdict": verdict,
  }
  record = {"result": {"contrasts": {contrast: values}}}
  (folder / f"{stage}.json").write_text(json.dumps(record))


def rows(folder, monkeypatch):
  monkeypatch.setattr(verdicts, "RESULTS", folder)
  lines = verdicts.table().partition("\n\n")[0].splitlines()[2:]
  cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  names = [*(row.contrast for row in verdicts.ROWS), "figure 3"]
  return dict(zip(names, cells, strict=True))


def test_a_planted_difference_is_shown_with_its_adjusted_verdict(
  tmp_path, monkeypatch
):
  crops, layers = "crops, test error", "a middle layer removed"
  plant(
    tmp_path, "augmentation", crops, mean=-3, p_value=1e-3, verdict="supported"
  )
  # Ten contrasts remain: .02 becomes .2, which supports nothing.
  plant(tmp_path, "depth", layers, mean=2, p_value=0.02, verdict="supported")
  half = "two towers minus half"
  plant(tmp_path, "two_towers", half, mean=0, p_value=1, verdict="undecided")
  found = rows(tmp_path, monkeypatch)
  assert found[crops][4:] == ["-3.0 points (-3.5 to -2.5)", "5", "supported"]
  assert found[layers][4:] == [
    "+2.0 points (+1.5 to +2.5)",
    "5",
    "undecided (supported before the adjustment)",
  ]
  assert found[half][6] == "undecided (1.2 points would have been found)"
  assert found["LRN, source's start"][4:] == ["", "", "registered, not run"]


def test_a_logarithm_is_shown_as_a_ratio(tmp_path, monkeypatch):
  name = "log of tanh's epochs over ReLU's, source weights"
  plant(
    tmp_path,
    "relu_tanh",
    name,
    mean=math.log(4),
    p_value=1e-6,
    verdict="supported",
  )
  ratio = rows(tmp_path, monkeypatch)[name][4]
  assert ratio == "4.00 times (2.43 to 6.59)"  # 4 times or over exp(.5)


def test_figure3_has_its_test_and_what_would_have_been_found(
  tmp_path, monkeypatch
):
  assert rows(tmp_path, monkeypatch)["figure 3"][4:] == [
    *("", "", "registered, not run")
  ]
  source = {
    "seeds": [0, 1],
    "apart": [0.25, 0.5],
    "null_mean": 0.125,
    "p_value": 0.25,
    "seen_share": 0.4,
  }
  training = {"run": "source", "seed": 0, "seconds": 1800}
  record = {"result": {"source": source}, "trainings": [training]}
  (tmp_path / "figure3.json").write_text(json.dumps(record))
  for stage in ("lrn", "pooling"):  # they share a training, not Figure 3's
    shared = json.dumps({"trainings": [training]})
    (tmp_path / f"{stage}.json").write_text(shared)
  found = rows(tmp_path, monkeypatch)["figure 3"]
  assert found[4:] == [
    "AUC of the colours 0.38 from .5; in random halves 0.12 (p = 0.25)",
    "2",
    "undecided (40% of the kernels dealt by colour would have been found)",
  ]
  assert "So far 2 trainings, which ran for 1.0 hours" in verdicts.table()
  source["p_value"] = 0.04
  (tmp_path / "figure3.json").write_text(json.dumps(record))
  assert rows(tmp_path, monkeypatch)["figure 3"][6] == "supported"


def test_every_row_is_a_contrast_and_every_primary_one_a_row():
  known = {
    (stage.name, contrast.name): contrast.primary
    for stage in study.STAGES
    for contrast in study.load(stage.name).contrasts
  }
  known["hand_made_features", hand_made_features.BEST.name] = False
  shown = {(row.stage, row.contrast) for row in verdicts.ROWS}
  assert shown <= known.keys()
  assert {name for name, primary in known.items() if primary} <= shown
