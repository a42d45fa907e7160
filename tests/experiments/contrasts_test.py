"""Contrasts on outcomes made by hand, against numbers of statsmodels."""

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.common import contrasts
from experiments.common.contrasts import Contrast, difference
from experiments.common.evaluations import Evaluation
from experiments.common.outcome import DIVERGED, Outcome, Outcomes

# Percent; the seeds are paired, as in statistics_test.py.
TREATMENT = (23.4, 22.9, 24.1, 23.0, 23.7)
BASE = (22.7, 22.8, 22.9, 22.1, 22.6)
IMAGES = 1000


@pytest.fixture
def outcomes(monkeypatch, tmp_path):
  """Returns outcomes with these test errors; training errors are 10 less."""
  stored = {}

  def evaluation(outcome, split):
    percent = stored[outcome.name, outcome.seed] - 10 * (split == "train")
    wrong = np.arange(IMAGES) < round(percent * IMAGES / 100)
    labels = np.zeros(IMAGES, np.uint8)
    return Evaluation(1, 0.0, labels, wrong.astype(np.uint8))

  monkeypatch.setattr(Outcome, "evaluation", evaluation)

  def make(**arms):
    found = Outcomes()
    for name, errors in arms.items():
      for seed, percent in enumerate(errors):
        workdir = tmp_path / f"{name}-{seed}"
        workdir.mkdir(exist_ok=True)
        config = {"num_classes": 10}
        outcome = Outcome(name, seed, str(workdir), config, [])
        found.setdefault(name, []).append(outcome)
        stored[name, seed] = percent
    return found

  return make


LESS = Contrast("less", difference("a", "b"), -1.4, 0.5)


def test_a_contrast_pairs_its_arms_by_seed(outcomes):
  found = contrasts.compare([LESS], outcomes(a=TREATMENT, b=BASE))["less"]
  assert found["by_seed"] == pytest.approx(
    {0: 0.7, 1: 0.1, 2: 1.2, 3: 0.9, 4: 1.1}
  )
  # DescrStatsW and ttost_paired of statsmodels 0.15.0.
  d = found["difference"]
  assert (d["low"], d["mean"], d["high"]) == pytest.approx(
    (0.25877121, 0.8, 1.34122879), rel=1e-6
  )
  assert found["equivalence_p_value"] == pytest.approx(0.90067785, rel=1e-6)
  assert found["verdict"] == "contradicted"
  # The first seed: 7 of 1,000 images changed.
  low, high = found["image_intervals"][0]
  assert low == pytest.approx(0.2, abs=0.15)
  assert high == pytest.approx(1.2, abs=0.15)


def test_swapped_seeds_change_the_interval_but_not_the_mean(outcomes):
  swapped = (TREATMENT[2], TREATMENT[1], TREATMENT[0], *TREATMENT[3:])
  plain = contrasts.compare([LESS], outcomes(a=TREATMENT, b=BASE))["less"]
  other = contrasts.compare([LESS], outcomes(a=swapped, b=BASE))["less"]
  assert other["difference"]["mean"] == pytest.approx(0.8)
  assert other["difference"]["deviation"] > plain["difference"]["deviation"]


