"""A run on disk: its images."""

from sample_data import write_tiny

from alexnet_jax.data import sources
from alexnet_jax.training import runs


def test_a_run_trains_on_the_examples_not_held_out(tmp_path):
  config = {
    "dataset": "tiny",
    "data_dir": write_tiny(tmp_path),
    "splits": {"train": "train"},
    "holdout": 12,
    "seed": 7,
    "random_streams": "shared",
  }
  train = sources.open_split("tiny", "train", config["data_dir"])
  rest, _ = sources.hold_out(train, 12, 7)
  found = runs.open_split(config, "train")
  assert [found[i] for i in range(len(found))] == [rest[i] for i in range(28)]
  assert found.fingerprint == rest.fingerprint
