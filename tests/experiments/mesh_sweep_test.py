"""The mesh sweep: its points, one measured point, tables and comparisons."""

import csv
import io
import json
import pathlib

import pytest

from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from experiments import mesh_sweep
from experiments.common import mesh_tables

ROOT = pathlib.Path(__file__).resolve().parents[2]


def measured(data, model, batch_size, speed):
  return {
    "place": "here",
    "data": data,
    "model": model,
    "devices": data * model,
    "batch_size": batch_size,
    "width": 1.0,
    "findings": [],
    "measured": {"images_per_second": speed},
  }


def estimated(data, model, slow, fast):
  row = measured(data, model, 64, 0.0) | {"place": "v5e:2x2"}
  del row["measured"]
  speeds = {"nothing_overlaps": slow, "all_overlaps": fast}
  return row | {"estimated": {"images_per_second": speeds}}


ROWS = [
  measured(2, 1, 64, 20.0),
  measured(1, 2, 64, 30.0),
  measured(1, 2, 32, 5.0),
  estimated(4, 1, 100.0, 200.0),
  estimated(2, 2, 150.0, 100.0),
]


def test_ratio_of_a_tower_a_device_to_both_towers_on_each():
  pairs = mesh_tables.where_it_pays(ROWS)
  assert [(p["place"], p["devices"], p["ratio"]) for p in pairs] == [
    ("here", 2, [1.5]),
    ("v5e:2x2", 4, [1.5, 0.5]),
  ]


def test_csv_has_separate_columns_for_measured_and_estimated():
  rows = list(csv.DictReader(io.StringIO(mesh_tables.to_csv(ROWS))))
  assert [row["measured_images_per_second"] for row in rows] == (
    ["20.0", "30.0", "5.0", "", ""]
  )
  assert [row["estimated_all_overlaps"] for row in rows] == (
    ["", "", "", "200.0", "100.0"]
  )


def test_lines_of_strong_and_of_weak_scaling():
  rows = [
    measured(1, 1, 64, 10.0),
    measured(2, 1, 64, 12.0),
    measured(1, 2, 64, 14.0),
    measured(2, 2, 64, 20.0),
    measured(1, 1, 32, 9.0),
  ]
  assert mesh_tables.scaling(rows, per_device=False) == {
    "64 images, both towers on each": [(1, [10.0]), (2, [12.0])],
    "64 images, a tower a device": [(2, [14.0]), (4, [20.0])],
  }
  assert mesh_tables.scaling(rows, per_device=True) == {
    "32 images a device, both towers on each": [(1, [9.0]), (2, [12.0])],
  }


def test_the_plot_is_drawn(tmp_path):
  mesh_tables.plot(ROWS, tmp_path / "plot.png")
  assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_point_is_parsed_from_its_name():
  for text in (*mesh_sweep.DEFAULT, *mesh_sweep.QUICK):
    assert mesh_sweep.parse_point(text).name == text
  with pytest.raises(UserError, match="is not a point"):
    mesh_sweep.parse_point("here/2/64")


def test_the_default_has_at_least_twelve_meshes_up_to_256_chips():
  points = [mesh_sweep.parse_point(text) for text in mesh_sweep.DEFAULT]
  meshes = {(p.place, p.data, p.model) for p in points}
  assert len(meshes) >= 12
  assert max(p.devices for p in points) == 256
  for point in points:
    assert point.batch_size % point.data == 0
    if point.place != "here":
      kind, sides = point.place.split(":")
      devices = 2 if kind == "v4" else 1  # v4 has two cores a chip
      for side in sides.split("x"):
        devices *= int(side)
      assert devices == point.devices


@pytest.mark.parametrize(
  ("folder", "meshes"), [("results", 12), ("results/mesh_sweep_gpus", 7)]
)
def test_docs_meshes_shows_the_committed_results(folder, meshes):
  results = ROOT / "experiments" / folder
  rows = json.loads((results / "mesh_sweep.json").read_text())["result"]
  points = rows["points"]
  text = (ROOT / "docs" / "meshes.md").read_text()
  for table in mesh_tables.to_markdown(points):
    assert table in text
  assert (results / "mesh_sweep.csv").read_text() == mesh_tables.to_csv(points)
  assert {p["findings"] == [] for p in points} == {True}
  assert len({(p["place"], p["data"], p["model"]) for p in points}) >= meshes
  for point in points:  # only gradients and metrics are summed over "data"
    assert "data_backward" not in point["totals"]["train"]
    assert ("measured" in point) == (point["place"] == "here")


@pytest.mark.slow
def test_a_point_on_this_machine_is_measured():
  config = configs.load("configs/quickstart.py")
  config.network.width = 1 / 16
  point = mesh_sweep.parse_point("here/1x2/4")
  row = mesh_sweep.run_point(point, config, repeats=2)
  assert row["findings"] == []
  seconds = row["measured"]["seconds"]
  assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
  speed = row["measured"]["images_per_second"]
  assert speed == pytest.approx(4 / seconds["median"])
  # Four images in float32, both towers: 13 x 13 x 16 numbers for conv3, 576
  # for fc6, 256 for fc7 and 10 for fc8.
  assert row["totals"]["train"]["model_forward"] == 4 * 4 * (576 + 410)