def test_an_interaction_is_a_difference_of_differences(outcomes):
  weights = {"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}
  contrast = Contrast("interaction", weights, None, 0.5)
  arms = outcomes(a=TREATMENT, b=BASE, c=(30.0,) * 5, d=(29.0,) * 5)
  found = contrasts.compare([contrast], arms)["interaction"]
  assert found["difference"]["mean"] == pytest.approx(0.8 - 1.0)
  assert "verdict" not in found


def test_other_measures(outcomes):
  arms = outcomes(a=TREATMENT, b=BASE)
  gap = Contrast(
    "gap", difference("a", "b"), 1.0, 0.5, contrasts.generalisation_gap
  )
  found = contrasts.compare([gap], arms)["gap"]
  assert found["by_seed"] == pytest.approx(dict.fromkeys(range(5), 0.0))
  assert "image_intervals" not in found


def test_p_values_are_adjusted_over_the_contrasts(outcomes):
  arms = outcomes(a=TREATMENT, b=BASE, c=(30.0, 30.1, 30.0, 29.9, 30.0))
  other = Contrast("other", difference("c", "b"), 5.0, 0.5)
  found = contrasts.compare([LESS, other], arms)
  p = {name: values["difference"]["p_value"] for name, values in found.items()}
  adjusted = {name: v["adjusted_p_value"] for name, v in found.items()}
  assert adjusted["other"] == pytest.approx(2 * p["other"])
  assert adjusted["less"] == pytest.approx(p["less"])  # the larger of two


def test_a_diverged_run_counts_as_guessing_and_is_reported(outcomes):
  arms = outcomes(a=TREATMENT, b=BASE)
  diverged = arms["a"][3]
  file = f"{diverged.workdir}/{DIVERGED}"
  with open(file, "w") as f:
    json.dump({"message": "the loss is nan"}, f)
  found = contrasts.compare([LESS], arms)["less"]
  assert found["by_seed"][3] == pytest.approx(90 - 22.1)
  assert found["deaths"] == {"a": 1, "b": 0}
  assert found["survivors"]["difference"]["seeds"] == 4
  assert found["survivors"]["difference"]["mean"] == pytest.approx(3.1 / 4)
  assert found["image_intervals"][3] is None


def test_a_network_at_chance_on_its_training_images_is_dead(outcomes):
  # Of ten classes: 85% is one and a half times as good as guessing.
  (alive, dead) = outcomes(a=(94.9, 95.1))["a"]  # 10 more than in training
  assert not alive.died and dead.died


def test_one_seed_has_no_interval_and_a_missing_arm_no_contrast(outcomes):
  found = contrasts.compare([LESS], outcomes(a=(23.0,), b=(22.0,)))
  assert found["less"]["by_seed"] == pytest.approx({0: 1.0})
  assert "difference" not in found["less"]
  assert contrasts.describe(found) == "less: one seed, no interval"
  assert contrasts.compare([LESS], outcomes(a=TREATMENT)) == {}


def test_words_and_figure(outcomes):
  found = contrasts.compare([LESS], outcomes(a=TREATMENT, b=BASE))
  assert contrasts.describe(found) == (
    "less: +0.8 points (+0.3 to +1.3, 5 seeds), paper -1.4: contradicted"
  )
  nats = LESS._replace(claimed=math.log(6), unit="nats")
  found["nats"] = contrasts.compare([nats], outcomes(a=TREATMENT, b=BASE))[
    "less"
  ]
  assert contrasts.describe(found).endswith(
    "; nats: +0.80 nats (+0.26 to +1.34, 5 seeds), paper +1.79: supported"
  )
  figure = Figure()
  axes = figure.subplots()
  contrasts.draw(found, axes)
  assert axes.get_xlabel().startswith("points or nats\n")
  dots = axes.lines[0].get_xdata()
  assert sorted(dots) == pytest.approx([0.1, 0.7, 0.9, 1.1, 1.2])
  assert axes.lines[1].get_xdata() == pytest.approx(
    [0.25877, 1.34123], abs=1e-4
  )


def simulated_verdicts(outcomes, effect, studies=1000, seeds=5):
  """p-values of many studies of two arms whose true difference is known."""
  random = np.random.default_rng(3)
  contrast = Contrast(
    "x", difference("a", "b"), 1.0, 0.5, lambda outcome: outcome.lines[0]
  )
  for _ in range(studies):
    level = random.normal(40, 3, seeds)  # common to both arms of a seed
    arms = Outcomes(
      {
        name: [
          Outcome(name, seed, "", {"num_classes": 10}, [level[seed] + value])
          for seed, value in enumerate(random.normal(mean, 0.5, seeds))
        ]
        for name, mean in (("a", effect), ("b", 0.0))
      }
    )
    yield contrasts.compare([contrast], arms)["x"]


def test_a_planted_difference_is_found_and_a_null_is_not(outcomes, monkeypatch):
  monkeypatch.setattr(Outcome, "died", False)
  nulls = [
    v["difference"]["p_value"] < 0.05 for v in simulated_verdicts(outcomes, 0.0)
  ]
  assert sum(nulls) <= 70  # 50 expected, three standard errors of 7
  planted = [
    v["verdict"] == "supported"
    for v in simulated_verdicts(outcomes, 2.0, studies=100)
  ]
  assert sum(planted) >= 95  # unpaired, the levels' spread of 3 would hide it
