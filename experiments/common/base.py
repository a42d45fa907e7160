"""The run that the study's contrasts start from: the source's recipe.

The network and the initial weights of the authors' net #145, with what their
runs without manual changes of the rate had (`dexp`, lighting noise off in the
last quarter), and crops and flips of each image by itself. docs/study.md says
why.
"""

from collections.abc import Mapping
from typing import Any

from experiments.common.experiment import Run

EPOCHS = 90
RECIPE = {
  "total_epochs": EPOCHS,
  "schedule.name": "dexp",
  "schedule.learning_rate": 0.01,
  "schedule.bias_learning_rate": 0.02,
  "schedule.bias_drops": "once",
  "schedule.conv1_frozen_from": 0.0,
  "augmentation.shared_by": 1,
  "augmentation.lighting_until": 0.75 * EPOCHS,
}


def source(
  name: str,
  overrides: Mapping[str, Any] | None = None,
  *,
  config: str = "configs/original2012.py",
  rate: float = 1.0,
  length: float = 1.0,
  fixed: Mapping[str, Any] | None = None,
) -> Run:
  """A run of the source's recipe with some changes.

  Args:
    name: of the run. Experiments that share a folder share the run "source".
    overrides: the changes.
    config: the configuration, of the 2012 source's recipe.
    rate, length, fixed: as in `Run`.
  """
  recipe = {**RECIPE, **(overrides or {})}
  return Run(name, config, recipe, rate, length, fixed=fixed or {})


SOURCE = source("source")
